"""Where a scene lies: rays of the world as they are marched, and points in the unit cube of the encoding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.marching import contract, ndc_points_inverse, ndc_rays, ndc_scale, world_to_front
from studio.marching.ndc import ndc_points
from studio.plugin import SceneInfo
from studio.scene import Scene
from studio_nerf.ngp.config import NgpConfig
from studio_nerf.ngp.settled import Settled

Kind = Literal["box", "contract", "ndc"]
Corner = tuple[float, float, float]

_DEFAULT_HALF = 1.5
_FARTHEST = 16.0
"""How far space reaches where a scene does not tell, in radii of the cameras."""
_MOST_LEVELS = 6
_INNER, _LEAST_INNER = 1.4, 0.1
"""Half the side of the inner box: so many times the extent of the sparse points, which most of what the cameras look at
lies within, and at least this share of the cameras' radius. The finer the box fits, the finer its cells."""
_NEAR_SHARE = 0.02
"""Distance at which rays begin among cameras, in radii of the cameras."""
_FINER = 0.5
"""Steps among cameras are so much shorter: what is seen from near needs steps of about a pixel."""
_HAZE = 0.002
"""Optical thickness a step of the haze among cameras that is cleared away (the idea of nerfacc's `alpha_thre`)."""
_BEFORE, _STRAYS = 0.65, 0.02
"""Where rays begin, as a share of the distance of the nearest sparse points, and the share of points that may be
strays."""
_MOST_POINTS, _MOST_CAMERAS = 1 << 15, 200
"""Of more, so many are asked, evenly chosen: a large scene has a thousand times as many pairs."""
_CLOSEST = 0.9
"""Place of the NDC near plane before the nearest content."""


