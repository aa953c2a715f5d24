"""A scene as plain data: kept with each run, so that it renders without the photos."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.files import atomic_write
from studio.scene.scene import Frame, Scene


def save_scene(scene: Scene, path: Path) -> None:
    """Write frames, cameras, bounds and the normalising transform as JSON; points and pixels are left out."""
    with atomic_write(path, "w") as handle:
        json.dump(scene_to_dict(scene), handle)


def load_saved_scene(path: Path) -> Scene:
    """Inverse of `save_scene`; raises StudioError naming the file when it is missing or damaged."""
    try:
        return scene_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudioError(f"{path}: not a readable scene record ({error}).", fix="Train the run again.") from error


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


def scene_from_dict(data: Mapping[str, Any]) -> Scene:
    """Inverse of `scene_to_dict`."""
    bounds = data["bounds"]
    return Scene(
        name=data["name"],
        root=Path(data["root"]),
        format=data["format"],
        frames=tuple(_frame_from_dict(frame) for frame in data["frames"]),
        bounds=None if bounds is None else torch.tensor(bounds, dtype=torch.float32),
        scene_from_input=torch.tensor(data["scene_from_input"], dtype=torch.float64),
        notes=tuple(data["notes"]),
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


def _frame_from_dict(data: Mapping[str, Any]) -> Frame:
    fx, fy, cx, cy = data["intrinsics"]
    width, height = data["size"]
    depth_range = data["depth_range"]
    camera = Cameras.make(
        torch.tensor(data["camera_to_world"], dtype=torch.float32),
        width=width,
        height=height,
        fx=fx,
        fy=fy,
        cx=cx,
        cy=cy,
        model=data["model"],
        distortion=data["distortion"],
    )
    return Frame(
        name=data["name"],
        image_path=Path(data["image_path"]),
        camera=camera,
        split=data["split"],
        mask_path=None if data["mask_path"] is None else Path(data["mask_path"]),
        depth_range=None if depth_range is None else (depth_range[0], depth_range[1]),
    )
