"""One JSON file of posed photos, as NeRF-synthetic, instant-ngp and nerfstudio write it.

Poses are OpenGL camera_to_world (+y up, looking along -z) in a world that is kept as it is. Intrinsics stand at the top
level or in a frame; what a frame states goes before what the file states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from studio.cameras import CameraModel, Cameras
from studio.cameras.poses import flip_opengl
from studio.errors import StudioError
from studio.readers.photo_files import PhotoFinder, camera_for_photo, frame_name, pose_tensor
from studio.readers.photo_names import PhotoIndex, find_photos
from studio.readers.pose_checks import rigid_pose
from studio.reading.fields import Fields
from studio.reading.files import is_file
from studio.reading.json_text import read_json_object
from studio.reading.limits import LARGEST_LENGTH, LARGEST_SIDE
from studio.scene import Frame, Split
from studio.scene.decode import photo_size

_MODELS: dict[str, CameraModel] = {
    "PERSPECTIVE": "opencv",
    "SIMPLE_PINHOLE": "opencv",
    "PINHOLE": "opencv",
    "SIMPLE_RADIAL": "opencv",
    "RADIAL": "opencv",
    "OPENCV": "opencv",
    "FULL_OPENCV": "opencv",
    "OPENCV_FISHEYE": "fisheye",
    "FISHEYE": "fisheye",
    "SIMPLE_FISHEYE": "fisheye",
    "SIMPLE_RADIAL_FISHEYE": "fisheye",
    "RADIAL_FISHEYE": "fisheye",
    "EQUIRECTANGULAR": "equirectangular",
    "ORTHOPHOTO": "orthographic",
}
"""``camera_model`` -> model; "opencv" becomes "pinhole" where all coefficients are zero."""

_COEFFICIENTS: dict[CameraModel, tuple[str, ...]] = {
    "opencv": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
    "fisheye": ("k1", "k2", "k3", "k4"),
}

_COEFFICIENT_LIST = ("k1", "k2", "k3", "k4", "p1", "p2")
"""Order of nerfstudio's ``distortion_params``."""


@dataclass(frozen=True)
class TransformsFile:
    """A parsed file: its fields, the frames whose photos exist, and the names of those whose photos do not."""

    path: Path
    fields: Fields
    frames: tuple[Frame, ...]
    missing: tuple[str, ...]
    """``file_path`` of each frame whose photo is absent."""
    named: tuple[str, ...]
    """``file_path`` of each of `frames`."""
    notes: tuple[str, ...] = ()
    """Photos that were found under other names only."""


def read_transforms_file(path: Path, finder: PhotoFinder, split: Split = "train") -> TransformsFile:
    """Read the frames of one file; all get the given split.

    Raises:
        StudioError: Broken JSON, a field that is missing or wrong, a photo or mask that cannot be read.
    """
    document = Fields(read_json_object(path), path)
    if "frames" not in document:
        raise StudioError(f"{path}: has no field 'frames'.", fix="It must list the photos and their poses.")
    frames: dict[str, Frame] = {}
    named: list[str] = []
    missing: list[str] = []
    entries = document.items("frames")
    listed = [each.get("file_path") for each in entries if isinstance(each, dict)]
    index = PhotoIndex(finder.root, finder.folder)
    photos, notes = find_photos([name for name in listed if isinstance(name, str)], finder.find, index)
    for i, values in enumerate(entries):
        if not isinstance(values, dict):
            raise StudioError(
                f"{path}: frames[{i}] must be an object with file_path and transform_matrix.", fix="Correct the frame."
            )
        fields = Fields(values, path, f"frames[{i}]")
        name = fields.text("file_path")
        if "transform_matrix" not in fields:
            raise StudioError(
                f"{fields.place('transform_matrix')} is missing.", fix="Add the pose or remove the frame."
            )
        # Checked for absent photos too: a broken pose is a broken file, whichever photos were copied.
        pose = rigid_pose(values["transform_matrix"], fields.place("transform_matrix"), allow_scale=True)
        photo = photos.get(name)
        if photo is None:
            missing.append(name)
            continue
        size = photo_size(photo)
        camera = _camera(_Stated(fields, document), size, pose, finder.is_swapped(photo))
        frame = Frame(
            name=frame_name(photo, finder.root),
            image_path=photo,
            camera=camera_for_photo(camera, size, photo, f"{path}: frames[{i}]"),
            split=split,
            mask_path=_mask(fields, finder.root),
        )
        if frame.name in frames:
            raise StudioError(
                f"{fields.place('file_path')} names {name}, which another frame names too.",
                fix="Remove one of the two.",
            )
        frames[frame.name] = frame
        named.append(name)
    found_otherwise = tuple(f"{path.name}: {note}" for note in notes)
    return TransformsFile(path, document, tuple(frames.values()), tuple(missing), tuple(named), found_otherwise)


