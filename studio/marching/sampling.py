"""Sampling along rays: stratified bins, and importance sampling of a piecewise-constant density.

A ray is cut into s intervals by s + 1 sorted `edges`; a network is asked at their `midpoints`. Distances t are along
the unit direction. With a generator the result is random (and repeatable), without one it is the evenly spaced one.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from studio.marching.arguments import check_interval

Spacing = Literal["linear", "disparity", "log", "piecewise"]
"""How samples are spread: evenly in t, in 1/t, in log t, or evenly up to t = 1 and in 1/t beyond (for unbounded
scenes whose cameras lie within the unit ball)."""


def to_spacing(t: Float[Tensor, "*b"], spacing: Spacing) -> Float[Tensor, "*b"]:
    """The monotone function of the distance in which samples of this spacing are even (its sign does not matter)."""
    if spacing == "linear":
        return t
    if spacing == "disparity":
        return 1.0 / t
    if spacing == "log":
        return t.log()
    if spacing == "piecewise":
        return torch.where(t < 1, 0.5 * t, 1.0 - 0.5 / t.clamp_min(1.0))
    raise ValueError(f"spacing: expected linear, disparity, log or piecewise, got {spacing!r}")


def from_spacing(x: Float[Tensor, "*b"], spacing: Spacing) -> Float[Tensor, "*b"]:
    """Inverse of `to_spacing`."""
    if spacing == "linear":
        return x
    if spacing == "disparity":
        return 1.0 / x
    if spacing == "log":
        return x.exp()
    if spacing == "piecewise":
        return torch.where(x < 0.5, 2.0 * x, 0.5 / (1.0 - x).clamp_min(torch.finfo(x.dtype).tiny))
    raise ValueError(f"spacing: expected linear, disparity, log or piecewise, got {spacing!r}")


def unit_to_distance(
    u: Float[Tensor, "*b s"], near: Float[Tensor, "*b"], far: Float[Tensor, "*b"], spacing: Spacing = "linear"
) -> Float[Tensor, "*b s"]:
    """Distances of the normalised positions u in [0, 1]: near at 0, far at 1, evenly spread as `spacing` says."""
    low, high = to_spacing(near, spacing)[..., None], to_spacing(far, spacing)[..., None]
    t = from_spacing(torch.lerp(low, high, u), spacing)
    # Rounding must not carry a sample out of the interval.
    return torch.minimum(torch.maximum(t, near[..., None]), far[..., None])


def distance_to_unit(
    t: Float[Tensor, "*b s"], near: Float[Tensor, "*b"], far: Float[Tensor, "*b"], spacing: Spacing = "linear"
) -> Float[Tensor, "*b s"]:
    """Inverse of `unit_to_distance`; 0 where the interval is empty."""
    low, high = to_spacing(near, spacing)[..., None], to_spacing(far, spacing)[..., None]
    length = high - low
    empty = length == 0
    return torch.where(empty, torch.zeros_like(t), (to_spacing(t, spacing) - low) / torch.where(empty, 1.0, length))


def stratified(
    near: Float[Tensor, "*b"],
    far: Float[Tensor, "*b"],
    count: int,
    *,
    generator: torch.Generator | None = None,
    spacing: Spacing = "linear",
) -> Float[Tensor, "*b count+1"]:
    """Edges of `count` intervals that cover near to far.

    Args:
        near: Distance at which each ray begins to count.
        far: Where it ends; equal to near for a ray that misses.
        count: Number of intervals.
        generator: Moves each inner edge uniformly between the middles of the two even intervals at its sides (the
            outer edges stay, so that nothing is left out); None gives even intervals.
        spacing: In which measure the intervals are even.

    Returns:
        Sorted edges.

    Raises:
        StudioError: near > far, a bound is not finite, or near ≤ 0 with a spacing in 1/t or log t.
    """
    _check_count(count)
    check_interval(near, far, positive=spacing if spacing in ("disparity", "log") else None)
    u = torch.linspace(0.0, 1.0, count + 1, dtype=near.dtype, device=near.device).expand(*near.shape, count + 1)
    # Rounding may put neighbours in the wrong order where they lie closer than it can tell.
    return unit_to_distance(_jitter_edges(u, generator), near, far, spacing).cummax(-1).values


def stratified_points(
    near: Float[Tensor, "*b"],
    far: Float[Tensor, "*b"],
    count: int,
    *,
    generator: torch.Generator | None = None,
    spacing: Spacing = "linear",
) -> Float[Tensor, "*b count"]:
    """One point in each of `count` even bins: uniform in its bin (Mildenhall et al. 2020, eq. 2), or its middle.

    Arguments and errors as for `stratified`; `edges_of_points` turns points into the intervals of the paper's eq. 3.
    """
    _check_count(count)
    check_interval(near, far, positive=spacing if spacing in ("disparity", "log") else None)
    return unit_to_distance(_one_a_bin(near, count, generator), near, far, spacing)


def edges_of_points(points: Float[Tensor, "*b s"], far: Float[Tensor, "*b"]) -> Float[Tensor, "*b s+1"]:
    """The points, each the beginning of the interval up to the next, and `far` (Mildenhall et al. 2020, eq. 3)."""
    return torch.cat([points, torch.maximum(far[..., None], points[..., -1:])], dim=-1)


def midpoints(edges: Float[Tensor, "*b s+1"]) -> Float[Tensor, "*b s"]:
    """Middle of each interval."""
    return 0.5 * (edges[..., 1:] + edges[..., :-1])


def sample_pdf(
    edges: Float[Tensor, "*b k+1"],
    weights: Float[Tensor, "*b k"],
    count: int,
    *,
    generator: torch.Generator | None = None,
    padding: float = 1e-5,
    ends: bool = False,
) -> Float[Tensor, "*b count"]:
    """Sample the density that is constant in each interval, with mass in proportion to weight + padding.

    Exact inversion of the cumulative distribution (Mildenhall et al. 2020, sec. 5.2; mip-NeRF 360 sec. 3). The
    quantiles are stratified: the i-th result is the quantile of a point in [i, i + 1) / count, uniform there with a
    generator and in the middle without. Gradients flow to edges and weights; the paper stops them:
    ``weights.detach()``.

    Args:
        edges: Sorted.
        weights: Not negative.
        count: How many values a ray.
        generator: None for even quantiles.
        padding: Added to each weight. With 0 nothing falls where the weight is 0, unless a ray has no weight at all:
            then all its intervals count alike.
        ends: Values are to be edges: the first and the last are those of `edges`, the inner ones are jittered as in
            `stratified`.

    Returns:
        Sorted distances.
    """
    _check_count(count, least=2 if ends else 1)
    if edges.shape[:-1] != weights.shape[:-1] or edges.shape[-1] != weights.shape[-1] + 1:
        raise ValueError(
            f"weights: expected one a interval of edges {tuple(edges.shape)}, got shape {tuple(weights.shape)}"
        )
    mass = weights + padding
    weightless = mass.sum(-1, keepdim=True) <= 0
    cumulative = torch.where(weightless, torch.ones_like(mass), mass).cumsum(-1)
    cdf = torch.cat([torch.zeros_like(cumulative[..., :1]), cumulative / cumulative[..., -1:]], dim=-1)
    if ends:
        u = torch.linspace(0.0, 1.0, count, dtype=edges.dtype, device=edges.device).expand(*edges.shape[:-1], count)
        u = _jitter_edges(u, generator)
    else:
        u = _one_a_bin(edges[..., 0], count, generator)
    # The interval whose upper edge is the first with cdf ≥ u: its mass is positive, so u = F(t) has one solution in it.
    upper = torch.searchsorted(cdf.detach().contiguous(), u.contiguous()).clamp(1, weights.shape[-1])
    lower = upper - 1
    c0, c1 = cdf.gather(-1, lower), cdf.gather(-1, upper)
    t0, t1 = edges.gather(-1, lower), edges.gather(-1, upper)
    step = c1 - c0
    share = ((u - c0) / torch.where(step > 0, step, torch.ones_like(step))).clamp(0.0, 1.0)
    t = t0 + share * (t1 - t0)
    return torch.cat([edges[..., :1], t[..., 1:-1], edges[..., -1:]], dim=-1) if ends else t


def _check_count(count: int, least: int = 1) -> None:
    if count < least:
        raise ValueError(f"count: expected at least {least}, got {count}")


def _jitter_edges(u: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None or u.shape[-1] < 3:
        return u
    middle = midpoints(u)
    random = torch.rand(middle[..., 1:].shape, generator=generator, dtype=u.dtype, device=u.device)
    inner = middle[..., :-1] + (middle[..., 1:] - middle[..., :-1]) * random
    return torch.cat([u[..., :1], inner, u[..., -1:]], dim=-1)


def _one_a_bin(like: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    shape = (*like.shape, count)
    if generator is None:
        offset = torch.full(shape, 0.5, dtype=like.dtype, device=like.device)
    else:
        offset = torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)
    return (torch.arange(count, dtype=like.dtype, device=like.device) + offset) / count
