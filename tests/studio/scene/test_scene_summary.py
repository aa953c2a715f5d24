from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from rich.console import Console

from studio.cameras import Cameras
from studio.cameras.poses import Similarity
from studio.scene import Frame, PointCloud, Scene, render_summary, summarize, transform_scene


@pytest.fixture
def scene(tmp_path):
    frames = []
    cameras = [
        {"width": 20, "height": 10, "fx": 10.0},
        {"width": 20, "height": 10, "fx": 20.0, "model": "opencv", "distortion": [0.1, -0.3]},
        {"width": 8, "height": 8, "fx": 8.0, "model": "fisheye"},
    ]
    for i, numbers in enumerate(cameras):
        pose = torch.eye(4)
        pose[0, 3] = i
        path = tmp_path / f"[{i}].png"
        size = (numbers["width"], numbers["height"])
        Image.new("RGBA" if i == 0 else "RGB", size).save(path)
        split = "test" if i == 2 else "train"
        mask = path if i == 1 else None
        frames.append(Frame(path.name, path, Cameras.make(pose, **numbers), split, mask, (1.0 + i, 5.0)))
    points = PointCloud(torch.rand(7, 3), torch.rand(7, 3))
    bounds = torch.tensor([[-1.0, -2, -3], [1, 2, 3]])
    return Scene("a[b]", tmp_path, "colmap", tuple(frames), points, bounds, notes=("two [submodels]",))


def test_figures(scene):
    summary = summarize(scene)
    assert summary.photos == {"train": 2, "val": 0, "test": 1}
    assert summary.sizes == {"20x10": 2, "8x8": 1}
    assert summary.camera_models == {"pinhole": 1, "opencv": 1, "fisheye": 1}
    assert (summary.focal_pixels.min, summary.focal_pixels.max) == (8, 20)
    assert summary.field_of_view_degrees.max == pytest.approx(90)
    assert summary.field_of_view_degrees.min == pytest.approx(2 * math.degrees(math.atan(0.5)))
    assert (summary.distorted, summary.largest_distortion) == (1, pytest.approx(0.3))
    assert (summary.alpha, summary.masks, summary.points) == (1, 1, 7)
    assert summary.bounds == [[-1, -2, -3], [1, 2, 3]]
    assert summary.camera_box == [[0, 0, 0], [2, 0, 0]]
    assert (summary.depth_range.min, summary.depth_range.max) == (1, 5)
    assert summary.camera_extent == pytest.approx(0.55)
    assert summary.input_scale == 1
    assert summary.notes == ["two [submodels]"]


def test_extent_of_the_points(scene):
    points = PointCloud(torch.tensor([[0.1, 0.0, 0.0], [0.0, -0.3, 0.2], [0.0, 0.0, 9.0]]), torch.zeros(3, 3))
    assert replace(scene, points=points).points_extent == pytest.approx(0.3)
    assert replace(scene, points=None).points_extent is None
    assert replace(scene, points=PointCloud(torch.zeros(0, 3), torch.zeros(0, 3))).points_extent is None


def test_json_round_trip(scene):
    data = summarize(scene).to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_scale_of_a_normalised_scene(scene):
    half = Similarity(0.5, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    assert summarize(transform_scene(scene, half)).input_scale == pytest.approx(2)


def test_rendering_shows_everything_and_keeps_brackets(scene):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_summary(summarize(scene)))
    text = console.export_text()
    for part in (
        "a[b] (colmap)",
        "2 train, 1 test (3 in all)",
        "2 20x10, 1 8x8",
        "8 to 20 pixels",
        "1 photos, coefficients up to 0.3",
        "1 photos with alpha, 1 with a mask",
        "(-1, -2, -3) to (1, 2, 3)",
        "note: two [submodels]",
    ):
        assert part in text


def test_an_empty_scene_has_no_summary():
    with pytest.raises(ValueError, match="without frames"):
        summarize(Scene("s", Path("s"), "colmap", ()))
