"""Volume rendering on dense samples: every ray has the same number s of intervals.

Quadrature of Max (1995) as in Mildenhall et al. 2020, eq. 3: density is constant in each interval, so

    w_i = T_i (1 − exp(−σ_i δ_i)),   T_i = exp(−Σ_{j<i} σ_j δ_j).

Densities are per unit of distance along the unit direction, not negative; weights sum to the opacity.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from studio.marching.sampling import midpoints

_LAST_INTERVAL = 1e10  # of the paper's own code: a density at the last sample stops the ray


def weights_from_density(
    density: Float[Tensor, "*b s"], edges: Float[Tensor, "*b s+1"], *, last_infinite: bool = False
) -> Float[Tensor, "*b s"]:
    """The share of the colour of each interval that reaches the eye.

    Args:
        density: Not negative.
        edges: Sorted distances.
        last_infinite: Let the last interval go on (for 1e10 units, as the classic NeRF does), so that any density
            there makes the ray opaque.
    """
    lengths = edges.diff(dim=-1)
    if lengths.shape != density.shape:
        raise ValueError(
            f"edges: expected {density.shape[-1] + 1} a ray for densities {tuple(density.shape)}, "
            f"got shape {tuple(edges.shape)}"
        )
    if last_infinite:
        lengths = torch.cat([lengths[..., :-1], torch.full_like(lengths[..., -1:], _LAST_INTERVAL)], dim=-1)
    thickness = density * lengths
    before = torch.cat([torch.zeros_like(thickness[..., :1]), thickness[..., :-1].cumsum(-1)], dim=-1)
    return torch.exp(-before) * -torch.expm1(-thickness)


def opacity(weights: Float[Tensor, "*b s"]) -> Float[Tensor, "*b"]:
    """Accumulated alpha: the sum of the weights."""
    return weights.sum(-1)


def composite(
    weights: Float[Tensor, "*b s"],
    values: Float[Tensor, "*b s c"],
    background: Float[Tensor, "*#b c"] | None = None,
) -> Float[Tensor, "*b c"]:
    """Blend values (colours, normals, features) along each ray, over a background where one is given."""
    blended = (weights[..., None] * values).sum(-2)
    return blended if background is None else blended + (1.0 - opacity(weights))[..., None] * background


def expected_depth(weights: Float[Tensor, "*b s"], t: Float[Tensor, "*b s"]) -> Float[Tensor, "*b"]:
    """Mean distance at which light that reaches the eye comes from, Σ w t / Σ w; 0 where nothing stops the ray.

    A distance along the ray: times the ray's `depth_scale` it is a z-depth.
    """
    return normalized_distance((weights * t).sum(-1), opacity(weights))


def median_depth(weights: Float[Tensor, "*b s"], edges: Float[Tensor, "*b s+1"]) -> Float[Tensor, "*b"]:
    """Distance at which the transmittance has fallen to one half; the last edge where it never does.

    Exact for a density constant in each interval, within which the transmittance falls exponentially, as far as the
    weights tell: that of an interval which alone is opaque to rounding puts the surface near its beginning.
    """
    after = weights.cumsum(-1)
    reached = after >= 0.5
    index = reached.to(torch.uint8).argmax(-1, keepdim=True)
    start, end = edges.gather(-1, index), edges.gather(-1, index + 1)
    weight = weights.gather(-1, index)
    light = 1.0 - (after.gather(-1, index) - weight)
    t = start + (end - start) * half_life_share(weight, light)
    return torch.where(reached.any(-1), t[..., 0], edges[..., -1])


def distortion_loss(weights: Float[Tensor, "*b s"], edges: Float[Tensor, "*b s+1"]) -> Float[Tensor, "*b"]:
    """How far the weight of each ray is spread: Σ_ij w_i w_j |m_i − m_j| + ⅓ Σ_i w_i² δ_i.

    Barron et al. 2022 (mip-NeRF 360), eq. 15, in O(s); their edges are normalised (see `distance_to_unit`).
    """
    middle = midpoints(edges)
    moment = weights * middle
    weight_before = weights.cumsum(-1) - weights
    moment_before = moment.cumsum(-1) - moment
    between = 2.0 * (weights * (middle * weight_before - moment_before)).sum(-1)
    within = (weights.square() * edges.diff(dim=-1)).sum(-1) / 3.0
    return between + within


def normalized_distance(moment: Tensor, opacity: Tensor) -> Tensor:
    """moment / opacity, and 0 with no gradient where there is no opacity to speak of."""
    solid = opacity > torch.finfo(opacity.dtype).eps
    return torch.where(solid, moment / torch.where(solid, opacity, torch.ones_like(opacity)), torch.zeros_like(moment))


def half_life_share(weight: Tensor, light: Tensor) -> Tensor:
    """How far into an interval (0 to 1) the transmittance falls to one half, entering with `light`, losing `weight`."""
    eps = torch.finfo(weight.dtype).eps
    light = light.clamp_min(eps)
    alpha = (weight / light).clamp(eps, 1.0 - eps)
    return ((2.0 * light).log() / -torch.log1p(-alpha)).clamp(0.0, 1.0)
