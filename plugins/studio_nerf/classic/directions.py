"""Viewing directions: the paper writes them as two angles, the network takes them as unit vectors."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def direction_from_angles(theta: Float[Tensor, "*b"], phi: Float[Tensor, "*b"]) -> Float[Tensor, "*b 3"]:
    """The unit vector of the viewing direction (theta, phi) of the 5D input (x, y, z, theta, phi).

    Spherical coordinates of physics (ISO 80000-2) in the scene's frame, whose +z is up:
    ``(sin theta cos phi, sin theta sin phi, cos theta)``.

    Args:
        theta: Polar angle from +z, radians: 0 looks up, pi/2 along the horizon, pi down. Broadcasts with `phi`.
        phi: Azimuth from +x towards +y, radians.

    Returns:
        Unit vectors in the direction that light is looked along, from the camera into the scene, as `Cameras.rays` and
        every `directions` argument here has them.
    """
    theta, phi = torch.broadcast_tensors(theta, phi)
    across = theta.sin()
    return torch.stack([across * phi.cos(), across * phi.sin(), theta.cos()], dim=-1)


def angles_from_direction(direction: Float[Tensor, "*b 3"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    """Inverse of `direction_from_angles`: theta in [0, pi] and phi in (-pi, pi]; the length does not matter.

    At the poles phi is not determined; it is that of `torch.atan2` (0 for an exact pole).
    """
    x, y, z = direction.unbind(dim=-1)
    # Unlike acos(z), exact close to the poles.
    return torch.atan2(torch.hypot(x, y), z), torch.atan2(y, x)
