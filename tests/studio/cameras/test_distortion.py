"""Distortion and its Newton inverse."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from studio.cameras.distortion import (
    distort,
    distort_is_one_to_one,
    distort_jacobian,
    fisheye_angle_limit,
    fisheye_distort_angle,
    fisheye_undistort_angle,
    radial_limit,
    undistort,
)


def row(*coefficients: float) -> torch.Tensor:
    return torch.tensor([*coefficients, *[0.0] * (8 - len(coefficients))], dtype=torch.float64)


small = st.floats(-0.02, 0.02)
radial = st.floats(-0.4, 0.4)


@given(
    k=st.tuples(radial, radial, small, small, radial, radial, radial, radial),
    radius=st.floats(0, 3),
    angle=st.floats(-math.pi, math.pi),
)
@settings(deadline=None, max_examples=300)
def test_undistort_inverts_distort_wherever_the_lens_is_one_to_one(k, radius, angle) -> None:
    coefficients = row(*k)
    point = radius * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    inside = bool(distort_is_one_to_one(point, coefficients))
    assume(inside)
    # With tangential terms the branch of the centre ends where a straight way to the centre meets a fold.
    way = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None] * point
    assume(bool(distort_is_one_to_one(way, coefficients).all()))
    xx, xy, yy = distort_jacobian(point, coefficients)
    assume(float(xx * yy - xy * xy) > 1e-4)  # at a fold the inverse has no derivative, and only half the digits
    found, converged = undistort(distort(point, coefficients), coefficients)
    assert bool(converged)
    torch.testing.assert_close(found, point, atol=1e-9, rtol=1e-9)


def test_jacobian_is_the_derivative() -> None:
    coefficients = row(0.2, -0.1, 0.01, -0.02, 0.03, 0.1, -0.05, 0.02)
    point = torch.tensor([0.4, -0.3], dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(lambda p: distort(p, coefficients), point)
    xx, xy, yy = distort_jacobian(point, coefficients)
    torch.testing.assert_close(torch.stack([xx, xy, xy, yy]).reshape(2, 2), expected)


@pytest.mark.parametrize(
    ("coefficients", "limit"),
    [
        (row(), math.inf),
        (row(0.3, 0.1), math.inf),
        (row(-0.3), math.sqrt(1 / 0.9)),  # 1 - 0.9 r^2
        (row(0, -0.2), 1.0),  # 1 - 5 * 0.2 r^4
        (row(0, 0, 0.1, -0.1), math.inf),  # tangential terms are no part of it
        (row(0, 0, 0, 0, 0, 1.0), 1.0),  # r / (1 + r^2)
        (row(-1.0, 0, 0, 0, 0, -1.0), 1.0),  # (1 - r^2) / (1 - r^2) has a pole of the denominator at 1
    ],
)
def test_radial_limit_by_hand(coefficients, limit) -> None:
    assert float(radial_limit(coefficients)) == pytest.approx(limit, rel=1e-9)


@given(
    k=st.lists(st.one_of(st.just(0.0), st.floats(-1, 1), st.floats(-1e-30, 1e-30)), min_size=8, max_size=8),
)
@settings(deadline=None, max_examples=200)
def test_radial_limit_is_where_the_radius_first_stops_growing(k) -> None:
    """Against a dense scan of the radial part."""
    coefficients = row(*k)
    limit = float(radial_limit(coefficients))
    end = min(limit, 20.0)
    radii = torch.linspace(0, 1, 4001, dtype=torch.float64) * end
    along_x = torch.stack([radii, torch.zeros_like(radii)], dim=-1)
    radial = coefficients * torch.tensor([1.0, 1, 0, 0, 1, 1, 1, 1], dtype=torch.float64)
    bent = distort(along_x, radial)[:-1, 0]
    assert float(bent.diff().min()) > -1e-9 * end
    if limit < 20:
        beyond = limit * (1 + 1e-4)
        xx, _, _ = distort_jacobian(torch.tensor([beyond, 0.0], dtype=torch.float64), radial)
        denominator = 1 + k[5] * beyond**2 + k[6] * beyond**4 + k[7] * beyond**6
        assert float(xx) < 1e-6 or denominator < 1e-6  # turned back, or behind a pole


def test_limits_of_a_batch_are_those_of_its_rows() -> None:
    rows = torch.stack([row(-0.3), row(), row(0, -0.2), row(-0.3)]).reshape(2, 2, 8)
    expected = torch.tensor([[math.sqrt(1 / 0.9), math.inf], [1.0, math.sqrt(1 / 0.9)]], dtype=torch.float64)
    torch.testing.assert_close(radial_limit(rows), expected)


def test_points_beyond_the_fold_do_not_converge() -> None:
    coefficients = row(-0.3)
    targets = torch.tensor([[0.7, 0.0], [0.71, 0.0], [3.0, 3.0]], dtype=torch.float64)  # the fold is at 0.7027
    found, converged = undistort(targets, coefficients)
    assert converged.tolist() == [True, False, False]
    assert bool(found.isfinite().all())


def test_undistort_in_float32_reaches_float32_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2000, 2, generator=generator) * 1.2 - 0.6
    coefficients = row(-0.28, 0.09, 5e-4, 1e-3, -0.012).float()
    found, converged = undistort(distort(points, coefficients), coefficients)
    assert bool(converged.all())
    torch.testing.assert_close(found, points, atol=5e-6, rtol=0)


@pytest.mark.parametrize("shape", [(90_000,), (3, 200, 150), (2, 1, 50_000), (70_000, 1)])
def test_many_points_are_solved_like_few(shape) -> None:
    """Parts are cut along any axis; each point keeps its own lens."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(*shape, 2, generator=generator, dtype=torch.float64) * 0.8 - 0.4
    lenses = 0.05 * torch.rand(5, 8, generator=generator, dtype=torch.float64)
    lenses = lenses[torch.arange(shape[0]) % 5].reshape(shape[0], *(1,) * (len(shape) - 1), 8)
    for coefficients in (lenses, lenses[:1], lenses.flatten()[:8]):
        found, converged = undistort(distort(points, coefficients), coefficients)
        assert found.shape == points.shape
        assert bool(converged.all())
        torch.testing.assert_close(found, points, atol=1e-12, rtol=0)
        angles = points[..., 0].abs()
        angles_found, converged = fisheye_undistort_angle(fisheye_distort_angle(angles, coefficients), coefficients)
        assert bool(converged.all())
        torch.testing.assert_close(angles_found, angles, atol=1e-12, rtol=0)


