"""Points that several posed photos agree on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from studio.cameras import Cameras
from studio.scene import PhotoStore, PointCloud
from studio.triangulation.features import Features, find_features

_LONGEST = 800
"""Photos are looked at with so many pixels along their longer side."""
_CORNERS = 800
_MOST_PHOTOS = 100
_NEIGHBOURS = (1, 2, 4, 7, 11)
"""Which of the photos nearest in place and direction each one is compared with: near ones look alike, and of far ones
depths are told better."""
_TURNED = 45.0
"""Degrees between the axes of photos that are compared, at most."""
_CORRELATION = 0.75
"""Least normalised correlation of matching patches."""
_RATIO = 0.8
"""A match must be so much better than the second best along its line, as a ratio of distances (Lowe 2004)."""
_LINE = 2.0
"""How far from its line a match may lie, in pixels of the looked-at size."""
_AGREED = 2.0
"""Photos agree on a point that lies within so many pixels of the corner in each of them."""
_PARALLAX = 1.0
"""Degrees between the rays to a point, at least."""
_ALONE = 0.9
"""Correlation from which two photos alone tell a point, where there are hardly more."""
_FEW_PHOTOS = 4
_CELL = 1.5
"""Points that lie within so many pixels of each other, as seen from where the first was found, are one."""
_NO_DEPTH = 1e-3
"""Nearest distance of a point, as a share of the distance between the cameras that tell it."""


def triangulate(photos: PhotoStore) -> PointCloud:
    """Points of a scene from its posed photos; none where photos show nothing alike.

    Each photo's corners are compared with those of photos near it, along the lines that the poses allow (Hartley and
    Zisserman, *Multiple View Geometry*, 2004, chapters 9 and 12). A corner becomes a point if matches in two other
    photos tell the same place. Deterministic; takes a few seconds.

    Args:
        photos: With cameras of any kind that has one centre.
    """
    every = -(-len(photos) // _MOST_PHOTOS)
    indices = list(range(0, len(photos), every))
    cameras = [photos.camera(index) for index in indices]
    up = torch.stack([camera.up.float() for camera in cameras]).mean(dim=0)
    up = up / up.norm() if float(up.norm()) > 0.1 else torch.tensor([0.0, 0.0, 1.0])
    features = []
    photos.prefetch(indices)
    for index in indices:
        photo = photos[index]
        features.append(find_features(photo.downscaled(max(max(photo.size) / _LONGEST, 1.0)), up, _CORNERS))
    pairs = _pairs(cameras)
    found: list[list[tuple[Tensor, ...]]] = [[] for _ in features]
    for first, second in pairs:
        one, other = features[first], features[second]
        if len(one) == 0 or len(other) == 0:
            continue
        left, right, correlation = _matches(one, other)
        for here, a, b, at in ((first, left, right, second), (second, right, left, first)):
            found[here].append((a, torch.full_like(a, at), b, correlation))
    least = 1 if len(indices) < _FEW_PHOTOS else 2
    points, colors, sizes = [], [], []
    for index, matches in enumerate(found):
        if not matches:
            continue
        corner, other_photo, counterpart, correlation = (torch.cat(column) for column in zip(*matches, strict=True))
        if least == 1:
            sure = correlation > _ALONE
            corner, other_photo, counterpart = corner[sure], other_photo[sure], counterpart[sure]
        chosen, places, distance = _agreed(features, index, corner, other_photo, counterpart, least)
        points.append(places)
        colors.append(features[index].colors[chosen])
        sizes.append(_CELL * distance * features[index].precision[chosen])
    if not points:
        return PointCloud(torch.zeros(0, 3), torch.zeros(0, 3))
    return _merged(torch.cat(points), torch.cat(colors), torch.cat(sizes))


def _pairs(cameras: Sequence[Cameras]) -> list[tuple[int, int]]:
    """Photos to compare, each pair once."""
    if len(cameras) < 2:
        return []
    centers = torch.stack([camera.origins.double() for camera in cameras])
    forward = torch.stack([camera.forward.double() for camera in cameras])
    apart = torch.cdist(centers, centers)
    cosine = (forward @ forward.T).clamp(-1, 1)
    spacing = apart.flatten()[apart.flatten() > 0]
    if len(spacing) == 0:
        return []
    # A neighbour by place may look elsewhere: a turn by 30 degrees counts as much as the usual distance.
    cost = apart / spacing.median() + torch.rad2deg(cosine.acos()) / 30
    cost[(torch.rad2deg(cosine.acos()) > _TURNED) | (apart <= 1e-9 * spacing.max())] = torch.inf
    cost.fill_diagonal_(torch.inf)
    chosen = set()
    for index, row in enumerate(cost):
        order = row.argsort()
        order = order[row[order].isfinite()]
        for rank in _NEIGHBOURS:
            if rank <= len(order):
                other = int(order[rank - 1])
                chosen.add((min(index, other), max(index, other)))
    return sorted(chosen)


def _matches(one: Features, other: Features) -> tuple[Int[Tensor, " m"], Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Corners of two photos that are each other's best match along their lines, and their correlation."""
    baseline = other.origin - one.origin
    # The plane through both centres and a ray; a match lies in it, seen from the other side as well.
    plane = torch.linalg.cross(baseline.expand_as(one.directions), one.directions)
    plane = plane / plane.norm(dim=1, keepdim=True).clamp_min(1e-12)
    limit = _LINE * torch.maximum(one.precision[:, None], other.precision[None])
    near = (plane @ other.directions.T).abs_() < limit
    alike = one.descriptors @ other.descriptors.T
    alike.masked_fill_(~near, -1.0)
    best, right = alike.max(dim=1)
    mutual = alike.max(dim=0).indices[right] == torch.arange(len(one))
    mutual &= best > _CORRELATION
    # The second best that is not the same corner found at another size, or a neighbour of it.
    left = mutual.nonzero()[:, 0]
    right = right[left]
    rows = alike[left]
    same = torch.cdist(other.pixels[right], other.pixels) < 6.0
    second = rows.masked_fill_(same, -1.0).max(dim=1).values
    distinct = (1 - best[left]).clamp_min(1e-6) < _RATIO**2 * (1 - second)
    return left[distinct], right[distinct], best[left[distinct]]