@dataclass(frozen=True)
class Space:
    """Geometry of the space that is marched through: the world, or normalised device coordinates.

    Attributes:
        kind: box, contract or ndc.
        box: First level of the occupancy grid.
        levels: Levels of the occupancy grid.
        step_size: Least length of a marching step.
        cone_angle: Growth of the step with distance.
        near: Distance at which rays begin.
        least_thickness: Optical thickness of a step that is worth looking at; thinner haze is cleared away.
        distortion: Weight of the distortion loss.
        bend: Of the distances that it compares (`RayTargets.bend`).
    """

    kind: Kind
    box: tuple[Corner, Corner]
    levels: int
    step_size: float
    cone_angle: float
    near: float
    least_thickness: float = 0.0
    distortion: float = 0.0
    bend: float = 0.0

    @classmethod
    def build(cls, config: NgpConfig, info: SceneInfo) -> Space:
        """The space that a configuration means for a scene."""
        kind: Kind
        if config.space == "auto":
            kind = "box" if info.has_alpha else "contract"
        else:
            kind = config.space
        distortion = Settled.of(config, contracted=kind == "contract").distortion
        if kind == "ndc":
            unit = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
            step = 2 * math.sqrt(3) / config.steps_across
            return cls("ndc", unit, 1, step, 0.0, 0.0, distortion=distortion)
        if kind == "box":
            half = _DEFAULT_HALF
            box = info.bounds or ((-half, -half, -half), (half, half, half))
            step = math.dist(*box) / config.steps_across
            return cls("box", box, 1, step, 0.0, 0.0, distortion=distortion)
        around = info.camera_extent
        reach = max(abs(v) for corner in info.bounds for v in corner) if info.bounds else _FARTHEST * around
        half = max(_inner(info), min(around, reach / 2 ** (_MOST_LEVELS - 1)))
        levels = min(max(math.ceil(math.log2(max(reach / half, 1.0))) + 1, 2), _MOST_LEVELS)
        step = _FINER * 2 * around * math.sqrt(3) / config.steps_across
        box = ((-half, -half, -half), (half, half, half))
        return cls(
            "contract",
            box,
            levels,
            step,
            config.cone_angle,
            _NEAR_SHARE * around,
            least_thickness=_HAZE,
            distortion=distortion,
            bend=1 / around,
        )

    @property
    def contracted(self) -> bool:
        """Whether all of space, rather than the box alone, lies in the unit cube."""
        return self.kind == "contract"

    @property
    def frame(self) -> NDArray[np.float32]:
        """Centre (3) of the cube around the box, and 1 / half its side."""
        low, high = np.array(self.box)
        return np.array([*(0.5 * (low + high)), 2.0 / (high - low).max()], np.float32)

    def grid_scale(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
        """Size of the occupancy cells at points, over that of the first level."""
        frame = torch.from_numpy(self.frame).to(points)
        radius = ((points - frame[:3]) * frame[3]).abs().amax(dim=-1).clamp_min(1.0)
        return radius.log2().ceil().clamp_max(self.levels - 1).exp2()

    def to_unit(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """Points in the encoding's unit cube; differentiable."""
        frame = torch.from_numpy(self.frame).to(points)
        x = (points - frame[:3]) * frame[3]
        return contract(x, "linf") * 0.25 + 0.5 if self.contracted else x * 0.5 + 0.5


@dataclass(frozen=True)
class MarchedFrame:
    """Rays as they are marched; far is None where they leave the grid by themselves."""

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    near: Float[Tensor, " n"] | None
    far: Float[Tensor, " n"] | None


class WorldFrame(nn.Module):
    """How the world lies in the marched space: itself, or in normalised device coordinates.

    Holds buffers only, which `fit` sets from the cameras.

    Args:
        space: The marched space.
    """

    front: Tensor
    scale: Tensor
    near: Tensor

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        if space.kind == "ndc":
            self.register_buffer("front", torch.eye(4))
            self.register_buffer("scale", torch.ones(2))
        self.register_buffer("near", torch.tensor(1.0 if space.kind == "ndc" else space.near))

    def fit(self, scene: Scene, cameras: Cameras) -> None:
        """Set the frame from the training cameras.

        Raises:
            StudioError: The space does not suit the cameras.
        """
        centers = cameras.camera_to_world[:, :3, 3]
        if self.space.kind == "box":
            low, high = (torch.tensor(corner) for corner in self.space.box)
            inside = ((centers > low) & (centers < high)).all(dim=-1)
            if bool(inside.any()):
                names = [frame.name for frame in scene.split("train")]
                first = int(inside.nonzero()[0, 0])
                raise StudioError(
                    f"space: {int(inside.sum())} of {len(inside)} cameras are inside the box of the scene (first: "
                    f"{names[first]}), and a box is for objects seen from outside.",
                    fix="Use --space contract.",
                )
        if self.space.kind == "contract" and scene.points is not None:
            self.near.fill_(max(self.space.near, _nearest(scene.points.xyz, cameras)))
        if self.space.kind == "ndc":
            front = world_to_front(cameras).float()
            depths = centers.float() @ front[2, :3] + front[2, 3]
            near = _CLOSEST * self._closest(scene, front)
            if near <= float(depths.max()):
                raise StudioError(
                    "space: something is as near as the foremost camera, and NDC needs all cameras before the scene.",
                    fix="Use --space contract.",
                )
            self.front.copy_(front)
            self.scale.copy_(torch.tensor(ndc_scale(cameras)))
            self.near.fill_(near)

    @staticmethod
    def _closest(scene: Scene, front: Float[Tensor, "4 4"]) -> float:
        ranges = [frame.depth_range[0] for frame in scene.split("train") if frame.depth_range is not None]
        if ranges:
            return min(ranges)
        if scene.points is not None and len(scene.points):
            z = scene.points.xyz @ front[2, :3] + front[2, 3]
            return float(z[z > 0].quantile(0.01)) if bool((z > 0).any()) else 0.0
        raise StudioError(
            "space: the scene does not tell how near its content is, which NDC needs.", fix="Use --space contract."
        )

    def rays(self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> MarchedFrame:
        """World rays in the marched space; differentiable."""
        if self.space.kind != "ndc":
            near = None if self.space.kind == "box" else self.near.to(origins).expand(len(origins)).contiguous()
            return MarchedFrame(origins, directions, near, None)
        rotation = self.front[:3, :3]
        start, along, length = ndc_rays(
            origins @ rotation.T + self.front[:3, 3], directions @ rotation.T, self._scale, float(self.near)
        )
        return MarchedFrame(start, along, None, length)

    def marched_points(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """World points in the marched space; differentiable."""
        if self.space.kind != "ndc":
            return points
        return ndc_points(points @ self.front[:3, :3].T + self.front[:3, 3], self._scale, float(self.near))

    def world_points(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """Inverse of `marched_points`."""
        if self.space.kind != "ndc":
            return points
        return (ndc_points_inverse(points, self._scale, float(self.near)) - self.front[:3, 3]) @ self.front[:3, :3]

    @property
    def _scale(self) -> tuple[float, float]:
        return float(self.scale[0]), float(self.scale[1])


def _inner(info: SceneInfo) -> float:
    """Half the side of the box that is not contracted."""
    around = info.camera_extent
    if info.points_extent is None:
        return around
    return min(max(_INNER * info.points_extent, _LEAST_INNER * around), around)


def _nearest(points: Float[Tensor, "n 3"], cameras: Cameras) -> float:
    """A part of the distance at which the first camera sees the first of the points; 0 where none sees any."""
    least = math.inf
    points = points[:: -(-len(points) // _MOST_POINTS) or 1]
    for camera in cameras[:: -(-len(cameras) // _MOST_CAMERAS) or 1]:
        distances = (points[camera.sees(points)] - camera.camera_to_world[:3, 3]).norm(dim=-1)
        if len(distances):
            least = min(least, float(distances.quantile(_STRAYS)))
    return _BEFORE * least if least < math.inf else 0.0
