"""Where the classic field samples: boxes, near and far, the two ways of sampling, silhouettes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_scenes import write_ring_scene
from torch import Tensor, nn

from studio.errors import StudioError
from studio.marching import OccupancyGrid
from studio.readers import load_scene
from studio.scene import PhotoStore, Scene
from studio_nerf.classic import gridded, hierarchical
from studio_nerf.classic.region import interval, scene_box, to_cube, within
from studio_nerf.classic.silhouettes import carve

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


class Ball(nn.Module):
    """Stands for a network: a homogeneous ball of one colour that depends on the direction, in closed form."""

    def __init__(self, radius: float, density: float) -> None:
        super().__init__()
        self.radius, self.level = radius, density
        self.asked = 0

    def features(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return x

    def density_of(self, features: Tensor, noise: Tensor | None = None) -> Tensor:
        return self.level * (features.norm(dim=-1) < self.radius).float()

    def color_of(self, features: Tensor, encoded: Tensor) -> Tensor:
        return (encoded[:, :3] + 1) / 2


def rays(count: int, seed: int = 0, distance: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    origins = distance * nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    towards = 0.8 * (torch.rand(count, 3, generator=generator) * 2 - 1)
    return origins, nn.functional.normalize(towards - origins, dim=-1)


def exact_opacity(origins: Tensor, directions: Tensor, radius: float, density: float) -> Tensor:
    along = -(origins * directions).sum(-1)
    miss = origins.square().sum(-1) - along.square()
    return 1 - torch.exp(-density * 2 * (radius**2 - miss).clamp(min=0).sqrt())


# ---- the box -----------------------------------------------------------------------------------------------------
def test_a_camera_in_the_box_begins_at_near_and_a_miss_has_no_length() -> None:
    origins = torch.tensor([[0.0, 0, 0], [3.0, 0, 0], [3.0, 0, 0], [3.0, 3, 0]])
    directions = torch.tensor([[0.0, 0, 1], [-1.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0]])
    where = interval(origins, directions, BOX, near=0.1, far=None)
    torch.testing.assert_close(where.near[:2], torch.tensor([0.1, 2.0]))
    torch.testing.assert_close(where.far[:2], torch.tensor([1.0, 4.0]))
    assert where.hit.tolist() == [True, True, False, False]
    assert torch.equal(where.near[2:], where.far[2:])


def test_far_cuts_and_never_comes_before_near() -> None:
    origins, directions = torch.tensor([[3.0, 0, 0], [9.0, 0, 0]]), torch.tensor([[-1.0, 0, 0], [-1.0, 0, 0]])
    where = interval(origins, directions, BOX, near=0.0, far=3.5)
    torch.testing.assert_close(where.far, torch.tensor([3.5, 8.0]))
    assert where.hit.tolist() == [True, False]


def test_positions_scale_alike_into_the_cube() -> None:
    box = torch.tensor([[0.0, 0.0, 0.0], [4.0, 2.0, 1.0]])
    found = to_cube(torch.tensor([[0.0, 0, 0], [4.0, 2, 1], [2.0, 1, 0.5]]), box)
    torch.testing.assert_close(found, torch.tensor([[-1.0, -0.5, -0.25], [1.0, 0.5, 0.25], [0.0, 0, 0]]))
    assert within(torch.tensor([[4.0, 2, 1], [4.1, 1, 1]]), box).tolist() == [True, False]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return load_scene(write_ring_scene(tmp_path_factory.mktemp("nerf") / "ring", alpha=True))


def test_without_bounds_the_box_is_around_what_the_cameras_look_at(scene: Scene) -> None:
    assert scene.bounds is None
    # Normalised: the ring has radius 1 about the origin.
    torch.testing.assert_close(scene_box(scene), BOX, rtol=1e-4, atol=1e-4)


def test_a_flat_box_and_parallel_cameras_are_refused(scene: Scene) -> None:
    flat = torch.tensor([[-1.0, -1.0, 0.0], [1.0, 1.0, 0.0]])
    with pytest.raises(StudioError, match="bounds have no volume"):
        scene_box(replace(scene, bounds=flat))
    with pytest.raises(StudioError, match="no bounds, and its cameras look at nothing in common"):
        scene_box(replace(scene, frames=scene.frames[:1]))


# ---- hierarchical ------------------------------------------------------------------------------------------------
def test_both_networks_see_what_the_paper_says() -> None:
    coarse, fine = Ball(0.6, 4.0), Ball(0.6, 4.0)
    origins, directions = rays(50)
    where = interval(origins, directions, BOX, near=0.0, far=None)
    hit = where.hit
    origins, directions = origins[hit], directions[hit]
    where = interval(origins, directions, BOX, near=0.0, far=None)
    generator = torch.Generator().manual_seed(3)
    first, second = hierarchical.march(
        coarse, fine, origins, directions, where, BOX,  # type: ignore[arg-type]
        coarse_samples=64, fine_samples=128, opaque=False, generator=generator,
    )  # fmt: skip
    count = len(origins)
    assert (coarse.asked, fine.asked) == (64 * count, 192 * count)
    assert bool((second.t.diff(dim=1) >= 0).all())
    for ray in range(count):
        assert set(first.t[ray].tolist()) <= set(second.t[ray].tolist())
    # One in each of 64 even bins.
    bins = ((first.t - where.near[:, None]) / (where.far - where.near)[:, None] * 64).floor().clamp(max=63).long()
    assert torch.equal(bins, torch.arange(64).expand(count, 64))
    # Where the coarse network sees the ball, most of the further samples are in it.
    through = exact_opacity(origins, directions, 0.6, 4.0) > 0.5
    points = origins[through, None] + directions[through, None] * second.t[through][..., None]
    share = (points.norm(dim=-1) < 0.65).float().mean()
    even = origins[through, None] + directions[through, None] * first.t[through][..., None]
    assert share > 0.6
    assert share > 1.5 * (even.norm(dim=-1) < 0.65).float().mean()


def test_fine_samples_integrate_a_ball() -> None:
    origins, directions = rays(200, seed=4)
    hit = interval(origins, directions, BOX, near=0.0, far=None).hit
    origins, directions = origins[hit], directions[hit]
    where = interval(origins, directions, BOX, near=0.0, far=None)
    ball = Ball(0.6, 4.0)
    _, seen = hierarchical.march(
        ball, ball, origins, directions, where, BOX,  # type: ignore[arg-type]
        coarse_samples=64, fine_samples=128, opaque=False,
    )  # fmt: skip
    expected = exact_opacity(origins, directions, 0.6, 4.0)
    error = (seen.weights.sum(-1) - expected).abs()
    assert float(error.mean()) < 0.01
    # A background shows as far as nothing stops it.
    white = seen.color(torch.ones(3))
    black = seen.color(torch.zeros(3))
    torch.testing.assert_close(white - black, (1 - seen.weights.sum(-1, keepdim=True)).expand(-1, 3))


def test_opaque_rays_end_at_their_last_sample() -> None:
    origins, directions = torch.tensor([[0.0, 0, -3]]), torch.tensor([[0.0, 0, 1]])
    where = interval(origins, directions, BOX, near=0.0, far=None)
    haze = Ball(2.0, 0.1)
    for opaque, expected in ((True, 1.0), (False, 1 - math.exp(-0.1 * 2))):
        _, seen = hierarchical.march(
            haze, haze, origins, directions, where, BOX,  # type: ignore[arg-type]
            coarse_samples=64, fine_samples=128, opaque=opaque,
        )  # fmt: skip
        assert float(seen.weights.sum()) == pytest.approx(expected, abs=2e-3)


# ---- grid --------------------------------------------------------------------------------------------------------
def grid_of(ball: Ball) -> OccupancyGrid:
    grid = OccupancyGrid(BOX, resolution=32)
    axis = (torch.arange(32) + 0.5) / 16 - 1
    centres = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    grid.set_cells((centres.norm(dim=-1) < ball.radius + 0.1)[None])
    return grid


def test_skipping_changes_nothing_that_is_seen() -> None:
    ball = Ball(0.6, 40.0)
    origins, directions = rays(300, seed=5)
    where = interval(origins, directions, BOX, near=0.0, far=None)
    grid, full = grid_of(ball), OccupancyGrid(BOX, resolution=32)
    generator = [torch.Generator().manual_seed(1) for _ in range(2)]
    white = torch.ones(3)
    learned = gridded.march_to_learn(
        ball,
        grid,
        origins,
        directions,
        where,
        BOX,
        step_size=0.01,
        generator=generator[0],  # type: ignore[arg-type]
    )
    everything = gridded.march_to_see(ball, full, origins, directions, where, BOX, step_size=0.01)  # type: ignore[arg-type]
    assert len(learned.samples) < 0.2 * len(everything.samples)
    assert learned.cost < 0.5 * everything.cost
    # The samples of training are jittered: the ball's edge moves by a step at most.
    assert float((learned.color(white) - everything.color(white)).abs().mean()) < 0.01
    deep = exact_opacity(origins, directions, 0.6, 40.0) > 0.999
    torch.testing.assert_close(learned.color(white)[deep], everything.color(white)[deep], rtol=0, atol=2e-3)
    missed = exact_opacity(origins, directions, 0.7, 40.0) == 0
    assert bool(missed.any())
    torch.testing.assert_close(learned.color(white)[missed], torch.ones(int(missed.sum()), 3))


# ---- silhouettes -------------------------------------------------------------------------------------------------
def test_silhouettes_keep_the_object_and_empty_what_is_seen_through(tmp_path: Path) -> None:
    # A disc of radius 16 pixels in every photo, seen from a ring: that of a ball.
    folder = write_ring_scene(tmp_path / "ring", photos=16, width=96, height=48, alpha=True)
    scene = load_scene(folder)
    photos = PhotoStore(scene.frames)
    grid = OccupancyGrid(scene_box(scene), resolution=32)
    carve(grid, photos)
    kept = grid.cells[0]
    radius = 1 / math.hypot(1.2 * 96 / 16, 1)  # the cameras are at distance 1
    axis = (torch.arange(32) + 0.5) / 16 - 1
    centres = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    distance = centres.norm(dim=-1)
    assert bool(kept[distance < radius].all())
    # On the ring's plane the hull is close to the ball, and two cells outside of it all is gone that photos show.
    plane = (centres[..., 2].abs() < 0.1) & (distance > radius + 0.12) & (distance < 0.34)
    assert int(plane.sum()) > 100
    assert not bool(kept[plane].any())
    # For good: an update that finds matter everywhere brings none of it back.
    before = int(kept.sum())
    grid.update(lambda points: torch.full((len(points),), 100.0), step_size=0.1)
    assert int(grid.cells[0].sum()) == before


def test_opaque_photos_carve_nothing(tmp_path: Path) -> None:
    scene = load_scene(write_ring_scene(tmp_path / "ring"))
    grid = OccupancyGrid(scene_box(scene), resolution=8)
    carve(grid, PhotoStore(scene.frames))
    assert bool(grid.cells.all())
