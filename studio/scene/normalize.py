"""Bringing a scene into a standard frame: content or cameras at the origin, +z up, cameras within unit radius."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras.capture import common_up
from studio.cameras.poses import Similarity
from studio.errors import StudioError
from studio.scene.scene import Frame, PointCloud, Scene
from studio.scene.vertical import vertical_by_planes

NormalizeMethod = Literal["auto", "focus", "poses", "none"]
NORMALIZE_METHODS: tuple[NormalizeMethod, ...] = get_args(NormalizeMethod)

_FORWARD_SPREAD = math.radians(10)
"""Root mean square angle between the view axes and their common direction below which a set faces forward."""

_IN_FRONT = 0.75
"""Share of cameras that must have the common focus in front of them for it to be what they look at."""


def normalize_scene(scene: Scene, method: NormalizeMethod = "auto") -> Scene:
    """Move, turn and scale a scene into a standard frame; `Scene.scene_from_input` keeps how.

    Afterwards +z is up: as walls and ground among the sparse points tell (`studio.scene.vertical`), else as the photos
    were held (`studio.cameras.capture.common_up`). The camera farthest from the origin is at distance 1. The origin is

    * ``focus``: the point closest to all optical axes (least squares): what the cameras look at;
    * ``poses``: the mean position of the cameras;
    * ``auto``: as ``focus``, but as ``poses`` for forward-facing sets (view axes within 10 degrees RMS of their common
      direction), for cameras that look outward, and where equirectangular or orthographic cameras leave no focus.
      Scenes in Blender's NeRF-synthetic format have a known frame and are left alone;
    * ``none``: nothing changes.

    Args:
        scene: Any scene; if it was normalised before, the maps are composed.
        method: See above.

    Returns:
        A scene whose cameras, points, bounds and depth ranges are in the new frame. Every camera still projects every
        moved point to the same pixel; depths are multiplied by the scale. Bounds are the box around the turned box.

    Raises:
        StudioError: An unknown method.
    """
    if method not in NORMALIZE_METHODS:
        raise StudioError(
            f"normalize: there is no method '{method}'.", fix=f"Choose one of {', '.join(NORMALIZE_METHODS)}."
        )
    if method == "none" or not scene.frames or (method == "auto" and scene.format == "blender"):
        return scene
    poses = torch.stack([frame.camera.camera_to_world.double() for frame in scene.frames])
    return transform_scene(scene, _standard_frame(poses, scene.points, _perspective(scene.frames), method))


def transform_scene(scene: Scene, similarity: Similarity) -> Scene:
    """The scene in another frame of reference, with the map composed onto `Scene.scene_from_input`."""
    return replace(
        scene,
        frames=tuple(_transform_frame(frame, similarity) for frame in scene.frames),
        points=None if scene.points is None else _transform_cloud(scene.points, similarity),
        bounds=None if scene.bounds is None else _transform_box(scene.bounds, similarity),
        scene_from_input=similarity.matrix @ scene.scene_from_input,
    )


def focus_point(poses: Float[Tensor, "n 4 4"]) -> Float[Tensor, " 3"] | None:
    """The point with the least sum of squared distances to all optical axes, or None where they are parallel."""
    origins, forward = poses[:, :3, 3], poses[:, :3, 2]
    across = _across(forward)
    normal = across.mean(dim=0)
    if torch.linalg.eigvalsh(normal)[0] < 1e-8:
        return None
    return torch.linalg.solve(normal, (across @ origins[..., None]).mean(dim=0)[:, 0])


def in_frame_of(scene: Scene, scene_from_input: Float[Tensor, "4 4"]) -> Scene:
    """The scene in the frame of a run that normalised it earlier, which another version may have chosen otherwise."""
    if torch.equal(scene.scene_from_input, scene_from_input):
        return scene
    return transform_scene(scene, Similarity.from_matrix(scene_from_input @ scene.input_from_scene))


def scene_vertical(scene: Scene) -> Float[Tensor, " 3"]:
    """Which way is up, a float64 unit vector in the scene's frame: +z of known and normalised frames, else a guess."""
    known = scene.format == "blender" or not torch.equal(scene.scene_from_input, torch.eye(4, dtype=torch.float64))
    if known or not scene.frames:
        return torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    poses = torch.stack([frame.camera.camera_to_world.double() for frame in scene.frames])
    return _vertical(poses, scene.points)


