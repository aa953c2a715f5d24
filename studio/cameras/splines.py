"""C1 cubic splines through values and through poses at given knots.

Values use the cubic Hermite form with the tangents of the parabola through three neighbouring knots (Catmull-Rom on
unequal knots) and natural ends. Rotations use the quaternion Hermite curve of Kim, Kim & Shin, "A General Construction
Scheme for Unit Quaternion Curves with Simple High Order Derivatives" (SIGGRAPH 1995), with the same tangents:

    q(u) = q0 exp(w1 b1(u)) exp(w2 b2(u)) exp(w3 b3(u)),
    b1 = 1 - (1 - u)^3,   b2 = 3 u^2 - 2 u^3,   b3 = u^3,

with w1 and w3 a third of the angular velocities at both ends and w2 such that q(1) = q1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras.poses import (
    make_pose,
    matrix_to_quaternion,
    quaternion_conjugate,
    quaternion_exp,
    quaternion_log,
    quaternion_multiply,
    quaternion_to_matrix,
)


def spline_values(
    keys: Float[Tensor, "keys channels"],
    knots: Float[Tensor, " keys"],
    times: Float[Tensor, " times"],
    *,
    period: float | None = None,
) -> Float[Tensor, "times channels"]:
    """Values of the spline that passes ``keys`` at ``knots``.

    Args:
        keys: At least one row.
        knots: Strictly increasing.
        times: Where to evaluate; times outside the knots continue the nearest segment.
        period: Closes the curve: it returns to the first key at ``knots[0] + period`` and repeats.
    """
    if len(keys) == 1:
        return keys.expand(len(times), -1)
    segment, u, lengths = _locate(knots, times, period)
    following = keys.roll(-1, 0) if period is not None else keys[1:]
    rates = (following - keys[: len(lengths)]) / lengths[:, None]
    tangents = _tangents(rates, lengths, closed=period is not None)
    h = lengths[segment][:, None]
    u = u[:, None]
    start, end = keys[segment], following[segment]
    out, into = tangents[segment] * h, tangents[(segment + 1) % len(keys)] * h
    # Written from both ends, so that u = 0 and u = 1 give the keys to the last bit.
    v = 1 - u
    return start * (v * v * (1 + 2 * u)) + out * (u * v * v) - into * (u * u * v) + end * (u * u * (1 + 2 * v))


def spline_poses(
    keys: Float[Tensor, "keys 4 4"],
    knots: Float[Tensor, " keys"],
    times: Float[Tensor, " times"],
    *,
    period: float | None = None,
) -> Float[Tensor, "times 4 4"]:
    """Poses of the C1 spline on SE(3) that passes ``keys`` at ``knots``; arguments as `spline_values`."""
    translation = spline_values(keys[:, :3, 3], knots, times, period=period)
    if len(keys) == 1:
        return make_pose(keys[0, :3, :3].expand(len(times), 3, 3), translation)
    segment, u, lengths = _locate(knots, times, period)
    q = matrix_to_quaternion(keys[:, :3, :3])
    following = q.roll(-1, 0) if period is not None else q[1:]
    steps = quaternion_log(quaternion_multiply(quaternion_conjugate(q[: len(lengths)]), following))
    # A rotation leaves its axis where it is, so the velocity of a segment has the same coordinates in the frames of
    # both of its keys, and the velocities on either side of a key can be averaged in the frame of that key.
    tangents = _tangents(steps / lengths[:, None], lengths, closed=period is not None)
    h = lengths[segment][:, None]
    u = u[:, None]
    w1 = tangents[segment] * h / 3
    w3 = tangents[(segment + 1) % len(keys)] * h / 3
    step = quaternion_exp(steps[segment])
    rest = quaternion_multiply(quaternion_multiply(quaternion_exp(-w1), step), quaternion_exp(-w3))
    w2 = quaternion_log(rest)
    turned = q[segment]
    for w, basis in ((w1, 1 - (1 - u) ** 3), (w2, u * u * (3 - 2 * u)), (w3, u**3)):
        turned = quaternion_multiply(turned, quaternion_exp(w * basis))
    return make_pose(quaternion_to_matrix(turned), translation)


def _locate(knots: Tensor, times: Tensor, period: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """Segment of each time, the position in it (0 to 1), and the length of every segment."""
    ends = knots
    if period is not None:
        ends = torch.cat([knots, knots[:1] + period])
        times = knots[0] + torch.remainder(times - knots[0], period)
    lengths = ends.diff()
    if not bool((lengths > 0).all()):
        raise ValueError("knots must increase strictly (and span less than the period)")
    segment = (torch.searchsorted(ends, times.contiguous(), right=True) - 1).clamp(0, len(lengths) - 1)
    return segment, (times - ends[segment]) / lengths[segment], lengths


def _tangents(rates: Tensor, lengths: Tensor, *, closed: bool) -> Tensor:
    """Velocity at every key from the mean velocity and the length of every segment."""
    h = lengths[:, None]
    if closed:
        before, h_before = rates.roll(1, 0), h.roll(1, 0)
        return (before * h + rates * h_before) / (h + h_before)
    if len(rates) == 1:
        return rates.expand(2, -1)
    inner = (rates[:-1] * h[1:] + rates[1:] * h[:-1]) / (h[1:] + h[:-1])
    return torch.cat([(3 * rates[:1] - inner[:1]) / 2, inner, (3 * rates[-1:] - inner[-1:]) / 2])
