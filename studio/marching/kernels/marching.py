"""Marching through an occupancy grid: which intervals of each ray's lattice lie in occupied cells.

A ray goes from cell to cell. All intervals whose middles lie in one cell share its answer; where a block of cells is
full it counts as one cell, and from an empty block the ray leaves the whole cube of empty blocks around it at once (its
clearance). All geometry is in float64, so no interval gets the answer of a neighbouring cell.

The first pass counts and keeps the runs of intervals found; the second writes them out, where the counts say.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache
from studio.kernels.vec import element, put

_RAYS_AT_ONCE = 32
_RUNS = 12
"""Runs kept a ray between the passes; a ray with more is marched again."""
_POWERS = 2048
"""Powers of a step's growth that are kept, 16 KiB; at a cone angle of 0.003 they reach 460 times the distance at which
steps begin to grow."""
_SHORT = 0.1
"""Most relative way for which three terms of the logarithm's series are taken."""
_COUNT = np.int64(-1)
_UNFOLLOWED = np.int64(-1)


@cache.inline
def _slab(origin: float, direction: float, size: float, begin: float, end: float) -> Any:
    """The part of begin to end in which origin + t direction lies within ±size."""
    if direction == 0.0:
        return begin, end if abs(origin) <= size else -math.inf
    a, b = (-size - origin) / direction, (size - origin) / direction
    return max(begin, min(a, b)), min(end, max(a, b))


@cache.inline
def _exit(x: float, low: float, high: float, inverse: float, best: float) -> float:
    """The lesser of `best` and the way (over the scale of x) after which x leaves low to high."""
    if inverse == 0.0:
        return best
    return min(best, ((high if inverse > 0.0 else low) - x) * inverse)


@cache.inline
def _grown(n: int, steps: Any) -> float:
    """(1 + cone angle)^n."""
    powers = steps[3]
    return element(powers, n) if n < powers.shape[0] else math.exp(n * steps[2])


@cache.inline
def _edge(k: int, first: float, even: float, turn: float, steps: Any) -> float:
    """Edge k of the lattice (see `studio.marching.lattice`)."""
    if k <= even:
        return first + k * steps[0]
    return turn * _grown(k - np.int64(even), steps)


@cache.inline
def _beyond(leave: float, n: int, turn: float, steps: Any) -> int:
    """The first of the growing intervals from n on whose middle does not lie before `leave`."""
    middle = turn * (1.0 + 0.5 * steps[1])
    x = leave / (middle * _grown(n, steps)) - 1.0
    if x <= 0.0:
        return n
    # Most ways are short. Three terms are x^4 / 4 too many at most, less than a step.
    way = x * (1.0 - x * (0.5 - x * (1.0 / 3.0))) if x < steps[4] else math.log1p(x)
    n += np.int64(way / steps[2])
    while middle * _grown(n, steps) < leave:
        n += 1
    return n


@cache.device
def _write_run(
    k: int,
    stop: int,
    line: Any,
    steps: Any,
    at: int,
    starts: np.ndarray,
    ends: np.ndarray,
) -> None:
    """Write the intervals k to stop (exclusive) from `at` on."""
    begin, end, first, even, turn = line
    step, cone_angle = steps[0], steps[1]
    edge = _edge(k, first, even, turn, steps)
    for j in range(stop - k):
        following = first + (k + j + 1) * step if k + j < even else edge * (1.0 + cone_angle)
        put(starts, at + j, np.float32(max(edge, begin)))
        put(ends, at + j, np.float32(min(following, end)))
        edge = following


