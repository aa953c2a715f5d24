"""Camera paths for videos: orbits, spirals, and smooth motion through keyframes.

All paths are batches of shape (n,) in the frame of reference of their input. Closed paths do not repeat their first
frame, so they loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from studio.cameras.cameras import Cameras
from studio.cameras.capture import Capture, Track, capture_of, track_of
from studio.cameras.capture import common_up as _common_up
from studio.cameras.poses import look_at, rotate, so3_exp, so3_log
from studio.cameras.splines import spline_poses, spline_values

_HEIGHTS = (None, 0.5, 0.25, 0.75)
"""How high an orbit is tried: level, at the photos' mean, then along quantiles of the photos nearby."""

_REACH = 0.2
"""Largest radius of a spiral about one of many photos around a subject, in mean distances."""

_NEAR = 0.3
"""Farthest way from a path to the nearest photo, in mean distances, that is close enough."""

Vector = Sequence[float] | Tensor


def orbit(
    lens: Cameras,
    n: int,
    *,
    center: Vector,
    radius: float,
    elevation: float = 0.0,
    up: Vector = (0.0, 0.0, 1.0),
    start: Vector | None = None,
    sweep: float = 2 * math.pi,
) -> Cameras:
    """A circle around a point, looking at it, counter-clockwise as seen from above.

    Args:
        lens: A single camera; its intrinsics are used (see `Cameras.from_fov`), its pose is not.
        n: Number of frames, at least 1.
        center: What the cameras look at.
        radius: Distance to the center, above zero.
        elevation: Angle in radians above the horizontal plane through the center, between -pi/2 and pi/2.
        up: The axis of the circle.
        start: A direction from the center; the path begins on its side. Default: some direction.
        sweep: Angle in radians to travel. A full turn loops; less includes both ends.
    """
    _check_count(n)
    if not (radius > 0 and math.isfinite(radius)):
        raise ValueError(f"orbit: radius must be positive and finite, got {radius}")
    if not -math.pi / 2 <= elevation <= math.pi / 2:
        raise ValueError(f"orbit: elevation must lie between -pi/2 and pi/2 radians, got {elevation}")
    pivot, axis = _vector(center, "center"), _vector(up, "up")
    if not bool(axis.norm() > 0):
        raise ValueError("orbit: up must not be zero")
    axis = normalize(axis, dim=0)
    spare = torch.zeros_like(axis)
    spare[axis.abs().argmin()] = 1
    side = spare if start is None else _vector(start, "start")
    side = side - (side @ axis) * axis
    if not bool(side.norm() > 1e-6):  # a start on the axis says nothing about the side
        side = spare - (spare @ axis) * axis
    side = normalize(side, dim=0)

    angles = torch.linspace(0, sweep, n, dtype=torch.float64)
    if abs(abs(sweep) - 2 * math.pi) < 1e-9:
        angles = angles * ((n - 1) / n)
    around = so3_exp(angles[:, None] * axis)
    outward = math.cos(elevation) * rotate(around, side) + math.sin(elevation) * axis
    # At the poles the view is along the axis; the side then tells which way is up in the picture.
    upright = axis.expand_as(outward)
    if abs(elevation) > math.pi / 2 - 1e-6:
        upright = -math.copysign(1.0, elevation) * rotate(around, side)
    return _place(lens, look_at(pivot + radius * outward, pivot, upright))


def surrounds(cameras: Cameras) -> bool:
    """Whether photos go all round what they show, so that `orbit_of` gives a full turn: see there."""
    track = track_of(_capture(cameras))
    return track is not None and track.closed


