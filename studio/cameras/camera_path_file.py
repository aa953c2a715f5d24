"""nerfstudio's camera-path JSON, in and out.

The format of nerfstudio 1.x's viewer and ``ns-render camera-path``: poses are OpenGL camera_to_world matrices, row by
row; ``fov`` is the vertical field of view in degrees, and the focal length of both axes follows from it and
``render_height`` (also for the fisheye, which is equidistant without coefficients); the principal point is the middle.
Cameras that this cannot say carry ``fl_x, fl_y, cx, cy`` (pixels, as in transforms.json) besides; nerfstudio ignores
them, this reader does not.

Keyframes carry their own time (``override_transition_sec``, from the one before) and an ``easing``, which nerfstudio
ignores; where a path has none of its own, some of its frames stand for them. Rendering follows the frames.

Poses are copied as they stand: nerfstudio writes them in the frame of its trained model, not of the photos' file.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch

from studio.cameras.cameras import Cameras
from studio.cameras.keyframes import EASINGS, LONGEST_SECONDS, Keyframe
from studio.cameras.models import CameraModel
from studio.cameras.poses import flip_opengl
from studio.errors import StudioError
from studio.files import atomic_write
from studio.reading.fields import finite_number
from studio.reading.json_text import read_json_object, shown_value
from studio.reading.limits import LARGEST_LENGTH, LARGEST_SIDE, MOST_PIXELS

_MODELS: dict[str, CameraModel] = {
    "perspective": "pinhole",
    "fisheye": "fisheye",
    "equirectangular": "equirectangular",
}

_DEFAULT_FPS = 24.0
"""What nerfstudio's viewer starts with."""

_NARROWEST = 1e-4
"""Degrees of a view."""

_SLOWEST, _FASTEST = 1e-3, 1000.0
"""Frames a second."""

_KEYFRAMES = 16
"""Keyframes written for nerfstudio's viewer, which shows and edits these instead of the frames."""


@dataclass(frozen=True, eq=False)
class CameraPath:
    """The frames of a video.

    Attributes:
        cameras: One camera a frame, shape (frames,), of one size.
        fps: Frames per second, above zero.
        closed: Whether the path returns to its beginning.
        keyframes: What the frames were made from, if they were; for editing.
    """

    cameras: Cameras
    fps: float = _DEFAULT_FPS
    closed: bool = False
    keyframes: tuple[Keyframe, ...] = ()

    def __post_init__(self) -> None:
        if self.cameras.ndim != 1 or len(self.cameras) == 0:
            raise ValueError(f"cameras must have shape (frames,), at least one, got {tuple(self.cameras.shape)}")
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"fps must be positive and finite, got {self.fps}")

    @property
    def seconds(self) -> float:
        """Length of the video."""
        return len(self.cameras) / self.fps


def read_camera_path(path: str | PathLike[str]) -> CameraPath:
    """Read a camera path; float32 OpenCV cameras.

    Like ``ns-render``, the video's length is ``seconds`` where the file has it, so a changed ``seconds`` changes the
    speed; ``fps`` alone is used otherwise.

    Raises:
        StudioError: If the file is missing, not JSON, or a field is missing or wrong. Names the file and the field.
    """
    name = str(path)
    data = read_json_object(path)
    kind = data.get("camera_type", "perspective")
    if not isinstance(kind, str) or kind not in _MODELS:
        raise StudioError(
            f"{name}: camera_type {shown_value(kind)} is not supported.",
            fix=f"Supported are: {', '.join(sorted(_MODELS))}.",
        )
    width = _size(data, "render_width", name)
    height = _size(data, "render_height", name)
    if width * height > MOST_PIXELS:
        raise StudioError(
            f"{name}: render_width x render_height are {width * height:,} pixels; at most {MOST_PIXELS:,} are drawn.",
            fix="Make the pictures smaller.",
        )
    entries = data.get("camera_path")
    if not isinstance(entries, list) or not entries:
        raise StudioError(
            f"{name}: camera_path must be a list of at least one camera.",
            fix="Add keyframes in the viewer and save the path again.",
        )
    poses, lenses = [], []
    for i, entry in enumerate(entries):
        where = f"{name}: camera_path[{i}]"
        if not isinstance(entry, dict):
            raise StudioError(f"{where} must be an object with camera_to_world and fov.", fix="Export the path again.")
        poses.append(_matrix(entry, "camera_to_world", where))
        lenses.append(_lens(entry, _MODELS[kind], width, height, where))
    lens = torch.tensor(lenses, dtype=torch.float64)
    cameras = Cameras.make(
        flip_opengl(torch.tensor(poses, dtype=torch.float64).reshape(-1, 4, 4)),
        width=width,
        height=height,
        fx=lens[:, 0],
        fy=lens[:, 1],
        cx=lens[:, 2],
        cy=lens[:, 3],
        model=_MODELS[kind],
    )
    cameras = cameras.check(source=name, frames=[f"camera_path[{i}]" for i in range(len(entries))])
    return CameraPath(
        cameras.to(dtype=torch.float32),
        _speed(data, len(entries), name),
        data.get("is_cycle") is True,
        _read_keyframes(data, name) if kind == "perspective" else (),
    )


