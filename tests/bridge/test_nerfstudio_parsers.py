"""nerfstudio's data parsers as readers: the same scene as by our own readers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studio.cli.main import main
from studio.errors import StudioError
from studio.export.scene_files import write_scene
from studio.readers import load_scene
from studio.scene import Scene

TABLETOP = Path(__file__).resolve().parents[2] / "scenes" / "tabletop"


def compare(found: Scene, expected: Scene) -> None:
    """The same photos with the same cameras, splits and points."""
    by_name = {frame.image_path.resolve(): frame for frame in expected.frames}
    assert {frame.image_path.resolve() for frame in found.frames} == set(by_name)
    for frame in found.frames:
        other = by_name[frame.image_path.resolve()]
        assert frame.split == other.split
        assert frame.camera.size == other.camera.size
        assert frame.camera.model == other.camera.model
        torch.testing.assert_close(frame.camera.intrinsics, other.camera.intrinsics)
        torch.testing.assert_close(frame.camera.camera_to_world, other.camera.camera_to_world, atol=2e-5, rtol=0)
    torch.testing.assert_close(found.scene_from_input, torch.eye(4, dtype=torch.float64))


def test_transforms_are_read_alike() -> None:
    found = load_scene(TABLETOP, format="nerfstudio", normalize="none")
    expected = load_scene(TABLETOP, normalize="none")
    compare(found, expected)
    assert found.points is not None
    assert expected.points is not None
    torch.testing.assert_close(found.points.xyz, expected.points.xyz, atol=2e-5, rtol=0)
    torch.testing.assert_close(found.points.rgb, expected.points.rgb, atol=1 / 255, rtol=0)


def test_colmap_models_are_read_alike(tmp_path: Path) -> None:
    write_scene(load_scene(TABLETOP, normalize="none"), tmp_path, "colmap")
    found = load_scene(tmp_path, format="nerfstudio:colmap", normalize="none")
    expected = {f.image_path.name: f for f in load_scene(tmp_path, normalize="none", eval_every=0).frames}
    assert {f.image_path.name for f in found.frames} == set(expected)
    assert found.split("test")
    for frame in found.frames:
        pose = expected[frame.image_path.name].camera.camera_to_world
        torch.testing.assert_close(frame.camera.camera_to_world, pose, atol=2e-5, rtol=0)


def test_blender_scenes_are_read_alike(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        frames = []
        for number in range(3):
            turn, _ = np.linalg.qr(generator.normal(size=(3, 3)))
            pose = np.eye(4)
            pose[:3, :3] = turn * np.sign(np.linalg.det(turn))
            pose[:3, 3] = generator.normal(size=3)
            Image.new("RGBA", (20, 14), (number, 0, 0, 200)).save(tmp_path / f"{split}_{number}.png")
            frames.append({"file_path": f"./{split}_{number}", "transform_matrix": pose.tolist()})
        document = {"camera_angle_x": 0.7, "frames": frames}
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps(document))
    found = load_scene(tmp_path, format="nerfstudio:blender", normalize="none")
    expected = load_scene(tmp_path, format="blender", normalize="none")
    compare(found, Scene(**{**vars(expected), "frames": expected.split("train") + expected.split("test")}))


def test_training_on_a_parser_of_nerfstudio(tmp_path: Path) -> None:
    options = ["--steps", "3", "--downscale", "8", "--no-previews", "--no-tensorboard", "--device", "cpu"]
    command = ["train", "splat", str(TABLETOP), "--format", "nerfstudio:nerfstudio-data", "--output", str(tmp_path)]
    assert main([*command, *options, "--max-gaussians", "200"]) == 0
    (config,) = tmp_path.rglob("config.yaml")
    assert "nerfstudio:nerfstudio-data" in config.read_text()


def test_mistakes_are_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match=r"no data parser 'colonel'. Parsers: nerfstudio-data, .*colmap"):
        load_scene(TABLETOP, format="nerfstudio:colonel")
    with pytest.raises(StudioError, match="nerfstudio:blender cannot read this folder"):
        load_scene(tmp_path, format="nerfstudio:blender")
