"""Writers of small scenes in every format, independent of the readers."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def opengl_pose(angle: float, radius: float = 4.0) -> list[list[float]]:
    """A camera on a circle about the z axis that looks at the origin, +z up (OpenGL camera axes)."""
    c, s = np.cos(angle), np.sin(angle)
    right, up, back = np.array([-s, c, 0.0]), np.array([0.0, 0.0, 1.0]), np.array([c, s, 0.0])
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2], pose[:3, 3] = right, up, back, radius * back
    return pose.tolist()


@pytest.fixture
def pose() -> Callable[..., list[list[float]]]:
    return opengl_pose


@pytest.fixture
def write_photo() -> Callable[..., Path]:
    def write(path: Path, size: tuple[int, int] = (16, 12), mode: str = "RGB") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, 128).save(path)
        return path

    return write


@pytest.fixture
def transforms_scene(tmp_path: Path, write_photo: Callable[..., Path]) -> Callable[..., Path]:
    """Writes photos and a transforms.json; returns the scene's folder."""

    def make(
        count: int = 10,
        *,
        top: dict[str, Any] | None = None,
        each: Callable[[int], dict[str, Any]] = lambda i: {},
        present: Callable[[int], bool] = lambda i: True,
        size: tuple[int, int] = (16, 12),
        name: str = "transforms.json",
        folder: str = "images",
    ) -> Path:
        frames = []
        for i in range(count):
            file_path = f"{folder}/{i:03d}.png"
            if present(i):
                write_photo(tmp_path / file_path, size)
            frames.append({"file_path": file_path, "transform_matrix": opengl_pose(0.5 * i), **each(i)})
        document = {"fl_x": 20.0, "w": size[0], "h": size[1], "frames": frames, **(top or {})}
        (tmp_path / name).write_text(json.dumps({k: v for k, v in document.items() if v is not None}))
        return tmp_path

    return make


MODEL_IDS = {
    "SIMPLE_PINHOLE": 0,
    "PINHOLE": 1,
    "SIMPLE_RADIAL": 2,
    "RADIAL": 3,
    "OPENCV": 4,
    "OPENCV_FISHEYE": 5,
    "FULL_OPENCV": 6,
    "FOV": 7,
    "SIMPLE_RADIAL_FISHEYE": 8,
    "RADIAL_FISHEYE": 9,
}


@pytest.fixture
def write_colmap() -> Callable[..., Path]:
    """Writes a COLMAP model byte by byte, following COLMAP's description of its formats."""

    def write(
        folder: Path,
        cameras: list[tuple[int, str, int, int, list[float]]],
        images: list[tuple[int, list[float], list[float], int, str]],
        points: list[tuple[int, list[float], list[int], float]] | None = None,
        *,
        binary: bool = True,
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        points = points or []
        if binary:
            data = struct.pack("<Q", len(cameras))
            for i, model, w, h, params in cameras:
                data += struct.pack("<iiQQ", i, MODEL_IDS[model], w, h) + struct.pack(f"<{len(params)}d", *params)
            (folder / "cameras.bin").write_bytes(data)
            data = struct.pack("<Q", len(images))
            for i, q, t, camera, name in images:
                data += struct.pack("<i7di", i, *q, *t, camera) + name.encode() + b"\0"
                # Two observations, which readers must step over.
                data += struct.pack("<Q", 2) + struct.pack("<ddq", 1.5, 2.5, -1) + struct.pack("<ddq", 3.0, 4.0, 7)
            (folder / "images.bin").write_bytes(data)
            data = struct.pack("<Q", len(points))
            for i, xyz, rgb, error in points:
                data += struct.pack("<Q3d3Bd", i, *xyz, *rgb, error) + struct.pack("<Q", 1) + struct.pack("<ii", 1, 0)
            (folder / "points3D.bin").write_bytes(data)
            return folder

        def words(values: list[Any]) -> str:
            return " ".join(repr(v) for v in values)

        lines = ["# cameras", *(f"{i} {m} {w} {h} {words(p)}" for i, m, w, h, p in cameras)]
        (folder / "cameras.txt").write_text("\n".join(lines) + "\n")
        lines = ["# images"]
        for k, (i, q, t, camera, name) in enumerate(images):
            # The first photo has no observations: an empty line.
            lines += [f"{i} {words(q)} {words(t)} {camera} {name}", "" if k == 0 else "1.5 2.5 -1 3.0 4.0 7"]
        (folder / "images.txt").write_text("\n".join(lines) + "\n")
        lines = ["# points", *(f"{i} {words(x)} {words(c)} {e!r} 1 0 2 5" for i, x, c, e in points)]
        (folder / "points3D.txt").write_text("\n".join(lines) + "\n")
        return folder

    return write
