"""What the cameras of a set of photos say about its scene: which way is up, what they look at, how far round."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from studio.cameras.cameras import Cameras
from studio.cameras.poses import rotate

_LEAST_PARALLAX = 1e-3
"""Smallest eigenvalue of the mean of ``I - d d^T`` over the optical axes d for their meeting point to mean anything;
it is about the squared angle, in radians, by which the axes differ."""

_PARALLEL = math.radians(10)
"""Axes whose root mean square angle to their common direction is smaller are nearly parallel."""

_CLOSED_GAP = math.radians(50)
"""Photos go all round when no gap in azimuth is wider, or, for a handful of photos, when they are evenly spread."""

_WIDEST_GAP = math.radians(144)
"""Even few, evenly spread photos do not surround anything beyond this gap: three all around pass."""

_EVEN = 2.0
"""Evenly spread: no gap is wider than this many times the mean gap."""

_TRIMMED = 0.05
"""Share of the photos left out at each end of an arc: stray photos do not lengthen it."""

_NARROWEST = math.radians(10)
"""Smallest width, in azimuth, of the window through which a track looks at the photos."""


class Capture(NamedTuple):
    """What a set of photos says about its scene; float64, on the host."""

    positions: Float[Tensor, "photos 3"]
    forward: Float[Tensor, "photos 3"]
    up: Float[Tensor, " 3"]
    center: Float[Tensor, " 3"] | None
    """The point closest to all optical axes; None where it means nothing (parallel axes, or behind most cameras)."""


def capture_of(cameras: Cameras, up: Float[Tensor, " 3"]) -> Capture:
    """Summarise the cameras of photos, shape (photos,), where `up` is the vertical (see `common_up`)."""
    pose = cameras.camera_to_world.detach().cpu().double()
    positions, forward = pose[:, :3, 3], pose[:, :3, 2]
    return Capture(positions, forward, normalize(up, dim=0), meeting_point(positions, forward))


def common_up(
    right: Float[Tensor, "photos 3"], up: Float[Tensor, "photos 3"], forward: Float[Tensor, "photos 3"]
) -> Float[Tensor, " 3"]:
    """The vertical of photos: the mean of the cameras' up, made exact where the photos allow it.

    The mean leans where photos were taken from above, and from one side or in uneven numbers. Cameras that are held
    level have their right axes in the horizontal plane; where these span a plane, its normal is the vertical.
    """
    mean = up.mean(0)
    if float(mean.norm()) < 0.1:  # looking straight down in all directions, for instance
        mean = -forward.mean(0)
        if float(mean.norm()) < 0.1:
            mean = up[0]
    mean = normalize(mean, dim=0)
    spread, axes = torch.linalg.eigh(right.T @ right / len(right))
    normal = axes[:, 0] * torch.sign(axes[:, 0] @ mean)
    plane = float(spread[0]) < 0.1 * float(spread[1])
    return normal if plane and float(normal @ mean) > math.cos(math.radians(30)) else mean


def meeting_point(
    positions: Float[Tensor, "photos 3"], forward: Float[Tensor, "photos 3"]
) -> Float[Tensor, " 3"] | None:
    """Least squares: the p that minimises ``sum |(I - d d^T) (p - o)|^2`` over origins o and optical axes d."""
    across = torch.eye(3, dtype=positions.dtype) - forward[:, :, None] * forward[:, None, :]
    system = across.mean(0)
    if float(torch.linalg.eigvalsh(system)[0]) < _LEAST_PARALLAX:
        return None
    center = torch.linalg.solve(system, rotate(across, positions).mean(0))
    in_front = ((center - positions) * forward).sum(-1) > 0
    return center if float(in_front.double().mean()) > 0.5 else None


class Track(NamedTuple):
    """Where photos of one subject were taken, seen from it: azimuth, elevation and distance of each, by azimuth.

    Azimuths are radians about the capture's up, counter-clockwise seen from above, from `start`; a track that is not
    closed has them rise from one end of the arc to the other.
    """

    azimuths: Float[Tensor, " photos"]
    elevations: Float[Tensor, " photos"]
    distances: Float[Tensor, " photos"]
    start: Float[Tensor, " 3"]
    """Level unit vector of azimuth 0: towards the first photo, or the middle of the arc."""
    closed: bool
    """Whether the photos go all round."""
    arc: tuple[float, float]
    """First and last azimuth worth travelling to; a full turn where `closed`."""

    def at(self, azimuths: Float[Tensor, " n"], quantile: float) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Elevation (a quantile) and mean distance of the photos around each azimuth, smoothed along the track."""
        fine = torch.linspace(*self.arc, 241, dtype=torch.float64)
        window = max(_NARROWEST, 1.5 * (self.arc[1] - self.arc[0]) / max(len(self.azimuths), 1))
        nearness = self._kernel(fine[:, None] - self.azimuths, 2 * window)
        elevations = _weighted_quantile(self.elevations, nearness, quantile)
        # Of the photos at about that height: another round may have been taken from elsewhere.
        nearness = nearness * _bell(elevations[:, None] - self.elevations, _NARROWEST)
        distances = nearness @ self.distances / nearness.sum(-1)
        smooth = self._kernel(azimuths[:, None] - fine, 2 * window)
        smooth = smooth / smooth.sum(-1, keepdim=True)
        return smooth @ elevations, smooth @ distances

    def _kernel(self, azimuths: Tensor, width: float) -> Tensor:
        if self.closed:
            azimuths = torch.remainder(azimuths + math.pi, 2 * math.pi) - math.pi
        return _bell(azimuths, width)


