"""Where rays enter and leave a box or a sphere.

Distances t are in units of the direction's length, from the origin; directions are of unit length everywhere else in
this room. A ray that misses gets an empty interval, near = far, which yields samples of no length: no weight, and
finite gradients.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from studio.errors import StudioError
from studio.marching.arguments import check_box, check_rays


def ray_box(
    origins: Float[Tensor, "*b 3"],
    directions: Float[Tensor, "*b 3"],
    box: Float[Tensor, "2 3"],
    *,
    near_plane: float = 0.0,
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"], Bool[Tensor, "*b"]]:
    """Where rays enter and leave an axis-aligned box (slab method).

    Args:
        origins: Where rays start; a ray from inside the box is near at `near_plane`.
        directions: Finite, not zero.
        box: Lower and upper corner.
        near_plane: Least distance that counts.

    Returns:
        near, far and hit. Where hit is False, near = far = `near_plane`. A ray that only touches does not hit.

    Raises:
        StudioError: The box has no volume, or a ray is not finite or has no direction.
        ValueError: Shapes.
    """
    check_rays(origins, directions)
    check_box(box)
    low, high = box.to(origins)
    # Along a slab the ray is in or out for good, and dividing by the tiny component would ruin the gradients.
    parallel = directions.abs() <= torch.finfo(directions.dtype).eps ** 2
    divisor = torch.where(parallel, torch.ones_like(directions), directions)
    first, second = (low - origins) / divisor, (high - origins) / divisor
    inside = (origins >= low) & (origins <= high)
    infinity = torch.full_like(first, float("inf"))
    entry = torch.where(parallel, torch.where(inside, -infinity, infinity), torch.minimum(first, second))
    leave = torch.where(parallel, torch.where(inside, infinity, -infinity), torch.maximum(first, second))
    return _clip(entry.amax(-1), leave.amin(-1), near_plane)


def ray_sphere(
    origins: Float[Tensor, "*b 3"],
    directions: Float[Tensor, "*b 3"],
    center: Float[Tensor, " 3"],
    radius: float | Tensor,
    *,
    near_plane: float = 0.0,
) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"], Bool[Tensor, "*b"]]:
    """Where rays enter and leave a sphere; arguments, results and errors as for `ray_box`.

    Raises:
        StudioError: The radius is not positive, or a ray is not finite or has no direction.
    """
    check_rays(origins, directions)
    radius = torch.as_tensor(radius, dtype=origins.dtype, device=origins.device)
    if not bool(((radius > 0) & radius.isfinite()).all()):
        raise StudioError("radius: must be positive and finite.", fix="Give the sphere a radius above 0.")
    towards = center.to(origins) - origins
    speed2 = directions.square().sum(-1)
    closest = (towards * directions).sum(-1) / speed2
    # The miss distance itself, not |towards|² − closest²: far from the sphere that difference would be rounding only.
    miss2 = (closest[..., None] * directions - towards).square().sum(-1)
    square = (radius.square() - miss2) / speed2
    crossing = square > 0
    half = torch.where(crossing, square, torch.ones_like(square)).sqrt()
    infinity = torch.full_like(half, float("inf"))
    near = torch.where(crossing, closest - half, infinity)
    far = torch.where(crossing, closest + half, -infinity)
    return _clip(near, far, near_plane)


def _clip(near: Tensor, far: Tensor, near_plane: float) -> tuple[Tensor, Tensor, Tensor]:
    near = near.clamp_min(near_plane)
    hit = far > near
    nowhere = torch.full_like(near, near_plane)
    return torch.where(hit, near, nowhere), torch.where(hit, far, nowhere), hit
