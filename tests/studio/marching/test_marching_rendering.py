"""Rendering through the grid in rounds, and whole cameras."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from studio.cameras import Cameras, Rays, look_at
from studio.marching import (
    OccupancyGrid,
    march_rays,
    packed_composite,
    packed_expected_depth,
    packed_median_depth,
    packed_opacity,
    packed_weights,
    ray_sphere,
    render_camera,
    z_depth,
)

CUBE = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])


def _ball(points: Tensor) -> Tensor:
    return 6.0 * (points.norm(dim=-1) < 0.8).float()


def _grid() -> OccupancyGrid:
    grid = OccupancyGrid(CUBE, 32)
    centres = (torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"), -1) + 0.5) / 16 - 1
    grid.set_cells((centres.norm(dim=-1) < 0.8 + 0.06)[None])
    return grid


def _rays(count: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    origins = torch.randn(count, 3, generator=g)
    origins = 3 * origins / origins.norm(dim=-1, keepdim=True)
    directions = 0.9 * torch.randn(count, 3, generator=g) - origins
    return origins, directions / directions.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("density_scale", [0.2, 1.0, 20.0])
def test_rounds_equal_one_march(density_scale: float) -> None:
    grid, (origins, directions) = _grid(), _rays(300)
    asked = []

    def shade(points: Tensor, along: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
        assert torch.equal(along, directions[ray])
        asked.append(len(points))
        return density_scale * _ball(points), points.sin()

    out = march_rays(grid, origins, directions, shade, step_size=0.01, early_stop=1e-4)
    samples = grid.march(origins, directions, step_size=0.01)
    points = samples.positions(origins, directions)
    weights, _ = packed_weights(density_scale * _ball(points), samples)
    assert torch.allclose(out.opacity, packed_opacity(weights, samples), atol=2e-4)
    assert torch.allclose(out.values, packed_composite(weights, points.sin(), samples), atol=2e-4)
    solid = out.opacity > 0.6
    assert 0.1 < float(solid.float().mean()) < 0.9
    assert torch.allclose(out.median[solid], packed_median_depth(weights, samples)[solid], atol=1e-3)
    depth = packed_expected_depth(weights, samples)
    assert torch.allclose((out.moment / out.opacity)[solid], depth[solid], atol=2e-3)
    near, far, _ = ray_sphere(origins, directions, torch.zeros(3), 0.8)
    exact = 1 - torch.exp(-6 * density_scale * (far - near))
    assert float((out.opacity - exact).abs().max()) < 6 * density_scale * 0.01 + 1e-3
    if density_scale == 20.0:
        assert sum(asked) < 0.6 * len(samples)


def test_near_far_and_most_samples_hold() -> None:
    grid, (origins, directions) = _grid(), _rays(50)
    near, far = torch.full((50,), 2.5), torch.full((50,), 3.0)
    seen: list[Tensor] = []

    def shade(points: Tensor, along: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((points - origins[ray]).norm(dim=-1))
        return 0.1 * _ball(points), points[:, :1]

    out = march_rays(grid, origins, directions, shade, channels=1, near=near, far=far, step_size=0.01)
    assert out.values.shape == (50, 1)
    t = torch.cat(seen)
    assert 2.5 - 1e-5 < float(t.min()) < float(t.max()) < 3.0 + 1e-5
    seen.clear()
    march_rays(grid, origins, directions, shade, channels=1, step_size=0.01, max_samples=20)
    assert 0 < sum(len(x) for x in seen) <= 20 * 50


def test_a_camera_in_chunks_is_the_picture() -> None:
    pose = look_at(torch.tensor([0.0, 0.0, -3.0]), torch.zeros(3), torch.tensor([0.0, -1.0, 0.0]))
    camera = Cameras.make(pose, fx=30.0, fy=30.0, cx=16.0, cy=12.0, width=32, height=24)
    sizes = []

    def shade(rays: Rays) -> dict[str, Tensor]:
        sizes.append(len(rays))
        near, _, hit = ray_sphere(rays.origins, rays.directions, torch.zeros(3), 1.0)
        return {"depth": z_depth(near, rays), "normal": rays.at(near), "hit": hit}

    parts = render_camera(camera, shade, chunk=100)
    assert sizes == [100] * 7 + [68]
    assert parts["depth"].shape == (24, 32)
    assert parts["normal"].shape == (24, 32, 3)
    whole = render_camera(camera, shade)
    assert all(torch.equal(parts[name], whole[name]) for name in parts)
    # z-depth, not distance: unprojecting it gives the points on the sphere again.
    rays = camera.rays()
    pixels = torch.stack(torch.meshgrid(torch.arange(32) + 0.5, torch.arange(24) + 0.5, indexing="xy"), -1)
    points = camera.unproject(pixels, whole["depth"])
    assert torch.allclose(points[whole["hit"]], whole["normal"][whole["hit"]], atol=1e-5)
    assert float(rays.depth_scale.min()) < 0.9
    with pytest.raises(ValueError, match="camera: expected a single camera"):
        render_camera(camera.reshape(1), shade)
