"""NeRF-synthetic scenes as Blender scripts write them: ``transforms_{train,val,test}.json`` (Mildenhall 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from studio.errors import StudioError
from studio.readers.photo_files import PhotoFinder
from studio.readers.registry import ReadOptions
from studio.readers.splits import absent_note, merge_splits, refuse_absent_test_photos
from studio.readers.transforms_file import TransformsFile, read_transforms_file
from studio.reading.files import is_file
from studio.reading.json_text import read_json_object
from studio.scene import Frame, Scene, Split

_HALF_SIDE = 1.5
"""The synthetic scenes fit in [-1.5, 1.5]^3 (instant-ngp's default box for them is 1 / 0.33 wide)."""

_SPLIT_FILES: dict[Split, str] = {
    "train": "transforms_train.json",
    "val": "transforms_val.json",
    "test": "transforms_test.json",
}


class BlenderReader:
    """Split files that state one field of view and nothing else about the camera."""

    name = "blender"

    def detect(self, root: Path) -> str | None:
        path = root / _SPLIT_FILES["train"]
        if not is_file(path):
            return f"no {path.name}"
        try:
            document = read_json_object(path)
        except StudioError:
            return None  # reading will say what is wrong with it
        if any(key in document for key in ("fl_x", "camera_model", "w")):
            return f"{path.name} has more intrinsics than camera_angle_x"
        return None

    def read(self, root: Path, options: ReadOptions) -> Scene:
        frames, _, notes = read_split_files(root, options)
        side = torch.full((3,), _HALF_SIDE)
        bounds = torch.stack([-side, side])
        return Scene(root.name, root, self.name, frames, bounds=bounds, notes=tuple(notes))


def read_split_files(
    root: Path, options: ReadOptions
) -> tuple[tuple[Frame, ...], Mapping[Split, TransformsFile], list[str]]:
    """Frames of ``transforms_{train,val,test}.json``, the files they come from, and notes.

    Absent photos are left out of train and val with a note. A test split of which photos are absent is refused, unless
    the user chose its file.

    Raises:
        StudioError: As above; or a file that is missing or broken; or no photos to train on.
    """
    finder = PhotoFinder(root, options.images)
    files: dict[Split, TransformsFile] = {}
    notes: list[str] = []
    for split, default in _SPLIT_FILES.items():
        chosen = options.test_file if split == "test" else None
        path = root / (chosen or default)
        if not is_file(path):
            if split == "train" or chosen:
                raise StudioError(f"{path}: there is no such file.", fix=_others(root))
            if split == "test":
                notes += [f"no {default}, but {p.name}: choose it with --test-file" for p in _test_files(root)]
            continue
        file = read_transforms_file(path, finder, split)
        total = len(file.frames) + len(file.missing)
        if split == "test" and not chosen:
            refuse_absent_test_photos(path, file.missing, total, finder)
        if not file.frames and (split == "train" or chosen):
            raise StudioError(
                f"{path}: {'none of its photos exist' if total else 'it lists no photos'}"
                f"{f' (first: {file.missing[0]})' if total else ''}.",
                fix="Put the photos where file_path says, relative to this file.",
            )
        notes += absent_note(path.name, file.missing, total)
        notes += file.notes
        files[split] = file
    notes += [f"photos are read from {new} instead of {old}" for old, new in finder.swapped.items()]
    frames, merged = merge_splits([frame for file in files.values() for frame in file.frames])
    return frames, files, notes + merged


def _test_files(root: Path) -> list[Path]:
    return sorted(root.glob("transforms_test*.json"))


def _others(root: Path) -> str:
    found = ", ".join(sorted(p.name for p in root.glob("*.json")))
    return f"Files there: {found or 'none'}."


READER = BlenderReader()
