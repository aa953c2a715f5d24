"""Where a scene lies: how points of the world become points of the encoding's unit cube, and how rays are marched."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from studio.marching.contraction import contract
from studio.plugin import SceneInfo
from studio_nerf.ngp.config import NgpConfig

_DEFAULT_HALF = 1.5
_MOST_LEVELS = 6
_NEAR_SHARE = 0.02


@dataclass(frozen=True)
class Space:
    """Geometry of a field.

    Attributes:
        kind: box, contract or ndc.
        box: Of the occupancy grid's first level, in the frame that is marched in.
        levels: Levels of the occupancy grid.
        step_size: Least length of a marching step.
        cone_angle: Growth of the step with distance.
        near: Distance from the camera at which rays begin.
    """

    kind: str
    box: tuple[tuple[float, float, float], tuple[float, float, float]]
    levels: int
    step_size: float
    cone_angle: float
    near: float

    @classmethod
    def build(cls, config: NgpConfig, info: SceneInfo) -> Space:
        kind = config.space
        if kind == "auto":
            kind = "box" if info.has_alpha else "contract"
        if kind == "ndc":
            box = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
            return cls("ndc", box, 1, 2 * math.sqrt(3) / config.steps_across, 0.0, 0.0)
        bounds = info.bounds or ((-_DEFAULT_HALF,) * 3, (_DEFAULT_HALF,) * 3)
        if kind == "box":
            return cls("box", bounds, 1, math.dist(*bounds) / config.steps_across, 0.0, 0.0)
        half = info.camera_extent
        reach = max(abs(v) for corner in bounds for v in corner) if info.bounds else 16 * half
        levels = min(max(math.ceil(math.log2(max(reach / half, 1.0))) + 1, 2), _MOST_LEVELS)
        box = ((-half,) * 3, (half,) * 3)
        step = 2 * half * math.sqrt(3) / config.steps_across
        return cls("contract", box, levels, step, config.cone_angle, _NEAR_SHARE * half)

    @property
    def contracted(self) -> bool:
        return self.kind == "contract"

    @property
    def frame(self) -> NDArray[np.float32]:
        """Centre (3) of the cube that becomes [-1, 1]^3, and 1 / half its side."""
        low, high = np.array(self.box)
        return np.array([*(0.5 * (low + high)), 2.0 / (high - low).max()], np.float32)

    def to_unit(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """Points of the marched frame in the encoding's unit cube; differentiable."""
        frame = torch.from_numpy(self.frame).to(points)
        x = (points - frame[:3]) * frame[3]
        return contract(x, "linf") * 0.25 + 0.5 if self.contracted else x * 0.5 + 0.5
