"""Posed photos as other programs take them: nerfstudio's ``transforms.json`` and COLMAP's text model."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import torch

from studio.cameras import Cameras, Similarity
from studio.cameras.poses import matrix_to_quaternion
from studio.errors import StudioError
from studio.export.pointcloud import write_point_cloud
from studio.files import atomic_path, atomic_write
from studio.scene import Frame, Scene

SCENE_FORMATS = {
    "transforms": "transforms.json of nerfstudio, with points.ply; photos stay where they are",
    "colmap": "COLMAP's text model in sparse/0, with links to the photos in images",
}
"""Formats of posed photos, with one line of help each."""

_TRANSFORMS_LENS = {"pinhole": "PINHOLE", "opencv": "OPENCV", "fisheye": "OPENCV_FISHEYE"}
_COEFFICIENTS = {
    "pinhole": (),
    "opencv": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "fisheye": ("k1", "k2", "k3", "k4"),
}
_SPLIT_LISTS = {"train": "train_filenames", "val": "val_filenames", "test": "test_filenames"}


def write_scene(scene: Scene, folder: str | os.PathLike[str], format: str) -> list[str]:
    """Write the cameras and points of a scene, in the frame of its input, into a folder.

    Args:
        scene: Of perspective or fisheye cameras; a normalisation is undone.
        folder: Made if it is not there.
        format: One of `SCENE_FORMATS`.

    Returns:
        What the format cannot hold and was left out, one line each.

    Raises:
        StudioError: A camera model that the format has not, or a file that cannot be written.
        ValueError: No such format.
    """
    if format not in SCENE_FORMATS:
        raise ValueError(f"format must be one of {', '.join(SCENE_FORMATS)}, got {format!r}")
    for frame in scene.frames:
        if frame.camera.model not in _TRANSFORMS_LENS:
            raise StudioError(
                f"{frame.image_path}: its camera is {frame.camera.model}; {format} has perspective and fisheye cameras."
            )
    folder = Path(folder)
    back = Similarity.from_matrix(scene.input_from_scene)
    cameras = [frame.camera.to(dtype=torch.float64).transformed(back) for frame in scene.frames]
    if format == "transforms":
        return _write_transforms(scene, cameras, back, folder)
    return _write_colmap(scene, cameras, back, folder)


def _write_transforms(scene: Scene, cameras: Sequence[Cameras], back: Similarity, folder: Path) -> list[str]:
    lenses = [_transforms_lens(camera) for camera in cameras]
    shared = lenses[0] if all(lens == lenses[0] for lens in lenses) else {}
    frames: list[dict[str, Any]] = []
    lists: dict[str, list[str]] = {split: [] for split in _SPLIT_LISTS}
    for frame, camera, lens in zip(scene.frames, cameras, lenses, strict=True):
        path = _relative(frame.image_path, folder)
        # OpenCV axes to OpenGL's.
        pose = camera.camera_to_world @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
        entry: dict[str, Any] = {"file_path": path, "transform_matrix": pose.tolist()}
        if frame.mask_path is not None:
            entry["mask_path"] = _relative(frame.mask_path, folder)
        frames.append(entry if shared else {**entry, **lens})
        lists[frame.split].append(path)
    document: dict[str, Any] = {**shared, "frames": frames}
    if lists["test"] and not lists["val"]:
        # nerfstudio's `ns-train` asks for the list of val as soon as there is any list; held out is held out.
        lists["val"] = lists["test"]
    document |= {key: lists[split] for split, key in _SPLIT_LISTS.items() if lists[split]}
    if scene.points is not None:
        write_point_cloud(folder / "points.ply", back.points(scene.points.xyz), scene.points.rgb)
        document["ply_file_path"] = "points.ply"
    with atomic_write(folder / "transforms.json", "w") as file:
        json.dump(document, file, indent=1)
    return []


def _transforms_lens(camera: Cameras) -> dict[str, Any]:
    width, height = camera.size
    names = {"fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy}
    return {
        "camera_model": _TRANSFORMS_LENS[camera.model],
        **{name: float(value) for name, value in names.items()},
        "w": width,
        "h": height,
        **dict(zip(_COEFFICIENTS[camera.model], _distortion(camera), strict=False)),
    }


def _write_colmap(scene: Scene, cameras: Sequence[Cameras], back: Similarity, folder: Path) -> list[str]:
    common = Path(os.path.commonpath([frame.image_path.resolve().parent for frame in scene.frames]))
    lenses: dict[str, int] = {}
    images = []
    for number, (frame, camera) in enumerate(zip(scene.frames, cameras, strict=True), start=1):
        lens = lenses.setdefault(_colmap_lens(camera), len(lenses) + 1)
        world_to_camera = torch.linalg.inv(camera.camera_to_world)
        turn = matrix_to_quaternion(world_to_camera[:3, :3])
        name = frame.image_path.resolve().relative_to(common).as_posix()
        numbers = " ".join(map(repr, [*turn.tolist(), *world_to_camera[:3, 3].tolist()]))
        # The second line holds observations, of which there are none.
        images += [f"{number} {numbers} {lens} {name}", ""]
        _link(frame, folder / "images" / name)
    model = folder / "sparse" / "0"
    points = []
    if scene.points is not None:
        xyz = back.points(scene.points.xyz.double())
        rgb = (scene.points.rgb * 255).round().long()
        rows = zip(xyz.tolist(), rgb.tolist(), strict=True)
        points = [f"{i} {x!r} {y!r} {z!r} {r} {g} {b} 0" for i, ((x, y, z), (r, g, b)) in enumerate(rows, start=1)]
    for name, lines in (
        ("cameras.txt", [f"{number} {lens}" for lens, number in lenses.items()]),
        ("images.txt", images),
        ("points3D.txt", points),
    ):
        with atomic_write(model / name, "w") as file:
            file.write("".join(f"{line}\n" for line in lines))
    notes = []
    if len({frame.split for frame in scene.frames}) > 1:
        notes.append("COLMAP has no splits: which photos were held out is not kept")
    if any(frame.mask_path is not None for frame in scene.frames):
        notes.append("masks are left out")
    return notes


def _colmap_lens(camera: Cameras) -> str:
    """MODEL WIDTH HEIGHT PARAMETERS"""
    width, height = camera.size
    numbers = [float(value) for value in (camera.fx, camera.fy, camera.cx, camera.cy)]
    distortion = _distortion(camera)
    name = {"pinhole": "PINHOLE", "opencv": "OPENCV", "fisheye": "OPENCV_FISHEYE"}[camera.model]
    if camera.model == "opencv" and any(distortion[4:]):
        name = "FULL_OPENCV"
    count = {"PINHOLE": 0, "OPENCV": 4, "OPENCV_FISHEYE": 4, "FULL_OPENCV": 8}[name]
    return " ".join([name, str(width), str(height), *map(repr, numbers + distortion[:count])])


def _distortion(camera: Cameras) -> list[float]:
    return [0.0] * 8 if camera.distortion is None else camera.distortion.double().tolist()


def _relative(path: Path, folder: Path) -> str:
    try:
        return PurePath(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        # On another drive.
        return path.resolve().as_posix()


def _link(frame: Frame, target: Path) -> None:
    """A link to a photo, or a copy where there are no links."""
    source = frame.image_path.resolve()
    if target.exists() and target.samefile(source):
        return
    with contextlib.suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
        return
    if target.exists() or target.is_symlink():
        raise StudioError(f"{target}: is there already and is another photo.", fix="Choose an empty folder.")
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
