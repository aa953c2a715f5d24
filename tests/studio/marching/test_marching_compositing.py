"""Dense volume rendering against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.marching import (
    composite,
    distortion_loss,
    expected_depth,
    median_depth,
    midpoints,
    opacity,
    ray_sphere,
    stratified,
    weights_from_density,
)

F8 = torch.float64


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 20), st.floats(0.01, 5), st.integers(1, 64), st.integers(0, 5))
def test_constant_density_has_its_opacity_however_it_is_cut(sigma: float, length: float, count: int, seed: int) -> None:
    near = torch.tensor([2.0], dtype=F8)
    edges = stratified(near, near + length, count, generator=torch.Generator().manual_seed(seed))
    weights = weights_from_density(torch.full((1, count), sigma, dtype=F8), edges)
    assert float(opacity(weights)) == pytest.approx(1 - math.exp(-sigma * length), abs=1e-12)
    assert bool((weights >= 0).all())
    if sigma * float(edges.diff().max()) > 20:
        return  # the weight of so opaque an interval is 1 up to rounding and no longer tells its density
    # The transmittance of an exponential law is one half at ln 2 / sigma, wherever the edges lie.
    expected = 2 + (math.log(2) / sigma if sigma * length > math.log(2) + 1e-9 else length)
    assert float(median_depth(weights, edges)) == pytest.approx(expected, rel=1e-6)


def test_constant_density_expected_depth() -> None:
    sigma, near, length, count = 3.0, 2.0, 4.0, 4096
    edges = stratified(torch.tensor([near], dtype=F8), torch.tensor([near + length], dtype=F8), count)
    weights = weights_from_density(torch.full((1, count), sigma, dtype=F8), edges)
    x = sigma * length
    mean = near + 1 / sigma - length * math.exp(-x) / (1 - math.exp(-x))
    assert float(expected_depth(weights, midpoints(edges))) == pytest.approx(mean, abs=1e-6)


def test_slab_hides_what_is_behind_it() -> None:
    edges = torch.linspace(0, 10, 1001, dtype=F8)
    t = midpoints(edges)
    slab = (t > 3) & (t < 4)
    behind = t > 6
    density = 2.0 * slab + 5.0 * behind
    weights = weights_from_density(density, edges)
    colour = composite(weights, torch.stack([slab, behind, torch.zeros_like(slab)], -1).to(F8), torch.ones(3).to(F8))
    through = math.exp(-2.0)
    last = math.exp(-20.0)
    expected = [1 - through + through * last, through * (1 - last) + through * last, through * last]
    assert colour.tolist() == pytest.approx(expected, abs=1e-12)


def test_sphere_opacity_is_that_of_the_chord() -> None:
    g = torch.Generator().manual_seed(0)
    o = torch.randn(64, 3, generator=g, dtype=F8)
    o = 4 * o / o.norm(dim=-1, keepdim=True)
    d = 0.2 * torch.randn(64, 3, generator=g, dtype=F8) - o / 4
    d = d / d.norm(dim=-1, keepdim=True)
    near, far, hit = ray_sphere(o, d, torch.zeros(3).to(F8), 1.0)
    assert 0.1 < float(hit.double().mean()) < 1
    weights = weights_from_density(torch.full((64, 32), 1.7, dtype=F8), stratified(near, far, 32))
    miss = torch.linalg.cross(o, d).norm(dim=-1)
    chord = 2 * (1 - miss.square()).clamp_min(0).sqrt()
    assert torch.allclose(opacity(weights), 1 - torch.exp(-1.7 * chord), atol=1e-12)


def test_last_infinite_interval_stops_the_ray_at_any_density() -> None:
    edges = torch.tensor([0.0, 1.0, 2.0, 2.0])
    weights = weights_from_density(torch.tensor([0.0, 0.0, 0.3]), edges, last_infinite=True)
    assert weights.tolist() == [0.0, 0.0, 1.0]
    assert weights_from_density(torch.zeros(3), edges, last_infinite=True).sum() == 0


def test_tiny_densities_keep_their_digits() -> None:
    edges = torch.linspace(0, 1, 101)
    weights = weights_from_density(torch.full((100,), 1e-6), edges)
    assert float(opacity(weights)) == pytest.approx(1e-6, rel=1e-4)


def test_depth_of_a_wall() -> None:
    edges = torch.linspace(0, 10, 101)
    density = torch.zeros(100)
    density[42] = 1e4
    weights = weights_from_density(density, edges)
    assert float(median_depth(weights, edges)) == pytest.approx(4.2, abs=0.01)
    assert float(expected_depth(weights, midpoints(edges))) == pytest.approx(4.25)


def test_nothing_on_the_ray() -> None:
    edges = torch.linspace(0, 10, 11).expand(2, 11)
    density = torch.zeros(2, 10, requires_grad=True)
    weights = weights_from_density(density, edges)
    assert expected_depth(weights, midpoints(edges)).tolist() == [0.0, 0.0]
    assert median_depth(weights, edges).tolist() == [10.0, 10.0]
    total = composite(weights, torch.ones(2, 10, 3), torch.tensor([0.2, 0.4, 0.6]))
    assert total[0].tolist() == pytest.approx([0.2, 0.4, 0.6])
    (expected_depth(weights, midpoints(edges)) + median_depth(weights, edges) + total.sum(-1)).sum().backward()
    assert density.grad is not None
    assert bool(density.grad.isfinite().all())


def test_distortion_is_the_double_sum() -> None:
    g = torch.Generator().manual_seed(1)
    edges = torch.rand(5, 9, generator=g, dtype=F8).sort(-1).values
    weights = torch.rand(5, 8, generator=g, dtype=F8)
    middle = midpoints(edges)
    pairs = weights[:, :, None] * weights[:, None, :] * (middle[:, :, None] - middle[:, None, :]).abs()
    expected = pairs.sum((1, 2)) + (weights.square() * edges.diff()).sum(-1) / 3
    assert torch.allclose(distortion_loss(weights, edges), expected, atol=1e-12)


def test_gradients_match_finite_differences() -> None:
    g = torch.Generator().manual_seed(2)
    density = (3 * torch.rand(2, 6, generator=g, dtype=F8)).requires_grad_()
    edges = (torch.rand(2, 7, generator=g, dtype=F8).cumsum(-1)).requires_grad_()
    values = torch.rand(2, 6, 3, generator=g, dtype=F8).requires_grad_()
    background = torch.rand(3, generator=g, dtype=F8).requires_grad_()

    def everything(
        density: torch.Tensor, edges: torch.Tensor, values: torch.Tensor, background: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        weights = weights_from_density(density, edges)
        return (
            composite(weights, values, background),
            expected_depth(weights, midpoints(edges)),
            median_depth(weights, edges),
            distortion_loss(weights, edges),
        )

    torch.autograd.gradcheck(everything, (density, edges, values, background))


def test_edges_must_fit() -> None:
    with pytest.raises(ValueError, match="edges: expected 5 a ray"):
        weights_from_density(torch.zeros(2, 4), torch.zeros(2, 4))
