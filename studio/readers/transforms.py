"""``transforms.json`` of nerfstudio and instant-ngp, as one file or as one a split."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from studio.errors import StudioError
from studio.readers.blender import READER as BLENDER
from studio.readers.blender import read_split_files
from studio.readers.mask_files import MaskFolder
from studio.readers.photo_files import PhotoFinder, frame_name
from studio.readers.point_files import read_ply
from studio.readers.registry import ReadOptions
from studio.readers.splits import absent_note, merge_splits
from studio.readers.transforms_file import TransformsFile, read_transforms_file
from studio.reading.fields import Fields
from studio.reading.files import is_file
from studio.scene import Frame, PointCloud, Scene, Split

_FILE = "transforms.json"
_SPLIT_FILE = "transforms_train.json"

_LISTS: tuple[tuple[Split, str], ...] = (
    ("train", "train_filenames"),
    ("val", "val_filenames"),
    ("test", "test_filenames"),
)

_NGP_SCALE = 0.33
"""instant-ngp maps positions by ``x * scale + offset`` into the unit cube; these are its defaults for NeRF data."""

_NGP_OFFSET = 0.5


class TransformsReader:
    """Files with full intrinsics; every field of both programs that bears on photos, cameras and points."""

    name = "transforms"

    def detect(self, root: Path) -> str | None:
        if is_file(root / _FILE):
            return None
        if not is_file(root / _SPLIT_FILE):
            return f"no {_FILE}"
        # Split files with nothing but camera_angle_x are Blender's; that reader says so.
        return f"{_SPLIT_FILE} has no intrinsics but camera_angle_x" if BLENDER.detect(root) is None else None

    def read(self, root: Path, options: ReadOptions) -> Scene:
        if options.file is None and not is_file(root / _FILE):
            frames, files, notes = read_split_files(root, options)
            document = files["train"].fields
        else:
            frames, document, notes = _read_single(root, options)
        points, point_notes = _points(document, root)
        if "applied_transform" in document:
            notes.append("the file's poses were already moved by its applied_transform; exports lie where they are")
        return Scene(root.name, root, self.name, frames, points, _bounds(document, notes), notes=(*notes, *point_notes))


def _read_single(root: Path, options: ReadOptions) -> tuple[tuple[Frame, ...], Fields, list[str]]:
    path = root / (options.file or _FILE)
    finder = PhotoFinder(root, options.images)
    file = read_transforms_file(path, finder)
    total = len(file.frames) + len(file.missing)
    if not file.frames:
        raise StudioError(
            f"{path}: none of its {total} photos exist (first: {file.missing[0]})."
            if total
            else f"{path}: lists no photos.",
            fix="Put the photos where file_path says, relative to this file.",
        )
    frames, notes = _assign_splits(file, options)
    if options.masks is not None:
        frames, mask_notes = _masked(frames, MaskFolder(root, options.masks), finder)
        notes += mask_notes
    if options.test_file is not None:
        test = read_transforms_file(root / options.test_file, finder, "test")
        notes += absent_note(options.test_file, test.missing, len(test.frames) + len(test.missing))
        frames += test.frames
    notes += absent_note(path.name, file.missing, total)
    notes += file.notes
    notes += [f"photos are read from {new} instead of {old}" for old, new in finder.swapped.items()]
    merged, merge_notes = merge_splits(frames)
    return merged, file.fields, notes + merge_notes


def _masked(frames: tuple[Frame, ...], masks: MaskFolder, finder: PhotoFinder) -> tuple[tuple[Frame, ...], list[str]]:
    """Masks of a folder for the frames that name none."""
    found = tuple(
        frame
        if frame.mask_path is not None
        else replace(frame, mask_path=masks.find(frame_name(frame.image_path, finder.folder)))
        for frame in frames
    )
    return found, masks.notes()


def _assign_splits(file: TransformsFile, options: ReadOptions) -> tuple[tuple[Frame, ...], list[str]]:
    """Frames by nerfstudio's ``{train,val,test}_filenames``; a photo that two lists name comes out twice."""
    given = [(split, key) for split, key in _LISTS if key in file.fields]
    if not given:
        return file.frames, []
    by_name = {_plain(name): frame for name, frame in zip(file.named, file.frames, strict=True)}
    absent = {_plain(name) for name in file.missing}
    frames: list[Frame] = []
    notes: list[str] = []
    listed: set[str] = set()
    for split, key in given:
        names = [_plain(_listed(file, key, i, name)) for i, name in enumerate(file.fields.items(key))]
        lacking = [name for name in names if name not in by_name]
        if split == "test" and lacking:
            raise StudioError(
                f"{file.fields.place(key)}: the test split names absent photos ({len(lacking)} of {len(names)}, "
                f"first: {lacking[0]}).",
                fix="Add the photos, or remove their names from the list.",
            )
        notes += absent_note(key, [name for name in lacking if name not in absent], len(names))
        frames += [replace(by_name[name], split=split) for name in names if name in by_name]
        listed.update(names)
    rest = [frame for name, frame in by_name.items() if name not in listed]
    if "train_filenames" not in file.fields:
        frames = rest + frames
    elif rest:
        notes.append(f"{len(rest)} photos are in none of the lists of file names and left out")
    return tuple(frames), notes


def _listed(file: TransformsFile, key: str, index: int, name: object) -> str:
    if not isinstance(name, str):
        raise StudioError(f"{file.fields.place(key)}[{index}] must be a string.", fix="Correct the field.")
    return name


def _plain(name: str) -> str:
    return posixpath.normpath(name.replace("\\", "/"))


def _points(document: Fields, root: Path) -> tuple[PointCloud | None, list[str]]:
    if "ply_file_path" not in document:
        return None, []
    path = root / document.text("ply_file_path").replace("\\", "/")
    if not is_file(path):
        return None, [f"{path.name} (ply_file_path) is absent: no points"]
    return read_ply(path), []


def _bounds(document: Fields, notes: list[str]) -> Float[Tensor, "2 3"] | None:
    """The unit cube of instant-ngp in the file's frame, where the file is made for it (states ``aabb_scale``)."""
    if "aabb_scale" not in document:
        return None
    reach = document.positive("aabb_scale", "the scale of the box")
    scale = document.positive("scale", "the scale of the scene") if "scale" in document else _NGP_SCALE
    if "offset" in document:
        count = len(document.items("offset"))
        if count != 3:
            raise StudioError(f"{document.place('offset')} must be 3 numbers, got {count}.", fix="Correct the field.")
        offset = [document.element("offset", i) for i in range(3)]
    else:
        offset = [_NGP_OFFSET] * 3
    if reach > 1:
        notes.append(f"aabb_scale {reach:g}: the background reaches up to {reach:g} times beyond the bounds")
    centre = (0.5 - torch.tensor(offset)) / scale
    return torch.stack([centre - 0.5 / scale, centre + 0.5 / scale])


READER = TransformsReader()