def write_camera_path(path: str | PathLike[str], camera_path: CameraPath) -> None:
    """Write a camera path that nerfstudio's viewer and ``ns-render`` read, and that `read_camera_path` reads exactly.

    Raises:
        StudioError: If the format has no such camera (distorted or orthographic).
        ValueError: If the frames differ in size.
    """
    cameras = camera_path.cameras.to(device="cpu", dtype=torch.float64)
    kind = next((k for k, model in _MODELS.items() if model == cameras.model), None)
    if kind is None or (cameras.distortion is not None and bool((cameras.distortion != 0).any())):
        raise StudioError(
            f"{path}: a nerfstudio camera path cannot hold {cameras.model} cameras"
            f"{'' if kind is None else ' with distortion'}.",
            fix="Use pinhole, fisheye without coefficients, or equirectangular cameras.",
        )
    width, height = cameras.size
    poses = flip_opengl(cameras.camera_to_world).reshape(-1, 16).tolist()
    lenses = torch.stack([cameras.fx, cameras.fy, cameras.cx, cameras.cy], dim=-1).tolist()
    frames: list[dict[str, Any]] = []
    for pose, lens in zip(poses, lenses, strict=True):
        fov = math.degrees(2 * math.atan(height / 2 / lens[1]))
        frame: dict[str, Any] = {"camera_to_world": pose, "fov": fov, "aspect": width / height}
        plain = _plain_lens(fov, cameras.model, width, height)
        if any(abs(a - b) > 1e-9 * max(width, height, b) for a, b in zip(lens, plain, strict=True)):
            frame |= dict(zip(("fl_x", "fl_y", "cx", "cy"), lens, strict=True))
        frames.append(frame)
    document = {
        "default_fov": frames[0]["fov"],
        **_keyframe_fields(camera_path, frames),
        "camera_type": kind,
        "render_height": height,
        "render_width": width,
        "fps": camera_path.fps,
        "seconds": camera_path.seconds,
        "is_cycle": camera_path.closed,
        "smoothness_value": 0.0,
        "camera_path": frames,
    }
    with atomic_write(path, "w") as file:
        json.dump(document, file, indent=1)
        file.write("\n")


def _keyframe_fields(camera_path: CameraPath, frames: list[dict[str, Any]]) -> dict[str, Any]:
    """The keyframes, and the time from one to the next that does not say otherwise."""
    if camera_path.keyframes:
        width, height = camera_path.cameras.size
        poses = torch.stack([key.camera_to_world.double().cpu() for key in camera_path.keyframes])
        return {
            "default_transition_sec": camera_path.keyframes[-1].seconds,
            "keyframes": [
                {
                    "matrix": matrix,
                    "fov": math.degrees(key.fov_y),
                    "aspect": width / height,
                    "override_transition_enabled": True,
                    "override_transition_sec": key.seconds,
                    "easing": key.easing,
                }
                for matrix, key in zip(flip_opengl(poses).reshape(-1, 16).tolist(), camera_path.keyframes, strict=True)
            ],
        }
    step = max(1, math.ceil((len(frames) - 1) / (_KEYFRAMES - 1)))
    kept = sorted({*range(0, len(frames), step), *(() if camera_path.closed else (len(frames) - 1,))})
    return {
        "default_transition_sec": step / camera_path.fps,
        "keyframes": [
            {
                "matrix": frames[i]["camera_to_world"],
                "fov": frames[i]["fov"],
                "aspect": frames[i]["aspect"],
                "override_transition_enabled": False,
                "override_transition_sec": None,
            }
            for i in kept
        ],
    }