@cache.inline
def _line(i: int, ray: Any, near: np.ndarray, far: np.ndarray, jitter: np.ndarray, size: float, steps: Any) -> Any:
    """The stretch of ray i within ±size, and its lattice: (begin, end, first, even, turn); end = NaN is a bad ray."""
    ox, oy, oz, dx, dy, dz = ray
    step, cone_angle = steps[0], steps[1]
    begin = np.float64(near[i]) if near.shape[0] > 0 else 0.0
    end = np.float64(far[i]) if far.shape[0] > 0 else np.float64(math.inf)
    good = math.isfinite(ox + oy + oz + dx + dy + dz + begin) and (dx != 0.0 or dy != 0.0 or dz != 0.0)
    if far.shape[0] > 0:
        good = good and begin <= end and end < math.inf
    begin = max(begin, 0.0)
    begin, end = _slab(ox, dx, size, begin, end)
    begin, end = _slab(oy, dy, size, begin, end)
    begin, end = _slab(oz, dz, size, begin, end)
    if not good:
        end = np.float64(math.nan)
    first = begin
    if jitter.shape[0] > 0:
        first -= jitter[i] * max(step, begin * (cone_angle / (1.0 + cone_angle)))
    even = np.float64(math.inf)
    if cone_angle > 0.0:
        even = max(math.ceil((step / cone_angle - first) / step), 0.0)
    turn = first + even * step
    return begin, end, first, even, turn


@cache.inline
def _ray(i: int, origins: np.ndarray, directions: np.ndarray, frame: np.ndarray) -> Any:
    """Origin and direction of ray i where level 0 is the cube ±1."""
    return (
        (np.float64(origins[i, 0]) - frame[0]) / frame[3],
        (np.float64(origins[i, 1]) - frame[1]) / frame[4],
        (np.float64(origins[i, 2]) - frame[2]) / frame[5],
        directions[i, 0] / frame[3],
        directions[i, 1] / frame[4],
        directions[i, 2] / frame[5],
    )


@cache.device
def _march_ray(
    ray: Any,
    line: Any,
    steps: Any,
    words: np.ndarray,
    clearance: np.ndarray,
    levels: int,
    blocks: int,
    cap: int,
    runs: np.ndarray,
    runs_at: int,
    at: int,
    starts: np.ndarray,
    ends: np.ndarray,
) -> Any:
    """March one ray; returns (number of intervals kept, number of runs).

    With `at` negative the runs are left in `runs` from `runs_at` on, as many as fit; else the intervals are written
    to `starts` and `ends` from `at` on.
    """
    ox, oy, oz, dx, dy, dz = ray
    begin, end, first, even, turn = line
    step, cone_angle = steps[0], steps[1]
    resolution = 4 * blocks
    half = 0.5 * resolution
    cell = 1.0 / half
    rx = 1.0 / dx if dx != 0.0 else 0.0
    ry = 1.0 / dy if dy != 0.0 else 0.0
    rz = 1.0 / dz if dz != 0.0 else 0.0
    per_step = 1.0 / step
    count = 0
    number = 0
    open_from = open_to = -1
    k = 0
    edge = first
    while edge < end and count < cap:
        following = first + (k + 1) * step if k < even else edge * (1.0 + cone_angle)
        t = 0.5 * (max(edge, begin) + min(following, end))
        x, y, z = ox + dx * t, oy + dy * t, oz + dz * t
        # Scales are powers of two, so their inverses are exact.
        level, scale, inverse = 0, 1.0, 1.0
        if levels > 1:
            radius = max(abs(x), abs(y), abs(z))
            while radius > scale and level < levels - 1:
                level += 1
                scale *= 2.0
                inverse *= 0.5
        unit = half * inverse
        x, y, z = x * unit + half, y * unit + half, z * unit + half
        cx = min(max(int(x), 0), resolution - 1)
        cy = min(max(int(y), 0), resolution - 1)
        cz = min(max(int(z), 0), resolution - 1)
        bx, by, bz = cx >> 2, cy >> 2, cz >> 2
        block = ((level * blocks + bx) * blocks + by) * blocks + bz
        word = element(words, block)
        full = (word >> (((cx & 3) << 4) + ((cy & 3) << 2) + (cz & 3))) & 1
        reach, side = 0, 1
        if word == 0 or word == -1:
            # Blocks that another level answers for have no clearance and are left cell by cell.
            clear = np.int64(element(clearance, block))
            if word == -1 or clear > 0:
                reach, side = 4 * max(clear - 1, 0), 4
                cx, cy, cz = cx & ~3, cy & ~3, cz & ~3
        best = np.float64(math.inf)
        # Beyond the level's own box another level answers, however clear this one is.
        best = _exit(x, max(cx - reach, 0), min(cx + side + reach, resolution), rx, best)
        best = _exit(y, max(cy - reach, 0), min(cy + side + reach, resolution), ry, best)
        best = _exit(z, max(cz - reach, 0), min(cz + side + reach, resolution), rz, best)
        leave = min(t + best * scale * cell, end)
        # The first interval whose middle lies beyond the way out, or k itself if rounding finds none further on.
        reached = (leave - first) * per_step - 0.5
        if reached > even - 1.0:
            start = np.int64(even)
            stop = start + _beyond(leave, max(k - start, 0), turn, steps)
        else:
            stop = math.ceil(reached)
        stop = max(stop, k + 1)
        if full:
            stop = min(stop, k + cap - count)
            count += stop - k
            if k == open_to:
                open_to = stop
            else:
                if open_to > open_from:
                    if at >= 0:
                        _write_run(open_from, open_to, line, steps, at, starts, ends)
                        at += open_to - open_from
                    elif number < _RUNS:
                        put(runs, runs_at + 2 * number, np.int32(open_from))
                        put(runs, runs_at + 2 * number + 1, np.int32(open_to))
                    number += 1
                open_from, open_to = k, stop
        if stop == k + 1:
            edge = following
        else:
            edge = _edge(stop, first, even, turn, steps)
        k = stop
    if open_to > open_from:
        if at >= 0:
            _write_run(open_from, open_to, line, steps, at, starts, ends)
        elif number < _RUNS:
            put(runs, runs_at + 2 * number, np.int32(open_from))
            put(runs, runs_at + 2 * number + 1, np.int32(open_to))
        number += 1
    return count, number


