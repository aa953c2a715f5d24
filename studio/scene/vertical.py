"""Which way is up: from how photos were held, made exact by the walls and the ground among the scene's points."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

_MOST_POINTS = 4096
"""Points looked at; an even choice of more says the same."""

_HYPOTHESES = 3000
_PLANES = 8
_THICKNESS = 0.01
"""Half the thickness of a plane, in mean distances of the cameras to the middle of the points."""

_LEAST_SHARE = 0.05
"""Share of the points that a plane must hold."""

_LEAST_SHARPNESS = 0.45
"""Share of the points within four thicknesses of a plane that lie within one of it; 1/4 where there is no plane."""

_LEANING = math.radians(30)
"""How far the photos' own vertical may be off: planes are taken for ground or walls by it."""

_AGREED = math.radians(2.5)
"""Planes within this angle of level or upright agree with a vertical."""


class Plane(NamedTuple):
    """A plane among points: unit normal, and the share of all points on it."""

    normal: Float[Tensor, " 3"]
    share: float


def vertical_by_planes(
    points: Float[Tensor, "n 3"], prior: Float[Tensor, " 3"], size: float
) -> Float[Tensor, " 3"] | None:
    """The vertical that ground and walls among the points tell, near that of the photos; None where they tell nothing.

    Planes are found one after the other by RANSAC (Fischler and Bolles 1981). The vertical is the direction near
    `prior` with which most of their points agree, as ground (normal along it) or as walls (normal across it), then the
    least-squares solution over those planes. A wall alone tells one angle of two; the prior keeps the other.

    Args:
        points: Points of the scene.
        prior: Unit vector, the vertical by the photos, right to about 30 degrees.
        size: Mean distance of the cameras to what they show, in units of the points.
    """
    prior = normalize(prior.double(), dim=0)
    planes = [plane for plane in find_planes(points, size * _THICKNESS) if _kind(plane.normal, prior) is not None]
    if not planes:
        return None
    candidates = [prior]
    for plane in planes:
        n = plane.normal
        if _kind(n, prior) == "ground":
            candidates.append(n * torch.sign(n @ prior))
        else:
            candidates.append(normalize(prior - (prior @ n) * n, dim=0))
            for other in planes:
                across = torch.linalg.cross(n, other.normal)
                if float(across.norm()) > math.sin(_LEANING) and abs(float(across @ prior)) > 0:
                    candidates.append(normalize(across * torch.sign(across @ prior), dim=0))
    near = [up for up in candidates if float(up @ prior) > math.cos(_LEANING)]
    best = max(near, key=lambda up: _agreement(up, planes, prior))
    return _refined(best, planes, prior)


def find_planes(points: Float[Tensor, "n 3"], thickness: float) -> list[Plane]:
    """The planes that hold the most points, most first; `thickness` is the largest distance of a point that counts."""
    points = points[points.isfinite().all(-1)].double()
    if len(points) > _MOST_POINTS:
        points = points[torch.linspace(0, len(points) - 1, _MOST_POINTS).long()]
    total = len(points)
    generator = torch.Generator().manual_seed(0)
    planes: list[Plane] = []
    while len(planes) < _PLANES and len(points) >= max(30, _LEAST_SHARE * total):
        found = _largest_plane(points, thickness, generator)
        if found is None:
            break
        normal, offset = found
        distance = (points @ normal - offset).abs()
        on = distance < thickness
        if int(on.sum()) < max(30, _LEAST_SHARE * total):
            break
        if int(on.sum()) >= _LEAST_SHARPNESS * int((distance < 4 * thickness).sum()):
            planes.append(Plane(normal, float(on.sum()) / total))
        points = points[~on]
    return planes


def _largest_plane(points: Tensor, thickness: float, generator: torch.Generator) -> tuple[Tensor, float] | None:
    triples = points[torch.randint(len(points), (_HYPOTHESES, 3), generator=generator)]
    normals = torch.linalg.cross(triples[:, 1] - triples[:, 0], triples[:, 2] - triples[:, 0])
    lengths = normals.norm(dim=-1)
    proper = lengths > 1e-12
    if not bool(proper.any()):
        return None
    normals = normals[proper] / lengths[proper, None]
    offsets = (normals * triples[proper, 0]).sum(-1)
    counts = torch.cat(
        [
            ((points @ n.T - o).abs() < thickness).sum(0)
            for n, o in zip(normals.split(250), offsets.split(250), strict=True)
        ]
    )
    best = int(counts.argmax())
    normal, offset = normals[best], float(offsets[best])
    for _ in range(3):
        on = points[(points @ normal - offset).abs() < thickness]
        if len(on) < 3:
            return None
        middle = on.mean(0)
        # The normal of the least-squares plane: the direction in which its points differ least.
        normal = torch.linalg.eigh((on - middle).T @ (on - middle)).eigenvectors[:, 0]
        offset = float(middle @ normal)
    return normal, offset


def _kind(normal: Tensor, up: Tensor) -> str | None:
    """Ground or wall, if it is either."""
    along = abs(float(normal @ up))
    if along > math.cos(_LEANING):
        return "ground"
    return "wall" if along < math.sin(_LEANING) else None


def _deviation(normal: Tensor, up: Tensor) -> float:
    """Angle in radians by which a plane is neither level nor upright."""
    angle = math.acos(min(abs(float(normal @ up)), 1.0))
    return min(angle, math.pi / 2 - angle)


def _agreement(up: Tensor, planes: list[Plane], prior: Tensor) -> float:
    held = sum(plane.share * math.exp(-((_deviation(plane.normal, up) / _AGREED) ** 2)) for plane in planes)
    turned = math.acos(max(-1.0, min(1.0, float(up @ prior))))
    return held - 0.05 * (turned / _LEANING) ** 2


def _refined(up: Tensor, planes: list[Plane], prior: Tensor) -> Tensor | None:
    """Least squares over the planes that agree: ``sum w |n x u|^2`` of ground and ``sum w (n.u)^2`` of walls."""
    agreed = [plane for plane in planes if _deviation(plane.normal, up) < 2 * _AGREED]
    if not agreed:
        return None
    identity = torch.eye(3, dtype=torch.float64)
    # A little of the prior settles what walls of one direction leave open.
    system = 1e-3 * (identity - prior[:, None] * prior)
    for plane in agreed:
        outer = plane.normal[:, None] * plane.normal
        system = system + plane.share * (identity - outer if _kind(plane.normal, up) == "ground" else outer)
    solved = torch.linalg.eigh(system).eigenvectors[:, 0]
    return solved * torch.sign(solved @ prior)