def _mask(fields: Fields, root: Path) -> Path | None:
    if "mask_path" not in fields:
        return None
    mask = root / fields.text("mask_path").replace("\\", "/")
    if not is_file(mask):
        raise StudioError(f"{fields.place('mask_path')}: there is no {mask}.", fix="Add the mask or remove the field.")
    return mask


class _Stated:
    """What a frame and its file state about the camera; the frame goes first."""

    def __init__(self, frame: Fields, document: Fields) -> None:
        self.frame = frame
        self._levels = (frame, document)

    def level(self, *keys: str) -> Fields | None:
        """The level that states one of the keys, or None."""
        return next((level for level in self._levels if any(key in level for key in keys)), None)

    def number(self, key: str, default: float) -> float:
        level = self.level(key)
        return default if level is None else level.length(key)

    def size(self, key: str, default: int) -> int:
        level = self.level(key)
        if level is None:
            return default
        return level.whole(key, 1, LARGEST_SIDE)


def _camera(stated: _Stated, photo: tuple[int, int], pose: npt.NDArray[np.float64], resized: bool) -> Cameras:
    """The camera that a frame states, at the stated size or else at that of the photo."""
    if resized and stated.level("w") is None and stated.level("fl_x", "fl_y", "cx", "cy") is not None:
        raise StudioError(
            f"{stated.frame.place('w')} is missing: without the full size, intrinsics in pixels cannot be brought to "
            f"the {photo[0]}x{photo[1]} of the photo.",
            fix="Add w and h.",
        )
    width, height = stated.size("w", photo[0]), stated.size("h", photo[1])
    model, distortion = _lens(stated)
    if model == "equirectangular":
        fx, fy, cx, cy = width / 2, float(height), width / 2, height / 2
    else:
        fx, fy = _focal(stated, width, height, model)
        cx, cy = stated.number("cx", width / 2), stated.number("cy", height / 2)
    camera_to_world = flip_opengl(pose_tensor(pose))
    return Cameras.make(
        camera_to_world, width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy, model=model, distortion=distortion
    )


def _focal(stated: _Stated, width: int, height: int, model: CameraModel) -> tuple[float, float]:
    level = stated.level("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
    if level is None:
        raise StudioError(
            f"{stated.frame.place('fl_x')} is missing: neither the frame nor the file states a focal length.",
            fix="Add fl_x (pixels) or camera_angle_x (radians).",
        )
    along_x = _focal_along(level, "fl_x", "camera_angle_x", width, model)
    along_y = _focal_along(level, "fl_y", "camera_angle_y", height, model)
    fx = along_x if along_x is not None else along_y
    fy = along_y if along_y is not None else along_x
    assert fx is not None
    assert fy is not None
    return fx, fy


def _focal_along(level: Fields, key: str, angle_key: str, extent: int, model: CameraModel) -> float | None:
    """Focal length in pixels along one axis, or None where the level does not state it."""
    if key in level:
        return level.positive(key, "a focal length")
    if angle_key not in level:
        return None
    angle = level.positive(angle_key, "a field of view")
    if angle >= math.pi or model not in ("opencv", "pinhole"):
        raise StudioError(
            f"{level.place(angle_key)} ({angle:g} radians) does not define the focal length of this camera.",
            fix=f"Give {key} in pixels instead.",
        )
    focal = extent / 2 / math.tan(angle / 2)
    if not 0 < focal <= LARGEST_LENGTH:
        raise StudioError(f"{level.place(angle_key)} is {angle:g} radians, too narrow to be a view.", fix="Correct it.")
    return focal


def _lens(stated: _Stated) -> tuple[CameraModel, Sequence[float] | None]:
    level = stated.level("camera_model")
    name = level.text("camera_model") if level is not None else ""
    if level is not None and name.upper() not in _MODELS:
        raise StudioError(
            f"{level.place('camera_model')} is '{name}', which cannot be rendered.",
            fix=f"Undistort the photos to PINHOLE; known models: {', '.join(_MODELS)}.",
        )
    model = _MODELS[name.upper()] if level is not None else "opencv"
    fisheye = stated.level("is_fisheye")
    if fisheye is not None and fisheye.values["is_fisheye"] is True:
        model = "fisheye"
    if model not in _COEFFICIENTS:
        return model, None
    values = [_coefficient(stated, key) for key in _COEFFICIENTS[model]]
    if any(values):
        return model, values
    return ("pinhole" if model == "opencv" else model), None


def _coefficient(stated: _Stated, key: str) -> float:
    level = stated.level(key, "distortion_params")
    if level is None:
        return 0.0
    if key in level:
        return level.length(key)
    if key not in _COEFFICIENT_LIST:
        return 0.0
    listed: list[Any] = level.items("distortion_params")
    if len(listed) != len(_COEFFICIENT_LIST):
        raise StudioError(
            f"{level.place('distortion_params')} must have 6 numbers, got {len(listed)}.",
            fix=f"Their order is {' '.join(_COEFFICIENT_LIST)}.",
        )
    return level.element("distortion_params", _COEFFICIENT_LIST.index(key))