@cache.device
def _march_share(
    share: int,
    shares: int,
    origins: np.ndarray,
    directions: np.ndarray,
    near: np.ndarray,
    far: np.ndarray,
    jitter: np.ndarray,
    frame: np.ndarray,
    words: np.ndarray,
    clearance: np.ndarray,
    levels: int,
    steps: Any,
    cap: int,
    runs: np.ndarray,
    run_counts: np.ndarray,
    slots: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    write: bool,
) -> None:
    rays = origins.shape[0]
    blocks = round((words.shape[0] // levels) ** (1.0 / 3.0))
    size = 2.0 ** (levels - 1)
    # Neighbouring rays cost alike (sky, object), so the shares take small groups in turn.
    for group in range(share * _RAYS_AT_ONCE, rays, shares * _RAYS_AT_ONCE):
        for i in range(group, min(group + _RAYS_AT_ONCE, rays)):
            if write and slots[i] == slots[i + 1]:
                continue
            ray = _ray(i, origins, directions, frame)
            line = _line(i, ray, near, far, jitter, size, steps)
            if write and run_counts[i] <= _RUNS:
                at = slots[i]
                for r in range(2 * _RUNS * i, 2 * (_RUNS * i + run_counts[i]), 2):
                    _write_run(runs[r], runs[r + 1], line, steps, at, starts, ends)
                    at += runs[r + 1] - runs[r]
                continue
            if not write and not line[0] < line[1]:
                slots[i + 1] = _UNFOLLOWED if math.isnan(line[1]) else 0
                continue
            at = slots[i] if write else _COUNT
            most = slots[i + 1] - slots[i] if write else cap
            count, number = _march_ray(
                ray, line, steps, words, clearance, levels, blocks, most, runs, 2 * _RUNS * i, at, starts, ends
            )
            if not write:
                slots[i + 1] = count
                run_counts[i] = number


@cache.kernel(
    "void(i8, f4[:,::1], f4[:,::1], f4[::1], f4[::1], f4[::1], f8[::1], i8[::1], u1[::1], i8, f8, f8, i8, "
    "f8[::1], i4[::1], i4[::1], i8[::1], f4[::1], f4[::1], b1)",
    parallel=True,
)
def _march(
    shares: int,
    origins: np.ndarray,
    directions: np.ndarray,
    near: np.ndarray,
    far: np.ndarray,
    jitter: np.ndarray,
    frame: np.ndarray,
    words: np.ndarray,
    clearance: np.ndarray,
    levels: int,
    step: float,
    cone_angle: float,
    cap: int,
    powers: np.ndarray,
    runs: np.ndarray,
    run_counts: np.ndarray,
    slots: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    write: bool,
) -> None:
    growth = math.log1p(cone_angle)
    # Least length, growth of a step, its logarithm, its powers, and the relative way that counts as short.
    steps = (step, cone_angle, growth, powers, min(_SHORT, growth**0.25))
    for share in numba.prange(shares):
        _march_share(
            share,
            shares,
            origins,
            directions,
            near,
            far,
            jitter,
            frame,
            words,
            clearance,
            levels,
            steps,
            cap,
            runs,
            run_counts,
            slots,
            starts,
            ends,
            write,
        )


_NONE = np.empty(0, np.float32)


@lru_cache(maxsize=8)
def _powers(cone_angle: float) -> NDArray[np.float64]:
    """The first powers of 1 + cone angle; what lies farther is worked out when it is needed."""
    with np.errstate(over="ignore"):
        return np.exp(np.arange(_POWERS) * math.log1p(cone_angle))


def march(
    words: NDArray[np.int64],
    clearance: NDArray[np.uint8],
    box: NDArray[np.float32],
    origins: NDArray[np.float32],
    directions: NDArray[np.float32],
    near: NDArray[np.float32] | None,
    far: NDArray[np.float32] | None,
    jitter: NDArray[np.float32] | None,
    *,
    step_size: float,
    cone_angle: float,
    max_samples: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]] | None:
    """Offsets (n + 1), starts (m) and ends (m) of the intervals kept; None if a ray cannot be followed.

    Args:
        words: (levels, w, w, w), a bit a cell.
        clearance: (levels, w, w, w), distance to the next block that is not empty or belongs to a finer level.
        box: (2, 3), level 0.
        origins: (n, 3).
        directions: (n, 3), finite and not zero.
        near: (n) or None for 0.
        far: (n), not below near, or None.
        jitter: (n) in [0, 1), or None for 0.
        step_size: Least step.
        cone_angle: Growth of the step with distance.
        max_samples: Most intervals a ray.
    """
    centre_and_half = np.concatenate([box[0].astype(np.float64) + box[1], box[1].astype(np.float64) - box[0]]) * 0.5
    rays = len(origins)
    offsets = np.zeros(rays + 1, np.int64)
    inputs = (
        cache.get_threads(),
        origins,
        directions,
        _NONE if near is None else near,
        _NONE if far is None else far,
        _NONE if jitter is None else jitter,
        centre_and_half,
        words.reshape(-1),
        clearance.reshape(-1),
        len(words),
        float(step_size),
        float(cone_angle),
        max_samples,
        _powers(float(cone_angle)),
        np.empty(2 * _RUNS * rays, np.int32),
        np.empty(rays, np.int32),
        offsets,
    )
    _march(*inputs, _NONE, _NONE, False)
    if offsets.min() < 0:
        return None
    np.cumsum(offsets, out=offsets)
    starts, ends = np.empty(offsets[-1], np.float32), np.empty(offsets[-1], np.float32)
    _march(*inputs, starts, ends, True)
    return offsets, starts, ends