def orbit_of(
    cameras: Cameras,
    n: int = 120,
    *,
    lens: Cameras | None = None,
    radius: float = 1.0,
    elevation: float | None = None,
    up: Vector | None = None,
) -> Cameras:
    """A path around what the photos look at that stays where they were taken; it loops.

    It looks at the point closest to all optical axes (least squares), from the photos' mean elevation and distance, or,
    where that leads far from all photos, from those of the photos nearby. Where the photos go all round (no gap in
    azimuth above 50 degrees, or evenly spread with none above 144), it is a full turn that begins at the first photo;
    where they cover an arc, it swings along the arc and back from its middle; where their axes are nearly parallel or
    meet nowhere, it is `spiral_of`.

    Args:
        cameras: The cameras of the photos, shape (photos,), at least one.
        n: Number of frames.
        lens: Intrinsics to use; default: the first photo's without distortion.
        radius: Times the photos' distance (the size of the spiral, if it is one).
        elevation: Radians above the horizontal plane, between -pi/2 and pi/2; default: the photos'.
        up: The vertical, where it is known (+z of a normalised scene); default: what the photos say.
    """
    _check_count(n)
    shot = _capture(cameras, up)
    lens = _plain_lens(cameras) if lens is None else lens
    track = track_of(shot)
    if track is None or shot.center is None:
        return spiral_of(cameras, n, lens=lens, size=radius, up=up)
    if elevation is not None and not -math.pi / 2 <= elevation <= math.pi / 2:
        raise ValueError(f"orbit_of: elevation must lie between -pi/2 and pi/2 radians, got {elevation}")
    low, high = track.arc
    turn = torch.arange(n, dtype=torch.float64) / n * 2 * math.pi
    azimuths = turn if track.closed else (low + high) / 2 + (high - low) / 2 * turn.sin()
    offsets = [_on_track(track, shot.up, azimuths, quantile, elevation) for quantile in _HEIGHTS]
    eyes = [shot.center + radius * offset for offset in offsets]
    gaps = [float(torch.cdist(places, shot.positions).min(dim=1).values.max()) for places in eyes]
    near = [gap <= _NEAR * float(track.distances.mean()) for gap in gaps]
    best = near.index(True) if any(near) else gaps.index(min(gaps))
    upright = shot.up.expand(n, 3)
    if elevation is not None and abs(elevation) > math.pi / 2 - 1e-6:
        upright = -math.copysign(1.0, elevation) * _level(track, shot.up, azimuths)
    return _place(lens, look_at(eyes[best], shot.center, upright))


def _level(track: Track, up: Tensor, azimuths: Tensor) -> Tensor:
    """Horizontal unit vectors from the center."""
    north = torch.linalg.cross(up, track.start)
    return azimuths.cos()[:, None] * track.start + azimuths.sin()[:, None] * north


def _on_track(track: Track, up: Tensor, azimuths: Tensor, quantile: float | None, elevation: float | None) -> Tensor:
    """Offsets from the center at the photos' elevation (or the given one) and distance: see `_HEIGHTS`."""
    if quantile is None:
        elevations = track.elevations.mean().expand(len(azimuths))
        distances = track.distances.mean().expand(len(azimuths))
    else:
        elevations, distances = track.at(azimuths, quantile)
    if elevation is not None:
        elevations = torch.full_like(elevations, elevation)
    level = elevations.cos()[:, None] * _level(track, up, azimuths)
    return distances[:, None] * (level + elevations.sin()[:, None] * up)


