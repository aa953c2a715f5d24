"""One JSON file of posed photos, as NeRF-synthetic, instant-ngp and nerfstudio write it.

Poses are OpenGL camera_to_world (+y up, looking along -z) in a world that is kept as it is. Intrinsics stand at the top
level or in a frame; what a frame states goes before what the file states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studio.cameras import CameraModel, Cameras
from studio.cameras.poses import flip_opengl
from studio.errors import StudioError
from studio.readers.json_files import Fields, load_json_object
from studio.readers.photo_files import PhotoFinder, camera_for_photo, frame_name, pose_tensor
from studio.readers.pose_checks import rigid_pose
from studio.scene import Frame, Split
from studio.scene.decode import photo_size

_MODELS: dict[str, CameraModel] = {
    "": "opencv",
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


def read_transforms_file(path: Path, finder: PhotoFinder, split: Split = "train") -> TransformsFile:
    """Read the frames of one file; all get the given split.

    Raises:
        StudioError: Broken JSON, a field that is missing or wrong, a photo or mask that cannot be read.
    """
    document = Fields(load_json_object(path), path)
    if "frames" not in document:
        raise StudioError(f"{path}: has no field 'frames'.", fix="It must list the photos and their poses.")
    frames: dict[str, Frame] = {}
    named: list[str] = []
    missing: list[str] = []
    for i, values in enumerate(document.items("frames")):
        if not isinstance(values, dict):
            raise StudioError(f"{path}: frames[{i}] must be an object with file_path and transform_matrix.")
        fields = Fields(values, path, f"frames[{i}]")
        name = fields.text("file_path")
        if "transform_matrix" not in fields:
            raise StudioError(
                f"{fields.place('transform_matrix')} is missing.", fix="Add the pose or remove the frame."
            )
        # Checked for absent photos too: a broken pose is a broken file, whichever photos were copied.
        pose = rigid_pose(values["transform_matrix"], fields.place("transform_matrix"), allow_scale=True)
        photo = finder.find(name)
        if photo is None:
            missing.append(name)
            continue
        size = photo_size(photo)
        camera = replace(_camera(document, fields, size), camera_to_world=flip_opengl(pose_tensor(pose)))
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
    return TransformsFile(path, document, tuple(frames.values()), tuple(missing), tuple(named))


def _mask(fields: Fields, root: Path) -> Path | None:
    if "mask_path" not in fields:
        return None
    mask = root / fields.text("mask_path").replace("\\", "/")
    if not mask.is_file():
        raise StudioError(f"{fields.place('mask_path')}: there is no {mask}.", fix="Add the mask or remove the field.")
    return mask


def _camera(document: Fields, frame: Fields, photo: tuple[int, int]) -> Cameras:
    """The camera that a frame states, at the stated size, with the identity pose."""
    width, height = (_size(document, frame, key, default) for key, default in (("w", photo[0]), ("h", photo[1])))
    model, distortion = _lens(document, frame)
    if model == "equirectangular":
        fx, fy = width / 2, float(height)
        cx, cy = width / 2, height / 2
    else:
        fx, fy = _focal(document, frame, width, height, model)
        cx, cy = (
            _stated(document, frame, key).number(key) if _stated(document, frame, key) is not None else middle / 2
            for key, middle in (("cx", width), ("cy", height))
        )
    identity = pose_tensor(rigid_pose([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], ""))
    return Cameras.make(
        identity, width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy, model=model, distortion=distortion
    )


def _stated(document: Fields, frame: Fields, *keys: str) -> Fields | None:
    """The level (frame, else file) that states one of the keys, or None."""
    return next((level for level in (frame, document) if any(key in level for key in keys)), None)


def _size(document: Fields, frame: Fields, key: str, default: int) -> int:
    level = _stated(document, frame, key)
    if level is None:
        return default
    value = level.positive(key, "a size in pixels")
    if value != int(value):
        raise StudioError(f"{level.place(key)} is {value:g}, but a size is a whole number.", fix="Correct the field.")
    return int(value)


def _focal(document: Fields, frame: Fields, width: int, height: int, model: CameraModel) -> tuple[float, float]:
    keys = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
    level = _stated(document, frame, *keys)
    if level is None:
        raise StudioError(
            f"{frame.place('fl_x')} is missing: neither the frame nor the file states a focal length.",
            fix="Add fl_x (pixels) or camera_angle_x (radians).",
        )
    focal: list[float | None] = []
    for key, angle_key, extent in (("fl_x", "camera_angle_x", width), ("fl_y", "camera_angle_y", height)):
        if key in level:
            focal.append(level.positive(key, "a focal length"))
        elif angle_key in level:
            angle = level.positive(angle_key, "a field of view")
            if angle >= math.pi or model not in ("opencv", "pinhole"):
                raise StudioError(
                    f"{level.place(angle_key)} ({angle:g} radians) does not define the focal length of this camera.",
                    fix=f"Give {key} in pixels instead.",
                )
            focal.append(extent / 2 / math.tan(angle / 2))
        else:
            focal.append(None)
    fx = focal[0] if focal[0] is not None else focal[1]
    fy = focal[1] if focal[1] is not None else focal[0]
    assert fx is not None
    assert fy is not None
    return fx, fy


def _lens(document: Fields, frame: Fields) -> tuple[CameraModel, Sequence[float] | None]:
    level = _stated(document, frame, "camera_model")
    stated = level.text("camera_model") if level is not None else ""
    if stated.upper() not in _MODELS:
        assert level is not None
        raise StudioError(
            f"{level.place('camera_model')} is '{stated}', which cannot be rendered.",
            fix=f"Undistort the photos to PINHOLE; known models: {', '.join(m for m in _MODELS if m)}.",
        )
    model = _MODELS[stated.upper()]
    fisheye = _stated(document, frame, "is_fisheye")
    if fisheye is not None and fisheye.values["is_fisheye"] is True:
        model = "fisheye"
    if model not in _COEFFICIENTS:
        return model, None
    values = [_coefficient(document, frame, key) for key in _COEFFICIENTS[model]]
    if any(values):
        return model, values
    return ("pinhole" if model == "opencv" else model), None


def _coefficient(document: Fields, frame: Fields, key: str) -> float:
    level = _stated(document, frame, key, "distortion_params")
    if level is None:
        return 0.0
    if key in level:
        return level.number(key)
    if "distortion_params" not in level or key not in _COEFFICIENT_LIST:
        return 0.0
    listed: list[Any] = level.items("distortion_params")
    if len(listed) != len(_COEFFICIENT_LIST):
        raise StudioError(
            f"{level.place('distortion_params')} must have 6 numbers ({' '.join(_COEFFICIENT_LIST)}), got {len(listed)}."
        )
    position = _COEFFICIENT_LIST.index(key)
    return Fields({f"distortion_params[{position}]": listed[position]}, level.source).number(
        f"distortion_params[{position}]"
    )
