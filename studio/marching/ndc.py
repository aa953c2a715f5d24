"""Normalised device coordinates for forward-facing scenes (Mildenhall et al. 2020, appendix C).

The frustum in front of a plane z = near, to infinity, becomes the cube [-1, 1]³: even steps there are even in
disparity. Written for OpenCV axes, in a frame in which the cameras look along +z:

    x' = s_x x / z,   y' = s_y y / z,   z' = 1 − 2 near / z,   s = 2 focal / image size.

Straight lines stay straight, so a ray is a ray again; distances along it are not the world's (`z_from_ndc`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras import Cameras
from studio.cameras.poses import invert_pose, make_pose, nearest_rotation
from studio.errors import StudioError
from studio.marching.arguments import check_rays

Scale = tuple[float, float]
"""2 fx / width and 2 fy / height, which bring the pictures' edges to ±1."""


def ndc_scale(cameras: Cameras) -> Scale:
    """The scale at which the widest of the cameras just fills the cube."""
    x = 2.0 * (cameras.fx / cameras.width).amin()
    y = 2.0 * (cameras.fy / cameras.height).amin()
    return float(x), float(y)


def world_to_front(cameras: Cameras) -> Float[Tensor, "4 4"]:
    """The rigid motion into the mean frame of the cameras: at their mean position, +z along their mean view.

    Raises:
        StudioError: A camera looks backwards in that frame, so the scene is not forward-facing.
    """
    poses = cameras.camera_to_world.reshape(-1, 4, 4)
    pose = make_pose(nearest_rotation(poses[:, :3, :3].mean(0)), poses[:, :3, 3].mean(0))
    towards = poses[:, :3, 2] @ pose[:3, 2]
    if not bool((towards > 0).all()):
        at = int((towards <= 0).nonzero()[0, 0])
        raise StudioError(
            f"cameras: camera {at} looks away from the others; NDC needs a forward-facing scene.",
            fix="Use a contracted (unbounded) or boxed scene instead.",
        )
    return invert_pose(pose)


def ndc_rays(
    origins: Float[Tensor, "*b 3"], directions: Float[Tensor, "*b 3"], scale: Scale, near: float = 1.0
) -> tuple[Float[Tensor, "*b 3"], Float[Tensor, "*b 3"], Float[Tensor, "*b"]]:
    """Rays in NDC, from the near plane (z' = -1) to infinity (z' = 1).

    Args:
        origins: In the frame of `world_to_front`.
        directions: In the same frame; they must look forward.
        scale: See `ndc_scale`.
        near: z of the near plane, in front of every camera.

    Returns:
        Origins on the plane z' = -1, unit directions, and the length of each ray: march it from 0 to there.

    Raises:
        StudioError: A ray does not look forward, or is not finite; near ≤ 0.
    """
    check_rays(origins, directions)
    _check_near(near)
    oz, dz = origins[..., 2], directions[..., 2]
    if not bool((dz > 0).all()):
        at = int((dz <= 0).flatten().nonzero()[0, 0])
        raise StudioError(
            f"directions: ray {at} does not look forward (+z), as NDC needs.",
            fix="Use NDC for forward-facing scenes only, in the cameras' mean frame.",
        )
    slope = directions[..., :2] / dz[..., None]
    on_plane = origins[..., :2] + (near - oz)[..., None] * slope
    s = origins.new_tensor(scale)
    start = torch.cat([s * on_plane / near, torch.full_like(oz, -1.0)[..., None]], dim=-1)
    # The direction's limit point, at z' = 1, is s · slope: the image of the point at infinity.
    whole = torch.cat([s * slope, torch.ones_like(oz)[..., None]], dim=-1) - start
    length = whole.norm(dim=-1)
    return start, whole / length[..., None], length


def ndc_points(points: Float[Tensor, "*b 3"], scale: Scale, near: float = 1.0) -> Float[Tensor, "*b 3"]:
    """Points with z > 0 of the frame of `world_to_front`, in NDC."""
    _check_near(near)
    z = points[..., 2:]
    return torch.cat([points.new_tensor(scale) * points[..., :2] / z, 1.0 - 2.0 * near / z], dim=-1)


def ndc_points_inverse(points: Float[Tensor, "*b 3"], scale: Scale, near: float = 1.0) -> Float[Tensor, "*b 3"]:
    """Inverse of `ndc_points`; z' = 1 stands for infinity and gives very distant points."""
    z = z_from_ndc(points[..., 2:], near)
    return torch.cat([points[..., :2] * z / points.new_tensor(scale), z], dim=-1)


def z_from_ndc(z: Float[Tensor, "*b"], near: float = 1.0) -> Float[Tensor, "*b"]:
    """z in the frame of `world_to_front` of a z' below 1 (at 1 and beyond: very far)."""
    _check_near(near)
    return 2.0 * near / (1.0 - z).clamp_min(torch.finfo(z.dtype).eps)


def _check_near(near: float) -> None:
    if not 0 < near < float("inf"):
        raise StudioError(f"near: {near:g} is no distance of a near plane.", fix="Give a positive distance.")
