"""Rays against boxes and spheres."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from studio.errors import StudioError
from studio.marching import ray_box, ray_sphere

BOX = torch.tensor([[-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]])


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True)


def test_box_known_rays() -> None:
    origins = torch.tensor([[-3.0, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 5.0, 0.0], [-3.0, 2.5, 0.0]])
    directions = torch.tensor([[1.0, 0, 0], [0, 0.6, 0.8], [0, -1.0, 0], [0, 1.0, 0], [1.0, 0, 0]])
    near, far, hit = ray_box(origins, directions, BOX)
    assert hit.tolist() == [True, True, True, False, False]
    assert near.tolist() == pytest.approx([2.0, 0.0, 3.0, 0.0, 0.0])
    assert far.tolist() == pytest.approx([4.0, 2 / 0.6, 7.0, 0.0, 0.0])


def test_near_plane_bounds_hits_and_stands_for_misses() -> None:
    origins = torch.tensor([[0.0, 0, 0], [0.0, 9, 0]])
    directions = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    for near, far, _ in (
        ray_box(origins, directions, BOX, near_plane=0.25),
        ray_sphere(origins, directions, torch.zeros(3), 1.0, near_plane=0.25),
    ):
        assert near.tolist() == pytest.approx([0.25, 0.25])
        assert far.tolist() == pytest.approx([1.0, 0.25])


def test_ray_in_a_face_counts_but_one_that_only_touches_an_edge_does_not() -> None:
    in_face = ray_box(torch.tensor([-3.0, 2.0, 0.0]), torch.tensor([1.0, 0, 0]), BOX)
    assert bool(in_face[2])
    assert float(in_face[1] - in_face[0]) == pytest.approx(2.0)
    touching = ray_box(torch.tensor([-2.0, 2.0, 0.0]), _unit(torch.tensor([0.0, 0.0, 1.0])), BOX)
    assert not bool(touching[2])


coordinates = st.floats(-4, 4, allow_nan=False, width=32)


@settings(deadline=None, max_examples=200)
@given(st.tuples(*[coordinates] * 3), st.tuples(*[coordinates] * 3).filter(lambda d: math.hypot(*d) > 0.1))
def test_box_interval_is_the_part_of_the_ray_inside(origin: tuple, direction: tuple) -> None:
    o = torch.tensor(origin, dtype=torch.float64)
    d = _unit(torch.tensor(direction, dtype=torch.float64))
    box = BOX.double()
    near, far, hit = ray_box(o, d, box)
    t = torch.linspace(0, 16, 1601, dtype=torch.float64)
    points = o + d * t[:, None]
    depth_inside = torch.minimum(points - box[0], box[1] - points).amin(-1)
    within = hit & (t >= near) & (t <= far)
    # Points clearly inside lie in the interval; points clearly outside do not.
    assert bool((within | (depth_inside < 1e-9))[depth_inside > 1e-9].all())
    assert not bool((within & (depth_inside < -1e-9)).any())
    assert bool(hit) == bool(far > near)


@settings(deadline=None, max_examples=100)
@given(st.tuples(*[coordinates] * 3), st.tuples(*[coordinates] * 3).filter(lambda d: math.hypot(*d) > 0.1))
def test_sphere_ends_lie_on_the_sphere(origin: tuple, direction: tuple) -> None:
    o = torch.tensor(origin, dtype=torch.float64)
    d = _unit(torch.tensor(direction, dtype=torch.float64))
    centre, radius = torch.tensor([0.5, -0.25, 1.0], dtype=torch.float64), 1.5
    near, far, hit = ray_sphere(o, d, centre, radius)
    if not hit:
        return
    assert float((o + far * d - centre).norm()) == pytest.approx(radius)
    if near > 0:
        assert float((o + near * d - centre).norm()) == pytest.approx(radius)
    else:
        assert float((o - centre).norm()) <= radius + 1e-9
    # Chord length from the miss distance.
    miss = torch.linalg.cross(centre - o, d).norm()
    if near > 0:
        assert float(far - near) == pytest.approx(2 * math.sqrt(radius**2 - float(miss) ** 2), abs=1e-7)


def test_sphere_far_away_keeps_its_digits() -> None:
    # |towards|² − closest² would be 1e8 − 1e8 in float32, with nothing left.
    _, _, hit = ray_sphere(torch.tensor([-1e4, 0.999, 0]), torch.tensor([1.0, 0, 0]), torch.zeros(3), 1.0)
    assert bool(hit)
    _, _, hit = ray_sphere(torch.tensor([-1e4, 1.001, 0]), torch.tensor([1.0, 0, 0]), torch.zeros(3), 1.0)
    assert not bool(hit)


def test_gradients_match_finite_differences() -> None:
    g = torch.Generator().manual_seed(0)
    o = _unit(torch.randn(6, 3, generator=g, dtype=torch.float64)) * 5
    d = _unit(0.3 * torch.randn(6, 3, generator=g, dtype=torch.float64) - o / 5)
    o.requires_grad_()
    d.requires_grad_()
    torch.autograd.gradcheck(lambda o, d: ray_box(o, d, BOX.double())[:2], (o, d))
    torch.autograd.gradcheck(lambda o, d: ray_sphere(o, d, torch.zeros(3).double(), 1.5)[:2], (o, d))


def test_gradients_are_finite_for_misses_and_axis_parallel_rays() -> None:
    origins = torch.tensor([[-3.0, 0, 0], [-3.0, 2.0, 0], [0, 9.0, 0], [-1.0, 0, 0]], requires_grad=True)
    directions = torch.tensor([[1.0, 0, 0], [1.0, 1e-30, 0], [1.0, 0, 0], [0, 1.0, 0]], requires_grad=True)
    for near, far, _ in (
        ray_box(origins, directions, BOX),
        ray_sphere(origins, directions, torch.zeros(3), 1.0),
    ):
        found = torch.autograd.grad((near + far).sum(), (origins, directions))
        assert all(bool(x.isfinite().all()) for x in found)


def test_bad_input_is_named() -> None:
    o, d = torch.zeros(2, 3), torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    with pytest.raises(StudioError, match=r"box: has no volume.*along y"):
        ray_box(o, d, torch.tensor([[0.0, 1, 0], [1.0, 1, 1]]))
    with pytest.raises(StudioError, match=r"box: not finite along z"):
        ray_box(o, d, torch.tensor([[0.0, 0, 0], [1.0, 1, math.inf]]))
    with pytest.raises(StudioError, match=r"directions: ray 1 is NaN or infinite\."):
        ray_box(o, torch.tensor([[1.0, 0, 0], [math.nan, 0, 0]]), BOX)
    with pytest.raises(StudioError, match=r"directions: ray 0 is zero\."):
        ray_sphere(o, torch.zeros(2, 3), torch.zeros(3), 1.0)
    with pytest.raises(StudioError, match="origins: ray 1"):
        ray_box(torch.tensor([[0.0, 0, 0], [math.inf, 0, 0]]), d, BOX)
    with pytest.raises(StudioError, match="radius"):
        ray_sphere(o, d, torch.zeros(3), 0.0)
    with pytest.raises(ValueError, match="origins: expected shape"):
        ray_box(torch.zeros(2, 2), d, BOX)
    with pytest.raises(ValueError, match="box: expected shape"):
        ray_box(o, d, torch.zeros(3, 2))
