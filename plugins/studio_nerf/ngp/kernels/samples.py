"""Samples of rays as the other kernels take them: their places in the unit cube, and which of them light reaches.

Rays are followed in rounds: the next few samples of each ray are placed, encoded and given a density, and a ray that
its light does not leave is not followed further. So hardly anything behind a surface is ever encoded. Evaluated samples
are numbered by `columns`, round by round, each round from a multiple of 16 on.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache

f32 = np.float32
_ONE, _TWO, _HALF, _QUARTER = f32(1.0), f32(2.0), f32(0.5), f32(0.25)


@cache.kernel("i8(i8, i8, f4, i8[::1], f4[::1], f4[::1], f4[::1], i4[::1], i8[::1], f4[::1], i4[::1], i4[::1])")
def _follow(
    lit: int, most: int, depth_limit: float, stops: np.ndarray, starts: np.ndarray, ends: np.ndarray,
    density: np.ndarray, columns: np.ndarray, seen: np.ndarray, depth: np.ndarray, rays: np.ndarray,
    counts: np.ndarray,
) -> int:  # fmt: skip
    kept = 0
    for a in range(lit):
        i = np.int64(rays[a])
        total, s = depth[i], seen[i]
        for k in range(s, s + counts[a]):
            total += density[columns[k]] * (ends[k] - starts[k])
        depth[i] = total
        seen[i] = s + counts[a]
        left = stops[i] - seen[i]
        if left > 0 and total <= depth_limit:
            rays[kept] = np.int32(i)
            counts[kept] = np.int32(min(left, most))
            kept += 1
    return kept


def follow_rays(
    lit: int, most: int, early_stop: float, stops: NDArray[np.int64], starts: NDArray[np.float32],
    ends: NDArray[np.float32], density: NDArray[np.float32], columns: NDArray[np.int32], seen: NDArray[np.int64],
    depth: NDArray[np.float32], rays: NDArray[np.int32], counts: NDArray[np.int32],
) -> int:  # fmt: skip
    """Take note of the densities of a round, and choose the rays and samples of the next.

    Args:
        lit: Rays of the last round.
        most: Samples of a ray in the next round.
        early_stop: Least transmittance with which a ray is followed.
        stops: (n,), end of the intervals of each ray.
        starts: (m,), distances.
        ends: (m,), distances.
        density: (at least m,), of evaluated samples by column.
        columns: (m,), where `place_samples` put each evaluated sample.
        seen: (n,), updated: the first sample of each ray that is not evaluated yet.
        depth: (n,), updated: optical thickness before it.
        rays: (n,), the rays of the round, first `lit`; written for the next.
        counts: (n,), their samples in the round; written for the next.

    Returns:
        Rays of the next round.
    """
    return int(
        _follow(lit, most, depth_limit(early_stop), stops, starts, ends, density, columns, seen, depth, rays, counts)
    )


def depth_limit(early_stop: float) -> np.float32:
    """Optical thickness behind which the transmittance is less."""
    return -np.log(np.float32(early_stop)) if early_stop > 0 else np.float32(np.inf)


@cache.device
def _place_rays(
    first: int, end: int, rays: np.ndarray, places: np.ndarray, seen: np.ndarray, origins: np.ndarray,
    directions: np.ndarray, starts: np.ndarray, ends: np.ndarray, frame: np.ndarray, contracted: bool,
    positions: np.ndarray, columns: np.ndarray,
) -> None:  # fmt: skip
    scale = frame[3]
    for a in range(first, end):
        i = np.int64(rays[a])
        ox, oy, oz = origins[i, 0] - frame[0], origins[i, 1] - frame[1], origins[i, 2] - frame[2]
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        s = seen[i]
        for c in range(places[a], places[a + 1]):
            t = _HALF * (starts[s] + ends[s])
            x, y, z = (ox + t * dx) * scale, (oy + t * dy) * scale, (oz + t * dz) * scale
            if contracted:
                # Mip-NeRF 360 (Barron et al., 2022), equation 10, with the maximum norm.
                size = max(abs(x), max(abs(y), abs(z)))
                if size > _ONE:
                    shrink = (_TWO - _ONE / size) / size
                    x, y, z = x * shrink, y * shrink, z * shrink
                x, y, z = x * _QUARTER + _HALF, y * _QUARTER + _HALF, z * _QUARTER + _HALF
            else:
                x, y, z = x * _HALF + _HALF, y * _HALF + _HALF, z * _HALF + _HALF
            positions[0, c], positions[1, c], positions[2, c] = x, y, z
            columns[s] = np.int32(c)
            s += 1


@cache.kernel(
    "void(i8, i4[::1], i8[::1], i8[::1], f4[:,::1], f4[:,::1], f4[::1], f4[::1], f4[::1], b1, f4[:,::1], i4[::1])",
    parallel=True,
)
def _place(
    shares: int, rays: np.ndarray, places: np.ndarray, seen: np.ndarray, origins: np.ndarray, directions: np.ndarray,
    starts: np.ndarray, ends: np.ndarray, frame: np.ndarray, contracted: bool, positions: np.ndarray,
    columns: np.ndarray,
) -> None:  # fmt: skip
    n = rays.shape[0]
    for share in numba.prange(shares):
        _place_rays(share * n // shares, (share + 1) * n // shares, rays, places, seen, origins, directions, starts,
                    ends, frame, contracted, positions, columns)  # fmt: skip


def place_samples(
    rays: NDArray[np.int32], places: NDArray[np.int64], seen: NDArray[np.int64], origins: NDArray[np.float32],
    directions: NDArray[np.float32], starts: NDArray[np.float32], ends: NDArray[np.float32],
    frame: NDArray[np.float32], contracted: bool, positions: NDArray[np.float32], columns: NDArray[np.int32],
) -> None:  # fmt: skip
    """Middles of the intervals of a round in the unit cube of the encoding.

    Args:
        rays: (r,), the rays of the round.
        places: (r + 1,), the columns ``places[a]:places[a + 1]`` are for ray ``rays[a]``.
        seen: (n,), the first sample of each ray in the round.
        origins: (n, 3).
        directions: (n, 3), of unit length.
        starts: (m,), distances.
        ends: (m,), distances.
        frame: Centre (3) of the cube that becomes [-1, 1]^3, and 1 / half its side.
        contracted: Whether that cube is the inner half of the unit cube and all space the rest, or the whole of it.
        positions: (3, at least ``places[-1]``), written in these columns.
        columns: (m,), written: the column of each sample of the round.
    """
    shares = 4 * cache.get_threads()
    _place(shares, rays, places, seen, origins, directions, starts, ends, frame, contracted, positions, columns)


@cache.kernel("void(i4[::1], i8[::1], i8[::1], f4[::1], f4[::1], i4[::1], i8[::1], f4[::1], f4[::1], i4[::1])")
def _splice(
    rays: np.ndarray, firsts: np.ndarray, seen: np.ndarray, starts: np.ndarray, ends: np.ndarray, columns: np.ndarray,
    at: np.ndarray, all_starts: np.ndarray, all_ends: np.ndarray, all_columns: np.ndarray,
) -> None:  # fmt: skip
    for a in range(rays.shape[0]):
        i = np.int64(rays[a])
        to = at[i]
        for s in range(firsts[a], seen[a]):
            all_starts[to], all_ends[to], all_columns[to] = starts[s], ends[s], columns[s]
            to += 1
        at[i] = to


def splice_samples(
    rays: NDArray[np.int32], firsts: NDArray[np.int64], seen: NDArray[np.int64], starts: NDArray[np.float32],
    ends: NDArray[np.float32], columns: NDArray[np.int32], at: NDArray[np.int64], all_starts: NDArray[np.float32],
    all_ends: NDArray[np.float32], all_columns: NDArray[np.int32],
) -> None:  # fmt: skip
    """Append the evaluated samples of one stretch of some rays to those of their earlier stretches.

    Args:
        rays: (r,), the rays.
        firsts: (r,), first sample of each of them in this stretch.
        seen: (r,), end of those that were evaluated.
        starts: Of the stretch's samples.
        ends: As many.
        columns: As many.
        at: (n,), updated: where the next sample of each ray goes.
        all_starts: Written.
        all_ends: Written.
        all_columns: Written.
    """
    _splice(rays, firsts, seen, starts, ends, columns, at, all_starts, all_ends, all_columns)


@cache.kernel(
    "i8(i8[::1], i8[::1], f4[::1], f4[::1], i4[::1], f4[::1], f4[:,::1], f4, f4, f4, f4[::1], i4[::1], i4[::1],"
    "i4[::1], i8[::1], f4[::1], f4[::1], f4[::1], f4[:,::1])"
)
def _reached(
    offsets: np.ndarray, seen: np.ndarray, starts: np.ndarray, ends: np.ndarray, columns: np.ndarray,
    density: np.ndarray, positions: np.ndarray, depth_limit: float, alpha_limit: float, sure: float,
    turns: np.ndarray, chosen: np.ndarray, index: np.ndarray, rays: np.ndarray, kept: np.ndarray, lengths: np.ndarray,
    middles: np.ndarray, densities: np.ndarray, places: np.ndarray,
) -> int:  # fmt: skip
    count = 0
    kept[0] = 0
    n = offsets.shape[0] - 1
    for i in range(n):
        depth, turn = f32(0.0), f32(0.0)
        if sure > f32(0.0):
            turn = turns[i]
        for s in range(offsets[i], seen[i]):
            c = columns[s]
            length = ends[s] - starts[s]
            thickness = density[c] * length
            taken = thickness >= alpha_limit
            if taken and sure > f32(0.0):
                share = np.exp(-depth) * thickness / ((_ONE + thickness) * sure)
                if share < _ONE:
                    turn += share
                    taken = turn >= _ONE
                    if taken:
                        turn -= _ONE
                        length /= share
            if taken:
                chosen[count], index[count], rays[count] = np.int32(s), c, np.int32(i)
                lengths[count] = length
                middles[count] = _HALF * (starts[s] + ends[s])
                densities[count] = density[c]
                places[0, count], places[1, count], places[2, count] = positions[0, c], positions[1, c], positions[2, c]
                count += 1
            depth += thickness
            if depth > depth_limit:
                break
        kept[i + 1] = count
    return count


def reached_samples(
    offsets: NDArray[np.int64], seen: NDArray[np.int64], starts: NDArray[np.float32], ends: NDArray[np.float32],
    columns: NDArray[np.int32], density: NDArray[np.float32], positions: NDArray[np.float32], early_stop: float,
    least_thickness: float, sure: float, turns: NDArray[np.float32], chosen: NDArray[np.int32],
    index: NDArray[np.int32], rays: NDArray[np.int32], kept: NDArray[np.int64], lengths: NDArray[np.float32],
    middles: NDArray[np.float32], densities: NDArray[np.float32], places: NDArray[np.float32],
) -> int:  # fmt: skip
    """Choose the samples that light reaches, and lay their data side by side.

    Args:
        offsets: (n + 1,), ray i has the intervals ``offsets[i]:offsets[i + 1]``.
        seen: (n,), end of each ray's evaluated samples.
        starts: (m,), distances.
        ends: (m,), distances.
        columns: (m,), the column of each evaluated sample.
        density: By column.
        positions: (3, columns), from `place_samples`.
        early_stop: Least transmittance with which light enters a chosen sample.
        least_thickness: Least optical thickness of a chosen sample.
        sure: Weight from which a sample is chosen for certain (`studio_nerf.ngp.engine.Thinning`); 0: all are.
        turns: (n,) in [0, 1), where the turns of each ray begin; with `sure` 0 not read.
        chosen: (at least as many as are evaluated,), written: which samples were chosen.
        index: As long, written: their columns.
        rays: As long, written: their rays.
        kept: (n + 1,), written: offsets of the chosen samples.
        lengths: As long, written.
        middles: As long, written.
        densities: As long, written.
        places: (3, as long), written: their positions.

    Returns:
        How many there are.
    """
    count: int = _reached(
        offsets, seen, starts, ends, columns, density, positions, depth_limit(early_stop), np.float32(least_thickness),
        np.float32(sure), turns, chosen, index, rays, kept, lengths, middles, densities, places,
    )  # fmt: skip
    return count
