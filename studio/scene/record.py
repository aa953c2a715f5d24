"""A scene as plain data: kept with each run, so that it renders without the photos."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import torch

from studio.cameras import CameraModel, Cameras
from studio.errors import StudioError
from studio.files import atomic_write
from studio.reading.fields import Fields
from studio.reading.json_text import read_json_object
from studio.reading.limits import LARGEST_LENGTH, LARGEST_SIDE
from studio.scene.scene import SPLITS, Frame, Scene, Split

_FIX = "Train the run again."


def save_scene(scene: Scene, path: Path) -> None:
    """Write frames, cameras, bounds and the normalising transform as JSON; points and pixels are left out."""
    with atomic_write(path, "w") as handle:
        json.dump(scene_to_dict(scene), handle)


def load_saved_scene(path: Path) -> Scene:
    """Inverse of `save_scene`.

    Raises:
        StudioError: The file is missing or damaged; names it and the field.
    """
    return scene_from_dict(read_json_object(path), source=path)


def scene_to_dict(scene: Scene) -> dict[str, Any]:
    """Plain data; floats survive exactly (Python's JSON writes the shortest text that reads back the same)."""
    return {
        "name": scene.name,
        "root": str(scene.root),
        "format": scene.format,
        "bounds": None if scene.bounds is None else scene.bounds.tolist(),
        "scene_from_input": scene.scene_from_input.tolist(),
        "notes": list(scene.notes),
        "frames": [_frame_to_dict(frame) for frame in scene.frames],
    }


def scene_from_dict(data: Mapping[str, Any], source: str | os.PathLike[str] = "scene") -> Scene:
    """Inverse of `scene_to_dict`.

    Raises:
        StudioError: A field is missing or wrong; names `source` and the field.
    """
    fields = Fields(data, source)
    bounds = fields.numbers("bounds", (2, 3)) if "bounds" in fields else None
    frames = []
    for i, values in enumerate(fields.items("frames")):
        if not isinstance(values, dict):
            raise StudioError(f"{fields.place('frames')}[{i}] must be an object.", fix=_FIX)
        frames.append(_frame_from_fields(Fields(values, source, f"frames[{i}]")))
    return Scene(
        name=fields.text("name"),
        root=Path(fields.text("root")),
        format=fields.text("format"),
        frames=tuple(frames),
        bounds=None if bounds is None else torch.tensor(bounds, dtype=torch.float32),
        scene_from_input=torch.tensor(fields.numbers("scene_from_input", (4, 4)), dtype=torch.float64),
        notes=tuple(str(note) for note in fields.items("notes")),
    )


def camera_to_dict(camera: Cameras) -> dict[str, Any]:
    """One camera (batch shape ()) as plain data."""
    return {
        "model": camera.model,
        "camera_to_world": camera.camera_to_world.tolist(),
        "intrinsics": [float(camera.fx), float(camera.fy), float(camera.cx), float(camera.cy)],
        "size": [int(camera.width), int(camera.height)],
        "distortion": None if camera.distortion is None else camera.distortion.tolist(),
    }


def _frame_to_dict(frame: Frame) -> dict[str, Any]:
    return {
        "name": frame.name,
        "image_path": str(frame.image_path),
        "mask_path": None if frame.mask_path is None else str(frame.mask_path),
        "split": frame.split,
        "depth_range": None if frame.depth_range is None else list(frame.depth_range),
        **camera_to_dict(frame.camera),
    }


def _frame_from_fields(data: Fields) -> Frame:
    fx, fy, cx, cy = data.numbers("intrinsics", (4,))
    if min(fx, fy) <= 0 or max(fx, fy, abs(cx), abs(cy)) > LARGEST_LENGTH:
        raise StudioError(f"{data.place('intrinsics')} are no focal lengths and middle of a picture.", fix=_FIX)
    width, height = data.numbers("size", (2,))
    if not all(1 <= side <= LARGEST_SIDE and side == int(side) for side in (width, height)):
        raise StudioError(f"{data.place('size')} must be two whole numbers from 1 to {LARGEST_SIDE:,}.", fix=_FIX)
    distortion = data.numbers("distortion", (8,)) if "distortion" in data else None
    near_far = data.numbers("depth_range", (2,)) if "depth_range" in data else None
    model = data.choice("model", get_args(CameraModel))
    if distortion is not None and model not in ("opencv", "fisheye"):
        raise StudioError(f"{data.place('distortion')} is given for a camera of model {model}.", fix=_FIX)
    camera = Cameras.make(
        torch.tensor(data.numbers("camera_to_world", (4, 4)), dtype=torch.float32),
        width=int(width),
        height=int(height),
        fx=fx,
        fy=fy,
        cx=cx,
        cy=cy,
        model=cast(CameraModel, model),
        distortion=distortion,
    )
    return Frame(
        name=data.text("name"),
        image_path=Path(data.text("image_path")),
        camera=camera,
        split=cast(Split, data.choice("split", SPLITS)),
        mask_path=Path(data.text("mask_path")) if "mask_path" in data else None,
        depth_range=None if near_far is None else (near_far[0], near_far[1]),
    )
