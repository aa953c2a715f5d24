"""studio data convert: any scene as transforms.json or a COLMAP model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from studio.readers import load_scene


@pytest.mark.parametrize("to", ["transforms", "colmap"])
def test_a_scene_is_converted(studio: Any, scene_folder: Path, to: str) -> None:
    done = studio("data", "convert", scene_folder, "--to", to, "--output", "new")
    assert done.code == 0, done.err
    assert done.out == "new\n"
    assert "10 photos" in done.err
    before, after = load_scene(scene_folder, normalize="none"), load_scene("new", normalize="none")
    assert after.format == to
    assert len(after.frames) == 10
    found = {frame.image_path.resolve(): frame.camera.camera_to_world for frame in after.frames}
    for frame in before.frames:
        torch.testing.assert_close(found[frame.image_path.resolve()], frame.camera.camera_to_world, atol=1e-6, rtol=0)


def test_a_colmap_model_becomes_transforms(studio: Any, data_dir: Path) -> None:
    source = data_dir / "lund_door"
    options = () if (source / "sparse").exists() else ("--colmap-model", "colmap_ground_truth")
    done = studio("data", "convert", source, *options, "--output", "door")
    assert done.code == 0, done.err
    scene = load_scene("door", normalize="none")
    assert len(scene.frames) == 12
    assert scene.frames[0].camera.model == "opencv"
    assert scene.points is not None
    assert len(scene.points) == 11_384


def test_bad_requests(studio: Any, scene_folder: Path) -> None:
    before = sorted(path.name for path in scene_folder.iterdir())
    done = studio("data", "convert", scene_folder, "--output", scene_folder)
    assert done.code == 2
    assert "is the folder to convert. Give another one with --output." in done.err
    assert studio("data", "convert", scene_folder).code == 2
    assert studio("data", "convert", "absent", "--output", "x").code == 2
    done = studio("data", "konvert", scene_folder)
    assert "There is: studio data info PATH, studio data process PATH, studio data convert PATH." in done.err
    assert "studio data convert PATH --output FOLDER" in studio("data", "--help").out
    assert sorted(path.name for path in scene_folder.iterdir()) == before