def track_of(shot: Capture) -> Track | None:
    """The track of photos around what they look at; None where the axes are nearly parallel or meet nowhere."""
    if shot.center is None or _nearly_parallel(shot.forward):
        return None
    outward = shot.positions - shot.center
    distances = outward.norm(dim=-1)
    heights = outward @ shot.up
    level = outward - heights[:, None] * shot.up
    # Photos from right above have no azimuth.
    kept = level.norm(dim=-1) > 1e-3 * distances.mean()
    if int(kept.sum()) < 2:
        return None
    level, distances = normalize(level[kept], dim=-1), distances[kept]
    elevations = torch.asin((heights[kept] / distances).clamp(-1, 1))
    east = level[0]
    azimuths = _azimuths(level, east, shot.up)
    ordered = azimuths.sort().values
    gaps = torch.cat([ordered.diff(), ordered[:1] + 2 * math.pi - ordered[-1:]])
    widest = float(gaps.max())
    closed = widest <= _CLOSED_GAP or (widest <= _WIDEST_GAP and widest <= _EVEN * 2 * math.pi / len(gaps))
    if closed:
        order = azimuths.argsort()
        full = (0.0, 2 * math.pi)
        return Track(azimuths[order], elevations[order], distances[order], east, True, full)
    # The arc lies opposite the middle of the widest gap, so that no azimuth of it wraps.
    last = int(gaps.argmax())
    away = float(ordered[last]) + widest / 2 + math.pi
    start = math.cos(away) * east + math.sin(away) * torch.linalg.cross(shot.up, east)
    azimuths = _azimuths(level, start, shot.up)
    order = azimuths.argsort()
    azimuths = azimuths[order]
    arc = (float(azimuths.quantile(_TRIMMED)), float(azimuths.quantile(1 - _TRIMMED)))
    return Track(azimuths, elevations[order], distances[order], start, False, arc)


def _bell(differences: Tensor, width: float) -> Tensor:
    # A little of every photo everywhere, for the widest gaps.
    return (-0.5 * (differences / width).square()).exp() + 1e-6


def _azimuths(level: Tensor, east: Tensor, up: Tensor) -> Tensor:
    return torch.atan2(level @ torch.linalg.cross(up, east), level @ east)


def _nearly_parallel(forward: Tensor) -> bool:
    # The smallest eigenvalue is the mean squared sine of the angle to the direction that all axes share most.
    across = torch.eye(3, dtype=forward.dtype) - forward[:, :, None] * forward[:, None, :]
    spread = float(torch.linalg.eigvalsh(across.mean(0))[0].clamp(min=0))
    return spread < math.sin(_PARALLEL) ** 2


def _weighted_quantile(
    values: Float[Tensor, " photos"], weights: Float[Tensor, "n photos"], quantile: float
) -> Float[Tensor, " n"]:
    """The value below which `quantile` of the weight lies, interpolated between the middles of the weights."""
    order = values.argsort()
    values, weights = values[order], weights[:, order]
    below = (weights.cumsum(-1) - 0.5 * weights) / weights.sum(-1, keepdim=True)
    upper = (below < quantile).sum(-1).clamp(1, len(values) - 1) if len(values) > 1 else None
    if upper is None:
        return values.expand(len(weights))
    lower = upper - 1
    first = below.gather(-1, lower[:, None])[:, 0]
    second = below.gather(-1, upper[:, None])[:, 0]
    share = ((quantile - first) / (second - first).clamp(min=1e-12)).clamp(0, 1)
    return values[lower] + share * (values[upper] - values[lower])
