"""Camera paths as an editor knows them: keyframes with a duration, an easing and a field of view each.

The motion is the C1 spline of `studio.cameras.splines` with the keyframes' times as knots. Easing bends time within a
segment and leaves the curve as it is: a motion that starts or stops at a keyframe passes the same places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras.cameras import Cameras
from studio.cameras.splines import spline_poses, spline_values

Easing = Literal["none", "in", "out", "in-out"]
EASINGS: tuple[Easing, ...] = get_args(Easing)
LONGEST_SECONDS = 3600.0
MOST_FRAMES = 200_000


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A place that the camera passes.

    Attributes:
        camera_to_world: Rigid, OpenCV.
        fov_y: Vertical field of view in radians, in (0, pi).
        seconds: Time from the keyframe before it, above zero; of the first, the way back to it on a closed path.
        easing: Of the motion towards it: 'none' passes evenly, 'in' starts from rest, 'out' comes to rest, 'in-out'
            both.
    """

    camera_to_world: Float[Tensor, "4 4"]
    fov_y: float
    seconds: float = 2.0
    easing: Easing = "none"

    def __post_init__(self) -> None:
        if self.camera_to_world.shape != (4, 4):
            raise ValueError(f"camera_to_world must have shape (4, 4), got {tuple(self.camera_to_world.shape)}")
        if not 0 < self.fov_y < math.pi:
            raise ValueError(f"fov_y must lie between 0 and pi, got {self.fov_y}")
        if not 0 < self.seconds <= LONGEST_SECONDS:
            raise ValueError(f"seconds must be above 0 and at most {LONGEST_SECONDS:g}, got {self.seconds}")
        if self.easing not in EASINGS:
            raise ValueError(f"easing must be one of {', '.join(EASINGS)}, got {self.easing!r}")


@dataclass(frozen=True)
class KeyframePath:
    """Keyframes in order; editing returns a new path.

    Attributes:
        keyframes: Any number.
        closed: Whether the path returns to the first.
    """

    keyframes: tuple[Keyframe, ...] = ()
    closed: bool = False

    def __len__(self) -> int:
        return len(self.keyframes)

    def inserted(self, index: int, keyframe: Keyframe) -> KeyframePath:
        """With a keyframe before position `index`, 0 to the number of keyframes."""
        if not 0 <= index <= len(self):
            raise ValueError(f"index must be 0 to {len(self)}, got {index}")
        return replace(self, keyframes=(*self.keyframes[:index], keyframe, *self.keyframes[index:]))

    def without(self, index: int) -> KeyframePath:
        """Without the keyframe at `index`."""
        self._check(index)
        return replace(self, keyframes=self.keyframes[:index] + self.keyframes[index + 1 :])

    def replaced(self, index: int, keyframe: Keyframe) -> KeyframePath:
        """With another keyframe at `index`."""
        self._check(index)
        return replace(self, keyframes=(*self.keyframes[:index], keyframe, *self.keyframes[index + 1 :]))

    def moved(self, index: int, to: int) -> KeyframePath:
        """With the keyframe at `index` moved to position `to`; durations and easings stay with their keyframes."""
        self._check(index)
        self._check(to)
        return self.without(index).inserted(to, self.keyframes[index])

    def _check(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise ValueError(f"index must be 0 to {len(self) - 1}, got {index}")

    @property
    def seconds(self) -> float:
        """Length of the whole motion; 0 of fewer than two keyframes."""
        if len(self) < 2:
            return 0.0
        return sum(key.seconds for key in (self.keyframes if self.closed else self.keyframes[1:]))

    @property
    def times(self) -> tuple[float, ...]:
        """When each keyframe is passed."""
        total, times = 0.0, []
        for index, key in enumerate(self.keyframes):
            total += key.seconds if index else 0.0
            times.append(total)
        return tuple(times)

    def at(self, times: Sequence[float] | Tensor, *, width: int, height: int) -> Cameras:
        """The cameras at some times, shape (times,), float32.

        Args:
            times: Seconds from the first keyframe; before it and behind the last the path stands still, a closed one
                goes round.
            width: Pixels.
            height: Pixels.

        Raises:
            ValueError: There is no keyframe.
        """
        if not self.keyframes:
            raise ValueError("a path needs at least one keyframe")
        wanted = torch.as_tensor(times, dtype=torch.float64).reshape(-1)
        knots = torch.tensor(self.times, dtype=torch.float64)
        period = self.seconds if self.closed and len(self) > 1 else None
        eased = self._eased(wanted, knots, period)
        poses = torch.stack([key.camera_to_world.double().cpu() for key in self.keyframes])
        # The tangent of half the angle moves geometrically, as focal lengths do in zooming at an even pace.
        tangents = torch.tensor([[math.tan(key.fov_y / 2)] for key in self.keyframes], dtype=torch.float64)
        focal = height / 2 / spline_values(tangents.log(), knots, eased, period=period)[:, 0].exp()
        return Cameras.make(spline_poses(poses, knots, eased, period=period), width=width, height=height, fx=focal).to(
            dtype=torch.float32
        )

    def frames(self, fps: float, *, width: int, height: int) -> Cameras:
        """The frames of a video, shape (frames,): both ends of an open path, no repeated first frame of a closed one.

        Raises:
            ValueError: There is no keyframe, or more than 200,000 frames.
        """
        if not (fps > 0 and math.isfinite(fps)):
            raise ValueError(f"fps must be above 0 and finite, got {fps}")
        count = max(round(self.seconds * fps), 1)
        if count > MOST_FRAMES:
            raise ValueError(f"a path has at most {MOST_FRAMES:,} frames, this has {count:,}")
        if count == 1:
            times = torch.zeros(1, dtype=torch.float64)
        else:
            times = torch.linspace(0, self.seconds, count + 1 if self.closed else count, dtype=torch.float64)[:count]
        return self.at(times, width=width, height=height)

    def _eased(self, times: Tensor, knots: Tensor, period: float | None) -> Tensor:
        if len(self) == 1:
            return torch.zeros_like(times)
        ends = knots
        easings = [key.easing for key in self.keyframes[1:]]
        if period is None:
            times = times.clamp(float(knots[0]), float(knots[-1]))
        else:
            times = torch.remainder(times, period)
            ends = torch.cat([knots, knots.new_tensor([period])])
            easings.append(self.keyframes[0].easing)
        segment = (torch.searchsorted(ends, times, right=True) - 1).clamp(0, len(ends) - 2)
        lengths = ends.diff()[segment]
        share = (times - ends[segment]) / lengths
        eased = share.clone()
        for index, easing in enumerate(easings):
            here = segment == index
            eased[here] = ease(share[here], easing)
        return ends[segment] + eased * lengths


def ease(share: Float[Tensor, " n"], easing: Easing) -> Float[Tensor, " n"]:
    """Bend time: [0, 1] onto itself, with zero speed at the ends that the easing names.

    Cubics with f(0) = 0 and f(1) = 1, whose speed is 0 at rest and else 1, that of a motion without easing: u^2 (2 - u)
    for 'in', its mirror image for 'out', 3 u^2 - 2 u^3 for 'in-out'.
    """
    if easing == "in":
        return share * share * (2 - share)
    if easing == "out":
        back = 1 - share
        return 1 - back * back * (2 - back)
    if easing == "in-out":
        return share * share * (3 - 2 * share)
    return share