def test_implicit_gradients() -> None:
    target = torch.tensor([[0.3, -0.2], [0.0, 0.0], [0.5, 0.4]], dtype=torch.float64, requires_grad=True)
    coefficients = row(-0.2, 0.05, 1e-3, -2e-3, 0.01, 0.02, 0.01, 0.003).requires_grad_()
    assert torch.autograd.gradcheck(lambda t, k: undistort(t, k)[0], (target, coefficients))
    angles = torch.tensor([0.1, 0.9, 1.7], dtype=torch.float64, requires_grad=True)
    coefficients = row(0.05, -0.01, 0.002, -0.0003).requires_grad_()
    assert torch.autograd.gradcheck(lambda t, k: fisheye_undistort_angle(t, k)[0], (angles, coefficients))


@given(k=st.tuples(*[st.floats(-0.2, 0.2)] * 4), part=st.floats(0, 0.999))
@settings(deadline=None, max_examples=200)
def test_fisheye_inverse_below_its_limit(k, part) -> None:
    coefficients = row(*k)
    theta = part * fisheye_angle_limit(coefficients)
    found, converged = fisheye_undistort_angle(fisheye_distort_angle(theta, coefficients), coefficients)
    assert bool(converged)
    torch.testing.assert_close(found, theta, atol=1e-8, rtol=1e-8)


def test_fisheye_limit_by_hand() -> None:
    assert float(fisheye_angle_limit(row())) == math.pi
    assert float(fisheye_angle_limit(row(-1 / 3))) == pytest.approx(1.0)  # 1 - theta^2
    assert float(fisheye_angle_limit(row(0.01))) == math.pi
    _, converged = fisheye_undistort_angle(torch.tensor([0.66, 0.67], dtype=torch.float64), row(-1 / 3))
    assert converged.tolist() == [True, False]  # the largest distorted angle is 2/3
