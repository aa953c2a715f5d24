"""Stratified and importance sampling."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from studio.errors import StudioError
from studio.marching import (
    distance_to_unit,
    edges_of_points,
    midpoints,
    sample_pdf,
    stratified,
    stratified_points,
    unit_to_distance,
)
from studio.marching.sampling import Spacing

SPACINGS: tuple[Spacing, ...] = ("linear", "disparity", "log", "piecewise")


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_even_edges_and_points() -> None:
    near, far = torch.tensor([2.0, 0.0]), torch.tensor([6.0, 1.0])
    assert stratified(near, far, 4).tolist() == [[2, 3, 4, 5, 6], [0, 0.25, 0.5, 0.75, 1]]
    assert stratified_points(near, far, 4)[0].tolist() == [2.5, 3.5, 4.5, 5.5]
    assert edges_of_points(stratified_points(near, far, 2), far)[0].tolist() == [3.0, 5.0, 6.0]


def test_spacings_are_even_in_their_measure() -> None:
    near, far = torch.tensor(0.5, dtype=torch.float64), torch.tensor(8.0, dtype=torch.float64)
    assert (1 / stratified(near, far, 5, spacing="disparity")).diff().std() < 1e-12
    assert stratified(near, far, 5, spacing="log").log().diff().std() < 1e-12
    piecewise = stratified(near, far, 11, spacing="piecewise")
    measure = torch.where(piecewise < 1, piecewise / 2, 1 - 0.5 / piecewise)
    assert measure.diff().std() < 1e-12


@settings(deadline=None, max_examples=60)
@given(
    st.floats(0.0009765625, 10, width=32),
    st.floats(0, 50, width=32),
    st.integers(1, 40),
    st.sampled_from(SPACINGS),
    st.booleans(),
)
def test_edges_are_sorted_and_cover_the_interval(
    near: float, length: float, count: int, spacing: Spacing, random: bool
) -> None:
    n, f = torch.tensor([near]), torch.tensor([near]) + length
    edges = stratified(n, f, count, spacing=spacing, generator=_seeded() if random else None)
    assert edges.shape == (1, count + 1)
    assert bool((edges.diff() >= 0).all())
    assert float(edges[0, 0]) == pytest.approx(float(n), rel=1e-5)
    assert float(edges[0, -1]) == pytest.approx(float(f), rel=1e-5)
    assert bool(((edges >= n) & (edges <= f)).all())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8), st.sampled_from(SPACINGS))
def test_unit_and_distance_are_inverse(u: list[float], spacing: Spacing) -> None:
    near, far = torch.tensor(0.2, dtype=torch.float64), torch.tensor(30.0, dtype=torch.float64)
    x = torch.tensor(u, dtype=torch.float64)
    back = distance_to_unit(unit_to_distance(x, near, far, spacing), near, far, spacing)
    assert torch.allclose(back, x, atol=1e-12)


def test_jitter_is_uniform_repeatable_and_stays_in_its_bin() -> None:
    near, far = torch.zeros(20000), torch.full((20000,), 4.0)
    points = stratified_points(near, far, 4, generator=_seeded())
    assert torch.equal(points, stratified_points(near, far, 4, generator=_seeded()))
    inside = points - torch.arange(4.0)
    assert bool(((inside >= 0) & (inside <= 1)).all())
    # Mean and variance of the uniform distribution, within five standard errors.
    assert inside.mean(0).sub(0.5).abs().max() < 5 * math.sqrt(1 / 12 / 20000)
    assert inside.var(0).sub(1 / 12).abs().max() < 5 * math.sqrt(1 / 180 / 20000)
    edges = stratified(near, far, 4, generator=_seeded())
    assert bool(((edges[:, 1:-1] - torch.arange(1.0, 4.0)).abs() <= 0.5).all())


def _cdf(edges: Tensor, mass: Tensor, t: Tensor) -> list[float]:
    """Share of the mass before each t, by summing what each interval has before it."""
    part = ((t[:, None] - edges[:-1]) / edges.diff()).clamp(0, 1)
    return ((part * mass).sum(-1) / mass.sum()).tolist()


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.floats(0.05, 2), st.sampled_from([0.0, 0.1, 1.0, 3.0])), min_size=1, max_size=12),
    st.integers(1, 17),
    st.sampled_from([0.0, 1e-5, 0.1]),
)
def test_pdf_samples_are_the_quantiles(intervals: list[tuple[float, float]], count: int, padding: float) -> None:
    lengths = torch.tensor([a for a, _ in intervals], dtype=torch.float64)
    weights = torch.tensor([b for _, b in intervals], dtype=torch.float64)
    edges = torch.cat([torch.ones(1, dtype=torch.float64), 1 + lengths.cumsum(0)])
    found = sample_pdf(edges, weights, count, padding=padding)
    mass = weights + padding if float((weights + padding).sum()) > 0 else torch.ones_like(weights)
    assert _cdf(edges, mass, found) == pytest.approx([(i + 0.5) / count for i in range(count)], abs=1e-9)
    for low, high, m in zip(edges[:-1], edges[1:], mass, strict=True):
        if m == 0:
            assert not bool(((found > low + 1e-9) & (found < high - 1e-9)).any())
    ends = sample_pdf(edges, weights, count + 1, padding=padding, ends=True)
    assert _cdf(edges, mass, ends) == pytest.approx([i / count for i in range(count + 1)], abs=1e-9)
    assert ends[[0, -1]].tolist() == edges[[0, -1]].tolist()


def test_random_pdf_samples_follow_the_density() -> None:
    edges = torch.tensor([0.0, 1.0, 1.5, 4.0]).expand(2000, 4)
    weights = torch.tensor([1.0, 0.0, 3.0]).expand(2000, 3)
    t = sample_pdf(edges, weights, 16, generator=_seeded(), padding=0.0)
    assert bool((t.diff(dim=-1) >= 0).all())
    assert not bool(((t > 1.0) & (t < 1.5)).any())
    # Stratified: exactly a quarter of each ray's samples falls into the first interval.
    assert bool(((t <= 1.0).sum(-1) == 4).all())
    assert float(t[t >= 1.5].mean()) == pytest.approx(2.75, abs=0.02)


def test_ray_that_misses_gets_empty_intervals_and_finite_gradients() -> None:
    near = torch.tensor([1.0, 1.0], requires_grad=True)
    edges = stratified(near, near + torch.tensor([0.0, 2.0]), 8)
    assert bool((edges[0].diff() == 0).all())
    t = sample_pdf(edges, torch.zeros(2, 8), 5)
    t.sum().backward()
    assert near.grad is not None
    assert bool(near.grad.isfinite().all())


def test_pdf_gradients_match_finite_differences() -> None:
    edges = torch.tensor([[0.0, 0.5, 0.8, 2.0]], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([[0.5, 0.2, 1.3]], dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda e, w: sample_pdf(e, w, 7), (edges, weights))


def test_any_batch_shape() -> None:
    near = torch.ones(2, 3)
    edges = stratified(near, near + 1, 4)
    assert sample_pdf(edges, torch.rand(2, 3, 4), 6).shape == (2, 3, 6)
    assert midpoints(edges).shape == (2, 3, 4)


def test_bad_input_is_named() -> None:
    with pytest.raises(StudioError, match=r"near: 3 is beyond far = 2 at ray 1"):
        stratified(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]), 4)
    with pytest.raises(StudioError, match="far: ray 0 is NaN or infinite"):
        stratified(torch.tensor([1.0]), torch.tensor([math.inf]), 4)
    with pytest.raises(StudioError, match="near: ray 0 is not positive, which log spacing needs"):
        stratified(torch.tensor([0.0]), torch.tensor([1.0]), 4, spacing="log")
    with pytest.raises(ValueError, match="count"):
        stratified(torch.tensor([0.0]), torch.tensor([1.0]), 0)
    with pytest.raises(ValueError, match="weights: expected one a interval"):
        sample_pdf(torch.zeros(2, 5), torch.zeros(2, 5), 3)
