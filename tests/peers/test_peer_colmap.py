"""COLMAP models that pycolmap writes and reads, and its camera models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image

from studio.export.scene_files import write_scene
from studio.readers import load_scene
from studio.scene import Scene

LENSES: dict[str, list[float]] = {
    "SIMPLE_PINHOLE": [210.0, 79.0, 61.5],
    "PINHOLE": [210.0, 205.0, 79.0, 61.5],
    "SIMPLE_RADIAL": [210.0, 79.0, 61.5, -0.08],
    "RADIAL": [210.0, 79.0, 61.5, -0.08, 0.03],
    "OPENCV": [210.0, 205.0, 79.0, 61.5, -0.12, 0.03, 8e-4, -1.1e-3],
    "FULL_OPENCV": [210.0, 205.0, 79.0, 61.5, 0.31, -0.05, 1e-3, 7e-4, 0.012, 0.22, 0.03, 0.004],
    "OPENCV_FISHEYE": [110.0, 105.0, 79.0, 61.5, 0.03, -0.012, 0.004, -0.0007],
    "SIMPLE_RADIAL_FISHEYE": [110.0, 79.0, 61.5, 0.03],
    "RADIAL_FISHEYE": [110.0, 79.0, 61.5, 0.03, -0.012],
}
SIZE = (160, 120)


def reconstruction(lens: str) -> Any:
    """Points and photos that pycolmap itself makes up, seen through a lens."""
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs = 1
    options.num_cameras_per_rig = 1
    options.num_frames_per_rig = 9
    options.num_points3D = 60
    options.camera_width, options.camera_height = SIZE
    options.camera_model_id = getattr(pycolmap.CameraModelId, lens)
    options.camera_params = LENSES[lens]
    return pycolmap.synthesize_dataset(options)


def write(made: Any, folder: Path, binary: bool) -> None:
    sparse = folder / "sparse" / "0"
    sparse.mkdir(parents=True)
    (made.write_binary if binary else made.write_text)(str(sparse))
    for image in made.images.values():
        path = folder / "images" / image.name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)).save(path)


def check(scene: Scene, made: Any) -> int:
    """Every 3D point of every photo lies where pycolmap projects it; how many were looked at."""
    back = scene.input_from_scene.double()
    points = {i: p.xyz for i, p in made.points3D.items()}
    world = np.stack(list(points.values()))
    scene_points = (torch.tensor(world) - back[:3, 3]) @ torch.linalg.inv(back[:3, :3]).T
    seen = 0
    by_name = {Path(image.name).name: image for image in made.images.values()}
    assert len(scene.frames) == len(by_name)
    for frame in scene.frames:
        image = by_name[frame.image_path.name]
        theirs = [image.project_point(p) for p in world]
        camera = frame.camera.to(dtype=torch.float64)
        ours, _ = camera.project(scene_points)
        for mine, their in zip(ours, theirs, strict=True):
            if their is not None and 0 <= their[0] < SIZE[0] and 0 <= their[1] < SIZE[1]:
                # The scene's cameras are float32.
                torch.testing.assert_close(mine, torch.tensor(their), atol=2e-3, rtol=0)
                seen += 1
    return seen


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("lens", LENSES)
def test_models_that_pycolmap_wrote(lens: str, binary: bool, tmp_path: Path) -> None:
    made = reconstruction(lens)
    write(made, tmp_path, binary)
    assert check(load_scene(tmp_path), made) > 50


@pytest.mark.parametrize("lens", LENSES)
def test_models_that_pycolmap_reads(lens: str, tmp_path: Path) -> None:
    """From pycolmap to the studio, written as COLMAP text, and back: the same projections by COLMAP's own code."""
    made = reconstruction(lens)
    write(made, tmp_path / "theirs", True)
    write_scene(load_scene(tmp_path / "theirs"), tmp_path / "ours", "colmap")
    (model,) = {path.parent for path in (tmp_path / "ours").rglob("cameras.txt")}
    read = pycolmap.Reconstruction(str(model))
    world = np.stack([p.xyz for p in made.points3D.values()])
    theirs = {Path(image.name).name: image for image in made.images.values()}
    assert len(read.images) == len(theirs)
    assert len(read.points3D) == len(made.points3D)
    count = 0
    for image in read.images.values():
        for point in world:
            expected, got = theirs[Path(image.name).name].project_point(point), image.project_point(point)
            if expected is not None and 0 <= expected[0] < SIZE[0] and 0 <= expected[1] < SIZE[1]:
                np.testing.assert_allclose(got, expected, atol=2e-3)
                count += 1
    assert count > 50