def spiral_of(
    cameras: Cameras,
    n: int = 120,
    *,
    focus_depth: float | None = None,
    turns: int = 2,
    size: float = 1.0,
    lens: Cameras | None = None,
    up: Vector | None = None,
) -> Cameras:
    """The spiral of LLFF (Mildenhall et al. 2019) about the mean pose, looking at one point in front of it.

    Args:
        cameras: The cameras of the photos, shape (photos,), at least one.
        n: Number of frames; the path loops.
        focus_depth: Depth in front of the mean pose, in world units, that stays in the middle of the picture. Default:
            the point where the optical axes come closest to each other, or ten times the spread of the cameras if
            they are parallel.
        turns: Full turns; an even number loops smoothly.
        size: Extent, 1 for that of the photos (the 90th percentile of their offsets on each axis).
        lens: Intrinsics to use; default: the first photo's without distortion.
        up: The vertical, where it is known; default: what the photos say.
    """
    _check_count(n)
    if focus_depth is not None and not (focus_depth > 0 and math.isfinite(focus_depth)):
        raise ValueError(f"spiral_of: focus_depth must be positive and finite, got {focus_depth}")
    shot = _capture(cameras, up)
    lens = _plain_lens(cameras) if lens is None else lens
    middle = shot.positions.mean(0)
    forward = shot.forward.mean(0)
    forward = normalize(forward if float(forward.norm()) > 1e-3 else shot.forward[0], dim=0)
    target, reach = None, math.inf
    if focus_depth is None and shot.center is not None:
        target = shot.center
        distance = float((shot.positions - target).norm(dim=-1).mean())
        # Photos from many sides have their mean beside the subject or in it: stay near one of them.
        if float((middle - target).norm()) < 0.8 * distance:
            middle = shot.positions[(shot.positions - middle).norm(dim=-1).argmin()]
            reach = _REACH * distance
        forward = normalize(target - middle, dim=0)
    pose = look_at(middle, middle + forward, shot.up)
    offsets = (shot.positions - middle) @ pose[:3, :3]
    radii = size * torch.quantile(offsets.abs(), 0.9, dim=0).clamp(max=reach)
    if target is None:
        spread = float(radii.norm())
        target = middle + (focus_depth or (10 * spread if spread > 0 else 1.0)) * forward
    angle = torch.linspace(0, 2 * math.pi * turns, n + 1, dtype=torch.float64)[:-1]
    local = torch.stack([angle.cos(), angle.sin(), (angle / 2).sin()], dim=-1) * radii
    eyes = middle + rotate(pose[:3, :3], local)
    return _place(lens, look_at(eyes, target, shot.up))


def interpolate(
    keyframes: Cameras,
    n: int,
    *,
    closed: bool = False,
    spacing: Literal["centripetal", "uniform"] = "centripetal",
) -> Cameras:
    """Smooth motion through keyframes: a C1 spline of poses and intrinsics (see `studio.cameras.splines`).

    When there are at least as many frames as keyframes, each keyframe is one of the frames: the knots are rounded to
    whole frames before the spline is laid, so the motion stays smooth. Focal lengths move geometrically. Keyframes of
    other sizes than the first are brought to its size with `Cameras.for_size`.

    Args:
        keyframes: Shape (keys,), at least one.
        n: Number of frames.
        closed: Return to the first keyframe; the path then loops without repeating it.
        spacing: Time between keyframes: proportional to the square root of the distance and turn between them
            (centripetal: far keyframes are passed faster, without overshoot at near ones), or the same for all.
    """
    _check_count(n)
    if keyframes.ndim != 1 or len(keyframes) == 0:
        raise ValueError(f"interpolate: keyframes must have shape (keys,), at least one, got {tuple(keyframes.shape)}")
    width, height = int(keyframes.width[0]), int(keyframes.height[0])
    if bool((keyframes.width != width).any() | (keyframes.height != height).any()):
        keyframes = keyframes.for_size(width, height)
    keys = keyframes.to(device="cpu", dtype=torch.float64)
    closed = closed and len(keys) > 1
    intervals = n if closed else n - 1
    weights = _step_weights(keys.camera_to_world, closed=closed, spacing=spacing)
    knots = _frame_knots(weights, intervals)
    period = float(knots[-1]) if closed else None
    knots = knots[: len(keys)]
    # A single frame of several keyframes is the first.
    times = torch.arange(n, dtype=torch.float64)

    def through(values: Tensor) -> Tensor:
        return spline_values(values, knots, times, period=period).to(keyframes.camera_to_world)

    focal = through(torch.stack([keys.fx, keys.fy], dim=-1).log()).exp()
    principal = through(torch.stack([keys.cx, keys.cy], dim=-1))
    return Cameras(
        camera_to_world=spline_poses(keys.camera_to_world, knots, times, period=period).to(keyframes.camera_to_world),
        fx=focal[:, 0],
        fy=focal[:, 1],
        cx=principal[:, 0],
        cy=principal[:, 1],
        width=keyframes.width[:1].expand(n),
        height=keyframes.height[:1].expand(n),
        model=keyframes.model,
        distortion=None if keys.distortion is None else through(keys.distortion),
    )