def _agreed(
    features: Sequence[Features], index: int, corner: Tensor, other: Tensor, counterpart: Tensor, least: int
) -> tuple[Int[Tensor, " n"], Float[Tensor, "n 3"], Float[Tensor, " n"]]:
    """Corners of a photo whose matches tell one place, the places, and their distance from the photo.

    Of all matches of a corner that one counts whose distance most others agree with.
    """
    own = features[index]
    origin = own.origin
    centers = torch.stack([f.origin for f in features])
    directions = torch.cat([f.directions for f in features])
    precisions = torch.cat([f.precision for f in features])
    first = torch.tensor([0, *[len(f) for f in features]]).cumsum(0)
    flat = first[other] + counterpart
    along, towards, start = own.directions[corner], directions[flat], centers[other]
    distance, across = _nearest(origin, along, start, towards)
    angle = torch.linalg.cross(along, towards).norm(dim=1)
    baseline = (start - origin).norm(dim=1)
    good = (distance > _NO_DEPTH * baseline) & (across > _NO_DEPTH * baseline)
    good &= angle > torch.deg2rad(torch.tensor(_PARALLAX)).sin()
    corner, flat, distance, start = corner[good], flat[good], distance[good], start[good]
    along = along[good]
    # Every match tells a place; every other match of the corner says whether it saw the place there.
    order = corner.argsort(stable=True)
    corner, flat, distance, start, along = (v[order] for v in (corner, flat, distance, start, along))
    places = origin + distance[:, None] * along
    counts = torch.bincount(corner, minlength=len(own))
    begins = counts.cumsum(0) - counts
    votes = torch.zeros(len(corner), dtype=torch.long)
    most = int(counts.max()) if len(corner) else 0
    towards, precision = directions[flat], precisions[flat]
    agreeing = torch.zeros(len(corner), max(most, 1), dtype=torch.bool)
    for slot in range(most):
        judge = begins[corner] + slot
        present = slot < counts[corner]
        judge = judge.clamp_max(max(len(corner) - 1, 0))
        seen = places - start[judge]
        error = torch.linalg.cross(seen, towards[judge]).norm(dim=1) / seen.norm(dim=1).clamp_min(1e-12)
        agreeing[:, slot] = present & (error < _AGREED * precision[judge]) & ((seen * towards[judge]).sum(dim=1) > 0)
    votes = agreeing.sum(dim=1)
    if not len(corner):
        return corner, places, distance
    # The proposal with most votes of each corner: keys in ascending order end with it.
    ranked = (corner * (most + 1) + votes).argsort(stable=True)
    last = torch.ones(len(ranked), dtype=torch.bool)
    last[:-1] = corner[ranked][1:] != corner[ranked][:-1]
    winner = ranked[last]
    winner = winner[votes[winner] >= least]
    slots = begins[corner[winner]][:, None] + torch.arange(agreeing.shape[1])
    slots = slots.clamp_max(len(corner) - 1)
    used = agreeing[winner].float()
    refined = _meeting_point(origin, along[winner], start[slots], towards[slots], used)
    return corner[winner], refined, (refined - origin).norm(dim=1)


def _nearest(origin: Tensor, along: Tensor, start: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    """Distances along two rays of unit direction to where they come nearest to each other."""
    between = start - origin
    cosine = (along * towards).sum(dim=1)
    det = (1 - cosine**2).clamp_min(1e-12)
    a, b = (between * along).sum(dim=1), (between * towards).sum(dim=1)
    return (a - cosine * b) / det, (cosine * a - b) / det


def _meeting_point(
    origin: Float[Tensor, " 3"], along: Tensor, start: Tensor, towards: Tensor, used: Float[Tensor, "n s"]
) -> Float[Tensor, "n 3"]:
    """The point with the least sum of squared distances to a ray and to those `used` of others."""
    eye = torch.eye(3, dtype=torch.float64)
    along, towards = along.double(), towards.double()
    own = eye - along[:, :, None] * along[:, None, :]
    theirs = (eye - towards[..., :, None] * towards[..., None, :]) * used[..., None, None].double()
    system = own + theirs.sum(dim=1)
    right = own @ origin.double() + (theirs @ start.double()[..., None]).sum(dim=1)[..., 0]
    return torch.linalg.solve(system, right).float()


def _merged(points: Float[Tensor, "n 3"], colors: Tensor, sizes: Float[Tensor, " n"]) -> PointCloud:
    """One point for those that lie in the same small cell; cells grow with the distance from the cameras."""
    finite = points.isfinite().all(dim=1) & (sizes > 0)
    points, colors, sizes = points[finite], colors[finite], sizes[finite]
    if not len(points):
        return PointCloud(points, colors)
    level = sizes.log2().round()
    cell = (points / (2.0**level)[:, None]).floor()
    keys = torch.cat([cell, level[:, None]], dim=1).double()
    _, group = torch.unique(keys, dim=0, return_inverse=True)
    count = torch.bincount(group).float()[:, None]
    mean = [torch.zeros(len(count), 3).index_add_(0, group, values) / count for values in (points, colors)]
    return PointCloud(mean[0], mean[1])
