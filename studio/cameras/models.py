"""The projection models: how a point in camera coordinates meets the normalised image plane, and back.

Camera coordinates are OpenCV's (+x right, +y down, +z forward). "Normalised" means before focal length and principal
point: ``pixel = (fx * x + cx, fy * y + cy)``.

==================  =========================================================  ==============
model               normalised coordinates of the point ``(X, Y, Z)``           depth
==================  =========================================================  ==============
``pinhole``         ``(X/Z, Y/Z)``                                              ``Z``
``opencv``          `distortion.distort` of ``(X/Z, Y/Z)``                      ``Z``
``fisheye``         ``theta_d (X, Y)/r``, ``theta = atan2(r, Z)``,              ``Z``
                    ``r = |(X, Y)|``, theta_d as Kannala-Brandt
``equirectangular`` ``(atan2(X, Z), atan2(Y, |(X, Z)|)) / pi``                  distance
``orthographic``    ``(X, Y)`` (focal lengths in pixels per world unit)         ``Z``
==================  =========================================================  ==============

Equirectangular is nerfstudio's: the middle of the picture looks along +z, longitude grows to the right, and a full
sphere has ``fx = width / 2`` and ``fy = height``. Half of what it sees lies behind the camera, where a z-depth could
not tell a point from its mirror image, so its depth is the distance along the ray. A fisheye that sees beyond 90
degrees keeps z-depth: it is negative there, and zero (so not invertible) exactly at 90 degrees.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from studio.cameras import distortion as lens

CameraModel = Literal["pinhole", "opencv", "fisheye", "equirectangular", "orthographic"]

CAMERA_MODELS: tuple[CameraModel, ...] = get_args(CameraModel)

DISTORTED_MODELS: tuple[CameraModel, ...] = ("opencv", "fisheye")
"""The models that have distortion coefficients."""


class NormalisedRays(NamedTuple):
    """Rays of normalised image points, in camera coordinates."""

    offsets: Float[Tensor, "*points 3"] | None
    """Where each ray starts, relative to the camera's centre; None when all start there."""
    directions: Float[Tensor, "*points 3"]
    """Unit length."""
    depth_scale: Float[Tensor, "*points"]
    """Depth gained per unit of distance along the ray."""
    valid: Bool[Tensor, "*points"] | None
    """False where the lens has no ray for the point; None when every point has one."""


def project_normalised(
    model: CameraModel, points: Float[Tensor, "*points 3"], coefficients: Float[Tensor, "*points 8"] | None
) -> tuple[Float[Tensor, "*points 2"], Float[Tensor, "*points"]]:
    """Normalised image coordinates and depth of points in camera coordinates.

    Points that a model cannot see (see `is_seen`) get finite coordinates that mean nothing.
    """
    x, y, z = points.unbind(-1)
    if model == "orthographic":
        return points[..., :2], z
    if model == "equirectangular":
        longitude = torch.atan2(x, z)
        latitude = torch.atan2(y, _safe_norm(x, z))
        return torch.stack([longitude, latitude], dim=-1) / math.pi, points.norm(dim=-1)
    if model == "fisheye":
        radius = _safe_norm(x, y)
        theta = torch.atan2(radius, z)
        bent = theta if coefficients is None else lens.fisheye_distort_angle(theta, coefficients)
        # On the optical axis theta_d / r tends to 1 / z.
        on_axis = radius <= torch.finfo(points.dtype).eps * z.abs()
        scale = torch.where(
            on_axis, 1 / _away_from_zero(z), bent / torch.where(on_axis, torch.ones_like(radius), radius)
        )
        return points[..., :2] * scale[..., None], z
    flat = points[..., :2] / _away_from_zero(z)[..., None]
    return (flat if coefficients is None else lens.distort(flat, coefficients)), z


def unproject_normalised(
    model: CameraModel, flat: Float[Tensor, "*points 2"], coefficients: Float[Tensor, "*points 8"] | None
) -> NormalisedRays:
    """The rays through normalised image points: the inverse of `project_normalised`."""
    x, y = flat.unbind(-1)
    if model == "orthographic":
        zero = torch.zeros_like(x)
        forward = torch.stack([zero, zero, torch.ones_like(x)], dim=-1)
        return NormalisedRays(torch.stack([x, y, zero], dim=-1), forward, forward[..., 2], None)
    if model == "equirectangular":
        longitude, latitude = math.pi * x, math.pi * y
        across = torch.cos(latitude)
        directions = torch.stack(
            [torch.sin(longitude) * across, torch.sin(latitude), torch.cos(longitude) * across], dim=-1
        )
        return NormalisedRays(None, directions, torch.ones_like(x), (x.abs() <= 1) & (y.abs() <= 0.5))
    if model == "fisheye":
        bent = _safe_norm(x, y)
        if coefficients is None:
            theta, valid = bent, bent <= math.pi
        else:
            theta, valid = lens.fisheye_undistort_angle(bent, coefficients)
        # sin(theta) / theta_d tends to 1 on the optical axis.
        on_axis = bent <= torch.finfo(flat.dtype).tiny
        scale = torch.where(
            on_axis, torch.ones_like(bent), theta.sin() / torch.where(on_axis, torch.ones_like(bent), bent)
        )
        forward_part = theta.cos()
        return NormalisedRays(
            None, torch.cat([flat * scale[..., None], forward_part[..., None]], dim=-1), forward_part, valid
        )
    converged: Tensor | None = None
    if coefficients is not None:
        flat, converged = lens.undistort(flat, coefficients)
    scale = torch.rsqrt(flat.square().sum(-1) + 1)
    return NormalisedRays(None, torch.cat([flat * scale[..., None], scale[..., None]], dim=-1), scale, converged)


def is_seen(
    model: CameraModel, points: Float[Tensor, "*points 3"], coefficients: Float[Tensor, "*points 8"] | None
) -> Bool[Tensor, "*points"]:
    """Whether a lens with an unbounded picture sees points in camera coordinates.

    That is: in front of a perspective or orthographic camera, and before the fold of a distortion polynomial.
    """
    z = points[..., 2]
    if model == "equirectangular":
        return points.square().sum(-1) > 0
    if model == "fisheye":
        theta = torch.atan2(points[..., :2].norm(dim=-1), z)
        limit = math.pi if coefficients is None else lens.fisheye_angle_limit(coefficients)
        return (theta < limit) & (points.square().sum(-1) > 0)
    in_front = z > 0
    if model == "opencv" and coefficients is not None:
        flat = points[..., :2] / _away_from_zero(z)[..., None]
        return in_front & lens.distort_is_one_to_one(flat, coefficients)
    return in_front


def _away_from_zero(z: Tensor) -> Tensor:
    tiny = torch.finfo(z.dtype).eps ** 2
    return torch.where(z.abs() < tiny, torch.full_like(z, tiny), z)


def _safe_norm(a: Tensor, b: Tensor) -> Tensor:
    """Length of (a, b) whose derivative at zero is zero instead of NaN."""
    square = a * a + b * b
    zero = square == 0
    return torch.where(zero, torch.zeros_like(square), torch.where(zero, torch.ones_like(square), square).sqrt())
