"""The vertical told by walls and ground."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.cameras.poses import so3_exp
from studio.readers import load_scene
from studio.scene.vertical import find_planes, vertical_by_planes


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def degrees(a, b):
    return math.degrees(math.acos(max(-1.0, min(1.0, float(a @ b)))))


def room(ground=400, wall=0, second_wall=0, clutter=600, noise=0.002):
    """Points on the plane z = -0.5, on the walls x = 1 and y = 1, and in the room, in random order."""
    generator = torch.Generator().manual_seed(0)

    def box(count, low, high):
        return double(*low) + torch.rand(count, 3, generator=generator, dtype=torch.float64) * double(
            *(b - a for a, b in zip(low, high, strict=True))
        )

    points = torch.cat(
        [
            box(ground, (-1, -1, -0.5), (1, 1, -0.5)),
            box(wall, (1, -1, -0.5), (1, 1, 1)),
            box(second_wall, (-1, 1, -0.5), (1, 1, 1)),
            box(clutter, (-1, -1, -0.5), (1, 1, 1)),
        ]
    )
    points = points + noise * torch.randn(points.shape, generator=generator, dtype=torch.float64)
    return points[torch.randperm(len(points), generator=generator)]


@settings(deadline=None, max_examples=10)
@given(st.tuples(*[st.floats(-1.5, 1.5)] * 3), st.floats(0, 20), st.floats(0, 2 * math.pi), st.floats(0.01, 100))
def test_the_ground_tells_wherever_the_scene_lies(turn, lean, side, size):
    rotation = so3_exp(double(*turn))
    points = size * room() @ rotation.T
    prior = rotation @ so3_exp(math.radians(lean) * double(math.cos(side), math.sin(side), 0)) @ double(0, 0, 1)
    up = vertical_by_planes(points, prior, 1.5 * size)
    assert up is not None
    assert degrees(up, rotation @ double(0, 0, 1)) < 1


def test_two_walls_tell():
    prior = so3_exp(double(0.2, 0.2, 0)) @ double(0, 0, 1)
    up = vertical_by_planes(room(ground=0, wall=300, second_wall=200), prior, 1.5)
    assert degrees(up, double(0, 0, 1)) < 1


def test_one_wall_tells_one_angle_and_the_photos_the_other():
    prior = so3_exp(double(math.radians(5), math.radians(10), 0)) @ double(0, 0, 1)
    up = vertical_by_planes(room(ground=0, wall=400), prior, 1.5)
    assert abs(float(up @ double(1, 0, 0))) < math.sin(math.radians(1))
    assert degrees(up, double(0, 0, 1)) == pytest.approx(5, abs=1)


def test_nothing_tells_where_there_is_no_plane():
    assert vertical_by_planes(room(ground=0), double(0, 0, 1), 1.5) is None
    assert vertical_by_planes(torch.zeros(5, 3), double(0, 0, 1), 1.0) is None
    assert vertical_by_planes(torch.full((500, 3), math.nan), double(0, 0, 1), 1.0) is None
    assert vertical_by_planes(torch.zeros(500, 3), double(0, 0, 1), 1.0) is None


def test_a_ramp_is_neither_ground_nor_wall():
    ramp = room() @ so3_exp(double(math.radians(45), 0, 0)).T
    assert vertical_by_planes(ramp, double(0, 0, 1), 1.5) is None


def test_planes_and_their_shares():
    planes = find_planes(room(ground=500, wall=300, clutter=200), 0.015)
    assert abs(float(planes[0].normal @ double(0, 0, 1))) > 0.9999
    assert abs(float(planes[1].normal @ double(1, 0, 0))) > 0.9999
    assert planes[0].share == pytest.approx(0.5, abs=0.03)
    assert planes[1].share == pytest.approx(0.3, abs=0.03)


@pytest.mark.real_data
@pytest.mark.parametrize("capture", ["captures/can", "lund_door", "../cases/captures/train_tiny"])
def test_walls_of_real_captures_stand_upright(data_dir, capture):
    """The plane that holds the most points is a wall in each of them."""
    folder = data_dir / capture
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    scene = load_scene(folder)
    (wall, *_) = find_planes(scene.points.xyz, 0.01)
    assert abs(90 - degrees(wall.normal, double(0, 0, 1))) < 3


def test_the_table_top_lies_level():
    scene = load_scene("scenes/tabletop")
    (table, *_) = find_planes(scene.points.xyz, 0.01)
    assert degrees(table.normal * torch.sign(table.normal[2]), double(0, 0, 1)) < 1