def _read_keyframes(data: dict[str, Any], name: str) -> tuple[Keyframe, ...]:
    entries = data.get("keyframes", [])
    if not isinstance(entries, list):
        raise StudioError(f"{name}: keyframes must be a list.", fix="Export the path again.")
    default = data.get("default_transition_sec")
    keyframes = []
    for i, entry in enumerate(entries):
        where = f"{name}: keyframes[{i}]"
        if not isinstance(entry, dict):
            raise StudioError(f"{where} must be an object with matrix and fov.", fix="Export the path again.")
        if isinstance(entry.get("matrix"), str):
            # Viewers of nerfstudio before 1.0 wrote text, and other fields besides; their frames are complete.
            return ()
        matrix = torch.tensor(_matrix(entry, "matrix", where), dtype=torch.float64).reshape(4, 4)
        fov = _number(_required(entry, "fov", where), f"{where}: fov")
        _check_fov(fov, where)
        seconds = entry.get("override_transition_sec") if entry.get("override_transition_enabled") is True else default
        seconds = 2.0 if seconds is None else _number(seconds, f"{where}: override_transition_sec")
        if not 0 < seconds <= LONGEST_SECONDS:
            raise StudioError(
                f"{where}: its time must be above 0 and at most {LONGEST_SECONDS:g} s, got {seconds:g}.",
                fix="Correct the field.",
            )
        easing = entry.get("easing", "none")
        if not isinstance(easing, str) or easing not in EASINGS:
            raise StudioError(
                f"{where}: easing must be one of {', '.join(EASINGS)}, got {shown_value(easing)}.",
                fix="Correct the field.",
            )
        pose = Cameras.from_fov(flip_opengl(matrix)[None], width=1, height=1, fov_y=1.0)
        exact = pose.check(source=name, frames=[f"keyframes[{i}]"]).camera_to_world[0]
        keyframes.append(Keyframe(exact, math.radians(fov), seconds, easing))
    return tuple(keyframes)


def _number(value: Any, where: str) -> float:
    number = finite_number(value, where)
    if abs(number) > LARGEST_LENGTH:
        raise StudioError(f"{where} is {number:g}, beyond all measure.", fix="Correct the field.")
    return number


def _check_fov(fov: float, where: str) -> None:
    if not _NARROWEST <= fov < 180:
        raise StudioError(
            f"{where}: fov must lie between {_NARROWEST:g} and 180 degrees, got {fov:g}.", fix="Correct the field."
        )


def _required(entry: dict[str, Any], field: str, where: str) -> Any:
    if field not in entry:
        raise StudioError(f"{where}: the field {field} is missing.", fix="Export the path from the viewer again.")
    return entry[field]


def _size(data: dict[str, Any], field: str, name: str) -> int:
    value = _number(_required(data, field, name), f"{name}: {field}")
    if not 1 <= value <= LARGEST_SIDE or value != int(value):  # some writers say 1080.0
        raise StudioError(
            f"{name}: {field} must be a whole number of pixels from 1 to {LARGEST_SIDE:,}, got {value:g}.",
            fix="Correct the field.",
        )
    return int(value)


def _matrix(entry: dict[str, Any], field: str, where: str) -> list[float]:
    value = _required(entry, field, where)
    if isinstance(value, list) and all(isinstance(row, list) for row in value):
        value = [number for row in value for number in row]
    if not isinstance(value, list) or len(value) != 16:
        raise StudioError(f"{where}: {field} must have 16 numbers, row by row.", fix="Correct the field.")
    return [_number(number, f"{where}: {field}[{i}]") for i, number in enumerate(value)]


def _plain_lens(fov: float, model: CameraModel, width: int, height: int) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy as nerfstudio derives them."""
    if model == "equirectangular":
        return width / 2, float(height), width / 2, height / 2
    focal = height / 2 / math.tan(math.radians(fov) / 2)
    return focal, focal, width / 2, height / 2


def _lens(entry: dict[str, Any], model: CameraModel, width: int, height: int, where: str) -> tuple[float, ...]:
    fov = 90.0  # an equirectangular camera has no use for it
    if model != "equirectangular":
        fov = _number(_required(entry, "fov", where), f"{where}: fov")
        _check_fov(fov, where)
    plain = dict(zip(("fl_x", "fl_y", "cx", "cy"), _plain_lens(fov, model, width, height), strict=True))
    return tuple(_number(entry.get(field, value), f"{where}: {field}") for field, value in plain.items())


def _speed(data: dict[str, Any], frames: int, name: str) -> float:
    """Frames per second."""
    named = [field for field in ("fps", "seconds") if data.get(field) is not None]
    given = {field: _number(data[field], f"{name}: {field}") for field in named}
    for field, value in given.items():
        if value <= 0:
            raise StudioError(f"{name}: {field} must be above zero, got {value:g}.", fix="Correct the field.")
    fps = given.get("fps", _DEFAULT_FPS)
    # The viewer truncates fps * seconds to whole frames; that is no wish for another speed.
    if "seconds" in given and not ("fps" in given and abs(given["fps"] * given["seconds"] - frames) < 1):
        fps = frames / given["seconds"]
    if not _SLOWEST <= fps <= _FASTEST:
        raise StudioError(
            f"{name}: {' and '.join(named)} make {fps:g} frames a second; {_SLOWEST:g} to {_FASTEST:g} can be played.",
            fix="Correct the field.",
        )
    return fps
