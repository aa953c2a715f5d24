"""Points from posed photos: photos of textured walls, whose every pixel is known to lie on one of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from studio.cameras import Cameras
from studio.cameras.poses import look_at
from studio.scene import Frame, PhotoStore, PointCloud, Scene
from studio.triangulation import triangulate, with_points

SIZE = (160, 120)
HALF = 2.0
"""Half the side of the room, a cube around the origin, seen from inside."""


def _texture(points: Tensor) -> Tensor:
    """Colours of points on the walls: noise of several sizes, another on each wall."""
    generator = torch.Generator().manual_seed(5)
    color = torch.zeros(len(points), 3)
    for scale in (3.0, 7.0, 13.0):
        directions = torch.randn(24, 3, generator=generator)
        directions = directions / directions.norm(dim=1, keepdim=True)
        phases = torch.rand(24, generator=generator) * 2 * math.pi
        waves = torch.sin(scale * (points @ directions.T) + phases)
        color += waves @ torch.randn(24, 3, generator=generator) / 24
    return (0.5 + 0.6 * color).clamp(0, 1)


def _camera(eye: tuple[float, float, float], target: tuple[float, float, float], roll: float = 0.0) -> Cameras:
    pose = look_at(torch.tensor(eye), torch.tensor(target), torch.tensor([0.0, 0.0, 1.0])).float()
    turn = torch.eye(4)
    turn[:2, :2] = torch.tensor([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    return Cameras.make(pose @ turn, fx=130.0, fy=130.0, cx=SIZE[0] / 2, cy=SIZE[1] / 2, width=SIZE[0], height=SIZE[1])


def _room(folder: Path, cameras: list[Cameras]) -> Scene:
    frames = []
    for index, camera in enumerate(cameras):
        rays = camera.rays()
        # Inside a cube a ray ends at the nearest wall before it.
        walls = torch.where(rays.directions > 0, HALF, -HALF)
        distance = ((walls - rays.origins) / rays.directions).amin(dim=-1)
        points = rays.at(distance).reshape(-1, 3)
        pixels = (_texture(points).reshape(SIZE[1], SIZE[0], 3) * 255).round().byte().numpy()
        path = folder / f"{index:02d}.png"
        Image.fromarray(pixels).save(path)
        frames.append(Frame(path.name, path, camera, "train"))
    return Scene("room", folder, "blender", tuple(frames))


def _arc(count: int, roll: float = 0.0) -> list[Cameras]:
    return [
        _camera((1.2 * math.sin(a), -1.2 * math.cos(a), 0.1), (0.0, 1.0, 0.0), roll * (-1) ** i)
        for i, a in enumerate(np.linspace(-0.6, 0.6, count))
    ]


@pytest.mark.parametrize("roll", [0.0, 0.5])
def test_points_lie_on_the_walls(tmp_path: Path, roll: float) -> None:
    scene = _room(tmp_path, _arc(8, roll))
    store = PhotoStore(scene.frames)
    points = triangulate(store)
    assert len(points) > 150
    off = (points.xyz.abs().amax(dim=1) - HALF).abs()
    # At a distance of 3 a pixel covers 0.023 across, and several times as much along rays that cross at ten degrees.
    assert float(off.median()) < 0.04
    assert float((off < 0.2).float().mean()) > 0.95
    difference = (points.rgb - _texture(points.xyz)).abs().mean(dim=1)
    assert float(difference.median()) < 0.1
    again = triangulate(PhotoStore(scene.frames))
    assert torch.equal(points.xyz, again.xyz), "the same photos give the same points"


def test_what_photos_do_not_share_gives_no_points(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    frames = []
    for index, camera in enumerate(_arc(6)):
        path = tmp_path / f"{index}.png"
        Image.fromarray(generator.integers(0, 255, (SIZE[1], SIZE[0], 3), dtype=np.uint8)).save(path)
        frames.append(Frame(path.name, path, camera, "train"))
    assert len(triangulate(PhotoStore(frames))) < 20
    blank = tmp_path / "blank.png"
    Image.new("RGB", SIZE, (90, 90, 90)).save(blank)
    flat = [replace(frame, image_path=blank) for frame in frames]
    assert len(triangulate(PhotoStore(flat))) == 0
    assert len(triangulate(PhotoStore(frames[:1]))) == 0


def test_photos_from_one_place_tell_no_depth(tmp_path: Path) -> None:
    turning = [_camera((0.0, 0.0, 0.0), (math.sin(a), math.cos(a), 0.0)) for a in np.linspace(-0.3, 0.3, 5)]
    assert len(triangulate(PhotoStore(_room(tmp_path, turning).frames))) == 0


def test_masked_parts_give_no_points(tmp_path: Path) -> None:
    scene = _room(tmp_path, _arc(8))
    mask = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    mask[:, : SIZE[0] // 2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    frames = [replace(frame, mask_path=tmp_path / "mask.png") for frame in scene.frames]
    points = triangulate(PhotoStore(frames))
    assert len(points) > 20
    pixels, _ = frames[4].camera.project(points.xyz)
    # What every photo shows in its left half only, the middle one shows there as well, give or take its neighbours.
    assert float((pixels[:, 0] < 0.75 * SIZE[0]).float().mean()) > 0.95


def test_a_scene_gets_points_only_where_it_has_none(tmp_path: Path) -> None:
    scene = _room(tmp_path, _arc(8))
    told: list[str] = []
    found = with_points(scene, PhotoStore(scene.frames), told.append)
    assert found.points is not None
    assert found.bounds is not None
    assert f"{len(found.points):,} were triangulated" in told[0]
    own = replace(scene, points=PointCloud(torch.rand(200, 3), torch.rand(200, 3)))
    assert with_points(own, PhotoStore(own.frames)) is own