def _vertical(poses: Float[Tensor, "n 4 4"], points: PointCloud | None) -> Float[Tensor, " 3"]:
    held = common_up(poses[:, :3, 0], -poses[:, :3, 1], poses[:, :3, 2])
    if points is None or len(points) == 0:
        return held
    xyz = points.xyz.double()
    size = float((poses[:, :3, 3] - xyz.median(dim=0).values).norm(dim=-1).mean())
    told = vertical_by_planes(xyz, held, size)
    return held if told is None else told


def _standard_frame(
    poses: Float[Tensor, "n 4 4"], points: PointCloud | None, perspective: bool, method: NormalizeMethod
) -> Similarity:
    focus = focus_point(poses) if perspective else None
    if focus is None or method == "poses" or (method == "auto" and not _looks_at(poses, focus)):
        focus = poses[:, :3, 3].mean(dim=0)
    radius = float((poses[:, :3, 3] - focus).norm(dim=-1).max())
    # A single camera (or a rotation on the spot) says nothing about size.
    scale = 1 / radius if radius > 1e-12 else 1.0
    rotation = _turn_up(_vertical(poses, points))
    return Similarity(scale, rotation, -scale * rotation @ focus)


def _looks_at(poses: Float[Tensor, "n 4 4"], focus: Float[Tensor, " 3"]) -> bool:
    """Whether the cameras surround (at least part of the way) the point, rather than facing forward or outward."""
    forward = poses[:, :3, 2]
    # The smallest eigenvalue is the mean squared sine of the angle to the direction that all axes share most.
    spread = float(torch.linalg.eigvalsh(_across(forward).mean(dim=0))[0].clamp(min=0).sqrt())
    depth = ((focus - poses[:, :3, 3]) * forward).sum(dim=-1)
    return spread > math.sin(_FORWARD_SPREAD) and float((depth > 0).double().mean()) >= _IN_FRONT


def _across(forward: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """Projectors onto the planes across the view axes."""
    return torch.eye(3, dtype=forward.dtype) - forward[:, :, None] * forward[:, None, :]


def _turn_up(up: Float[Tensor, " 3"]) -> Float[Tensor, "3 3"]:
    """The smallest rotation that takes the unit vector `up` to +z."""
    x, y, z = up.tolist()
    if z < -1 + 1e-9:
        return torch.diag(torch.tensor([1.0, -1.0, -1.0], dtype=up.dtype))
    # Rodrigues' formula for the axis (y, -x, 0) = up cross z, with sin^2 / (1 - cos) folded into 1 / (1 + z).
    f = 1 / (1 + z)
    rows = [[1 - f * x * x, -f * x * y, -x], [-f * x * y, 1 - f * y * y, -y], [x, y, z]]
    return torch.tensor(rows, dtype=up.dtype)


def _perspective(frames: tuple[Frame, ...]) -> bool:
    return all(frame.camera.model not in ("equirectangular", "orthographic") for frame in frames)


def _transform_frame(frame: Frame, similarity: Similarity) -> Frame:
    near_far = frame.depth_range
    return replace(
        frame,
        camera=frame.camera.transformed(similarity),
        depth_range=None if near_far is None else (near_far[0] * similarity.scale, near_far[1] * similarity.scale),
    )


def _transform_cloud(points: PointCloud, similarity: Similarity) -> PointCloud:
    moved = similarity.points(points.xyz.double())
    return replace(points, xyz=moved.to(points.xyz.dtype))


def _transform_box(bounds: Float[Tensor, "2 3"], similarity: Similarity) -> Float[Tensor, "2 3"]:
    corners = torch.cartesian_prod(*bounds.double().T)
    moved = similarity.points(corners)
    return torch.stack([moved.amin(dim=0), moved.amax(dim=0)]).to(bounds.dtype)
