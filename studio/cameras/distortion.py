"""Lens distortion on the normalised image plane, and its inverse by Newton's method.

Both models follow OpenCV's definitions (calib3d reference, "Detailed Description"; the fisheye is the equidistant
polynomial of Kannala & Brandt 2006). Coefficients are one row of eight, in OpenCV's order:

* radial-tangential: ``k1 k2 p1 p2 k3 k4 k5 k6`` (rational when ``k4..k6`` are not zero);
* fisheye: ``k1 k2 k3 k4`` and four zeros.

A distortion polynomial is one-to-one only up to the radius (angle) where its derivative first vanishes. Beyond it, far
points fold back into the picture, so every function here that can meet such points returns a mask with its result.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_MAX_ITERATIONS = 60
"""Newton needs 3 to 6 steps in practice; the rest is room for the halved steps close to a fold."""

_CHUNK = 1 << 15
"""Points that are solved at a time on a CPU."""

_RESIDUAL_IN_EPS = 16.0
"""A solution is accepted when its residual is below this many machine epsilons (times the size of the target)."""


def distort(points: Float[Tensor, "*points 2"], coefficients: Float[Tensor, "*points 8"]) -> Float[Tensor, "*points 2"]:
    """Radial-tangential (Brown-Conrady, rational) distortion of normalised image points ``(x/z, y/z)``.

    Args:
        points: Undistorted points at unit depth.
        coefficients: ``k1 k2 p1 p2 k3 k4 k5 k6``; the leading axes broadcast against those of ``points``.

    Returns:
        The distorted points at unit depth.
    """
    x, y = points.unbind(-1)
    p1, p2 = coefficients[..., 2], coefficients[..., 3]
    r2 = x * x + y * y
    radial, _ = _radial_factor(r2, coefficients)
    xy2 = 2 * x * y
    return torch.stack(
        [x * radial + p1 * xy2 + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + p2 * xy2], dim=-1
    )


def distort_jacobian(
    points: Float[Tensor, "*points 2"], coefficients: Float[Tensor, "*points 8"]
) -> tuple[Float[Tensor, "*points"], Float[Tensor, "*points"], Float[Tensor, "*points"]]:
    """Derivative of `distort`: ``(dxd/dx, dxd/dy = dyd/dx, dyd/dy)``; the matrix is symmetric."""
    x, y = points.unbind(-1)
    p1, p2 = coefficients[..., 2], coefficients[..., 3]
    radial, slope = _radial_factor(x * x + y * y, coefficients)
    return (
        radial + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x,
        2 * x * y * slope + 2 * p1 * x + 2 * p2 * y,
        radial + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x,
    )


def distort_is_one_to_one(
    points: Float[Tensor, "*points 2"], coefficients: Float[Tensor, "*points 8"]
) -> Bool[Tensor, "*points"]:
    """Whether undistorted points lie where `distort` has not folded over yet."""
    xx, xy, yy = distort_jacobian(points, coefficients)
    return (points.square().sum(-1) < radial_limit(coefficients).square()) & (xx * yy - xy * xy > 0)


def undistort(
    distorted: Float[Tensor, "*points 2"], coefficients: Float[Tensor, "*points 8"]
) -> tuple[Float[Tensor, "*points 2"], Bool[Tensor, "*points"]]:
    """Inverse of `distort` by Newton's method with the analytic Jacobian and step halving.

    Differentiable in both arguments: the derivative is that of the implicit function, not of the iterations.

    Args:
        distorted: Distorted points at unit depth.
        coefficients: ``k1 k2 p1 p2 k3 k4 k5 k6``, broadcast against the points.

    Returns:
        The undistorted points, and whether each converged on the branch that contains the image centre. A point that
        no ray of the lens reaches does not converge; its value is finite but means nothing.
    """
    with torch.no_grad():
        solution, converged = _in_chunks(_solve_undistort, distorted.detach(), coefficients.detach(), channels=1)
    if not (torch.is_grad_enabled() and (distorted.requires_grad or coefficients.requires_grad)):
        return solution, converged
    # One more Newton step, recorded, from the solution with a constant Jacobian is the implicit function theorem:
    # d(solution) = J^-1 (d(distorted) - d(distort(solution)) at fixed solution).
    xx, xy, yy = distort_jacobian(solution, coefficients.detach())
    return solution - _solve_symmetric(xx, xy, yy, distort(solution, coefficients) - distorted), converged


def radial_limit(coefficients: Float[Tensor, "*batch 8"]) -> Float[Tensor, "*batch"]:
    """Radius at unit depth up to which the radial part of `distort` grows; infinite for one that never folds.

    With ``s = r^2``, ``n = 1 + k1 s + k2 s^2 + k3 s^3`` and ``d = 1 + k4 s + k5 s^2 + k6 s^3``, the derivative of
    ``r n/d`` is ``((n + 2 s n') d - 2 s n d') / d^2``: the limit is the first positive root of that numerator or of d.
    """

    return _per_distinct_row(_radial_limit, coefficients)


def fisheye_distort_angle(
    theta: Float[Tensor, "*points"], coefficients: Float[Tensor, "*points 8"]
) -> Float[Tensor, "*points"]:
    """Kannala-Brandt: ``theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8)``, theta in [0, pi] radians."""
    k1, k2, k3, k4 = coefficients[..., :4].unbind(-1)
    t2 = theta * theta
    return theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))


def fisheye_undistort_angle(
    distorted: Float[Tensor, "*points"], coefficients: Float[Tensor, "*points 8"]
) -> tuple[Float[Tensor, "*points"], Bool[Tensor, "*points"]]:
    """Inverse of `fisheye_distort_angle` by Newton's method, kept inside a bracket by bisection.

    Differentiable in both arguments.

    Args:
        distorted: Distorted angles, not negative.
        coefficients: ``k1 k2 k3 k4 0 0 0 0``, broadcast against the angles.

    Returns:
        The angles from the optical axis in radians, in [0, pi], and whether such an angle exists below
        `fisheye_angle_limit`.
    """
    with torch.no_grad():
        solution, converged = _in_chunks(_solve_fisheye, distorted.detach(), coefficients.detach(), channels=0)
    if not (torch.is_grad_enabled() and (distorted.requires_grad or coefficients.requires_grad)):
        return solution, converged
    slope = _fisheye_slope(solution, coefficients.detach())
    slope = torch.where(slope > 0, slope, torch.ones_like(slope))
    return solution - (fisheye_distort_angle(solution, coefficients) - distorted) / slope, converged


def fisheye_angle_limit(coefficients: Float[Tensor, "*batch 8"]) -> Float[Tensor, "*batch"]:
    """Angle in radians, at most pi, up to which `fisheye_distort_angle` grows."""

    return _per_distinct_row(_fisheye_limit, coefficients)


def _radial_factor(r2: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """The radial factor n/d and its derivative by r^2."""
    k1, k2, _, _, k3, k4, k5, k6 = coefficients.unbind(-1)
    numerator = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    denominator = 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    factor = numerator / denominator
    slope = (
        k1 + r2 * (2 * k2 + 3 * r2 * k3) - factor * (k4 + r2 * (2 * k5 + 3 * r2 * k6))
    ) / denominator  # (n' d - n d') / d^2
    return factor, slope


def _solve_symmetric(xx: Tensor, xy: Tensor, yy: Tensor, rhs: Tensor) -> Tensor:
    determinant = xx * yy - xy * xy
    determinant = torch.where(
        determinant.abs() > torch.finfo(rhs.dtype).tiny, determinant, torch.ones_like(determinant)
    )
    a, b = rhs.unbind(-1)
    return torch.stack([yy * a - xy * b, xx * b - xy * a], dim=-1) / determinant[..., None]


def _in_chunks(
    solve: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], targets: Tensor, coefficients: Tensor, *, channels: int
) -> tuple[Tensor, Tensor]:
    """Run a solver on parts of the targets that fit a processor's cache; ``channels`` axes at the end stay whole.

    The dozens of temporaries of a whole photo would go through main memory, several times slower; and a part that has
    converged need not wait for the others. Graphics processors take everything at once.
    """
    points = targets.shape[: targets.ndim - channels]
    if points.numel() <= _CHUNK or targets.device.type != "cpu":
        return solve(targets, coefficients)
    coefficients = coefficients.reshape((1,) * (len(points) + 1 - coefficients.ndim) + coefficients.shape)
    step = max(1, _CHUNK * points[0] // points.numel())
    parts = []
    for start in range(0, points[0], step):
        part = slice(start, start + step)
        row = coefficients if coefficients.shape[0] == 1 else coefficients[part]
        if step > 1 or len(points) == 1:
            parts.append(solve(targets[part], row))
        else:
            values, flags = _in_chunks(solve, targets[start], row[0], channels=channels)
            parts.append((values[None], flags[None]))
    return torch.cat([values for values, _ in parts]), torch.cat([flags for _, flags in parts])


def _solve_undistort(distorted: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    limit = radial_limit(coefficients)
    radius = distorted.norm(dim=-1)
    tolerance = _RESIDUAL_IN_EPS * torch.finfo(distorted.dtype).eps * radius.clamp(min=1)

    # Start inside the branch of the image centre, where the Jacobian is regular.
    points = distorted * (0.9 * limit / radius.clamp(min=torch.finfo(distorted.dtype).tiny)).clamp(max=1)[..., None]
    residual = distort(points, coefficients) - distorted
    error = residual.norm(dim=-1)
    scale = torch.ones_like(error)
    for _ in range(_MAX_ITERATIONS):
        if bool((error <= tolerance).all()):
            break
        step = _solve_symmetric(*distort_jacobian(points, coefficients), residual)
        candidate = points - scale[..., None] * step
        candidate_residual = distort(candidate, coefficients) - distorted
        candidate_error = candidate_residual.norm(dim=-1)
        better = (candidate_error < error) & (candidate.norm(dim=-1) < limit)
        points = torch.where(better[..., None], candidate, points)
        residual = torch.where(better[..., None], candidate_residual, residual)
        error = torch.where(better, candidate_error, error)
        scale = torch.where(better, (2 * scale).clamp(max=1), scale / 2)
    xx, xy, yy = distort_jacobian(points, coefficients)
    return points, (error <= tolerance) & (xx * yy - xy * xy > 0)


def _fisheye_slope(theta: Tensor, coefficients: Tensor) -> Tensor:
    k1, k2, k3, k4 = coefficients[..., :4].unbind(-1)
    t2 = theta * theta
    return 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))


def _solve_fisheye(distorted: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    limit = fisheye_angle_limit(coefficients)
    tolerance = _RESIDUAL_IN_EPS * torch.finfo(distorted.dtype).eps * distorted.clamp(min=1)
    low = torch.zeros_like(distorted)
    high = limit.expand_as(distorted)
    theta = torch.minimum(distorted, high)
    for _ in range(_MAX_ITERATIONS):
        residual = fisheye_distort_angle(theta, coefficients) - distorted
        if bool((residual.abs() <= tolerance).all()):
            break
        # The polynomial grows on [0, limit], so the sign of the residual tells on which side the root lies.
        low = torch.where(residual < 0, theta, low)
        high = torch.where(residual > 0, theta, high)
        newton = theta - residual / _fisheye_slope(theta, coefficients)
        inside = (newton > low) & (newton < high)
        theta = torch.where(residual == 0, theta, torch.where(inside, newton, (low + high) / 2))
    residual = fisheye_distort_angle(theta, coefficients) - distorted
    return theta, residual.abs() <= tolerance


@functools.lru_cache(maxsize=4096)
def _radial_limit(row: tuple[float, ...]) -> float:
    k1, k2, _, _, k3, k4, k5, k6 = row
    numerator, denominator = [1.0, k1, k2, k3], [1.0, k4, k5, k6]
    grown = [(2 * i + 1) * c for i, c in enumerate(numerator)]  # n + 2 s n'
    slope = [2 * i * c for i, c in enumerate(denominator)]  # 2 s d'
    turning = [0.0] * 7
    for i in range(4):
        for j in range(4):
            turning[i + j] += grown[i] * denominator[j] - numerator[i] * slope[j]
    return math.sqrt(min([math.inf, *_positive_roots(turning), *_positive_roots(denominator)]))


@functools.lru_cache(maxsize=4096)
def _fisheye_limit(row: tuple[float, ...]) -> float:
    roots = _positive_roots([(2 * i + 1) * c for i, c in enumerate((1.0, *row[:4]))])
    return min([math.pi, *map(math.sqrt, roots)])


def _positive_roots(coefficients: list[float]) -> list[float]:
    """Roots of ``c0 + c1 s + ... + cn s^n`` in (0, 1e9] where it changes sign, in order.

    Between the roots of its derivative a polynomial is monotone, so bisection there misses none and needs no care for
    vanishing or tiny leading coefficients, unlike the eigenvalues of a companion matrix.
    """
    if len(coefficients) < 2:
        return []

    def value(s: float) -> float:
        total = 0.0
        for c in reversed(coefficients):
            total = total * s + c
        return total

    # A ray at s = 1e9 is within 0.002 degrees of the image plane.
    stops = [0.0, *_positive_roots([i * c for i, c in enumerate(coefficients)][1:]), 1e9]
    roots = []
    for low, high in pairwise(stops):
        sign = value(low) < 0
        if sign == (value(high) < 0):
            continue
        while low < (middle := (low + high) / 2) < high:
            low, high = (middle, high) if (value(middle) < 0) == sign else (low, middle)
        roots.append(high)
    return roots


def _per_distinct_row(function: Callable[[tuple[float, ...]], float], coefficients: Tensor) -> Tensor:
    """Apply a function of one lens to rows of coefficients, once for each distinct row. Not differentiated.

    A batch of rays names one camera a ray, but a scene has few distinct lenses.
    """
    rows = coefficients.detach().reshape(-1, 8)
    if len(rows) and bool((rows == rows[:1]).all()):
        return rows.new_full(coefficients.shape[:-1], function(tuple(rows[0].tolist())))
    distinct, inverse = torch.unique(rows, dim=0, return_inverse=True)
    values = rows.new_tensor([function(tuple(row)) for row in distinct.tolist()])
    return values[inverse].reshape(coefficients.shape[:-1])
