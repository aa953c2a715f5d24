"""Where the field is: the box that holds the content, the cube that the network sees, and near and far of rays."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from studio.errors import StudioError
from studio.marching.near_far import ray_box
from studio.scene import Scene
from studio.scene.normalize import focus_point


@dataclass(frozen=True, eq=False)
class Interval:
    """The part of each ray that is sampled."""

    near: Float[Tensor, " n"]
    far: Float[Tensor, " n"]
    hit: Bool[Tensor, " n"]
    """False for a ray that meets nothing: near = far."""


def scene_box(scene: Scene) -> Float[Tensor, "2 3"]:
    """The box of interest: the scene's bounds; where it has none, a cube around what the cameras look at.

    That cube reaches as far behind the focus as the cameras stand before it.

    Raises:
        StudioError: The bounds have no volume, or there are none and nothing that the cameras look at in common.
    """
    if scene.bounds is not None:
        low, high = scene.bounds
        if not bool((high > low).all()):
            raise StudioError(
                f"{scene.root}: the scene's bounds have no volume ({low.tolist()} to {high.tolist()}).",
                fix="Correct the points or the box in the scene's files.",
            )
        return scene.bounds.float()
    poses = torch.stack([frame.camera.camera_to_world.double() for frame in scene.frames])
    focus = focus_point(poses)
    if focus is None:
        raise StudioError(
            f"{scene.root}: the scene has no bounds, and its cameras look at nothing in common, so that nerf cannot "
            "know where to sample.",
            fix="Add a point cloud (COLMAP gives one) or a box to the scene.",
        )
    half = (poses[:, :3, 3] - focus).norm(dim=-1).mean()
    return torch.stack([focus - half, focus + half]).float()


def to_cube(points: Float[Tensor, "*b 3"], box: Float[Tensor, "2 3"]) -> Float[Tensor, "*b 3"]:
    """Positions scaled alike on all axes and moved, so that the box lies within [-1, 1]^3 and touches it."""
    return (points - box.mean(dim=0)) * (2 / (box[1] - box[0]).amax())


def within(points: Float[Tensor, "*b 3"], box: Float[Tensor, "2 3"]) -> Bool[Tensor, "*b"]:
    """Which points lie in the box, its faces included."""
    return ((points >= box[0]) & (points <= box[1])).all(dim=-1)


def interval(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    box: Float[Tensor, "2 3"],
    *,
    near: float,
    far: float | None,
) -> Interval:
    """Where rays run through the box, not nearer than `near` and not beyond `far`.

    A camera may stand inside the box: its rays begin at `near`.
    """
    entry, leave, hit = ray_box(origins, directions, box, near_plane=near)
    if far is not None:
        leave = leave.clamp(max=far)
        hit = hit & (leave > entry)
        leave = torch.where(hit, leave, entry)
    return Interval(entry, leave, hit)