def _capture(cameras: Cameras, up: Vector | None = None) -> Capture:
    if cameras.ndim != 1 or len(cameras) == 0:
        raise ValueError(f"cameras must have shape (photos,), at least one, got {tuple(cameras.shape)}")
    if up is not None:
        return capture_of(cameras, _vector(up, "up"))
    pose = cameras.camera_to_world.detach().cpu().double()
    return capture_of(cameras, _common_up(pose[:, :3, 0], -pose[:, :3, 1], pose[:, :3, 2]))


def _plain_lens(cameras: Cameras) -> Cameras:
    """The first camera's intrinsics, without distortion."""
    first = cameras[0]
    return replace(first, model="pinhole", distortion=None) if first.model in ("opencv", "fisheye") else first


def _place(lens: Cameras, poses: Tensor) -> Cameras:
    if lens.ndim != 0:
        raise ValueError(f"lens must be a single camera, got a batch of shape {tuple(lens.shape)}")
    return lens.with_poses(poses.to(lens.camera_to_world))


def _vector(value: Vector, name: str) -> Tensor:
    vector = torch.as_tensor(value).detach().cpu().double()
    if vector.shape != (3,) or not bool(vector.isfinite().all()):
        raise ValueError(f"{name} must be three finite numbers, got {value}")
    return vector


def _step_weights(poses: Tensor, *, closed: bool, spacing: str) -> Tensor:
    """Relative time from each keyframe to the next."""
    following = poses.roll(-1, 0) if closed else poses[1:]
    poses = poses[: len(following)]
    if spacing == "uniform":
        return torch.ones(len(following), dtype=torch.float64)
    if spacing != "centripetal":
        raise ValueError(f"interpolate: spacing must be 'centripetal' or 'uniform', got {spacing!r}")
    moved = (following[:, :3, 3] - poses[:, :3, 3]).norm(dim=-1)
    turned = so3_log(poses[:, :3, :3].transpose(-1, -2) @ following[:, :3, :3]).norm(dim=-1)
    # Each measured in units of its own mean, so neither the scene's scale nor a pure turn matters.
    relative = [d / d.mean() for d in (moved, turned) if len(d) and float(d.mean()) > 1e-9]
    if not relative:
        return torch.ones(len(following), dtype=torch.float64)
    weights = torch.stack(relative).square().sum(0).sqrt().sqrt()
    return weights.clamp(min=1e-3 * float(weights.max()))


def _frame_knots(weights: Tensor, intervals: int) -> Tensor:
    """Frame number of every keyframe (and of the return to the first), from 0 to ``intervals``.

    Whole numbers where there are enough frames for every keyframe to have one.
    """
    segments = len(weights)
    if segments == 0:
        return torch.zeros(1, dtype=torch.float64)
    knots = torch.cat([weights.new_zeros(1), weights.cumsum(0)]) * (max(intervals, 1) / float(weights.sum()))
    if intervals < segments:
        return knots
    knots = knots.round()
    least = torch.arange(segments + 1, dtype=knots.dtype)
    # At least one frame between neighbours: push apart from the front, then pull back from the end.
    knots = (knots - least).cummax(0).values + least
    return torch.minimum(knots, intervals - least.flip(0))


def _check_count(n: int) -> None:
    if n < 1:
        raise ValueError(f"a path needs at least one frame, got n={n}")
