"""Densities of cells to the words and clearances that rays are marched through; see `studio.marching.grid`."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache

LEAP = 15
"""Largest clearance that is kept, in blocks."""


@cache.device
def _any_finer(words: np.ndarray, finer: int, x: int, y: int, z: int) -> bool:
    """Whether one of the eight cells of the finer level from (x, y, z) on is occupied."""
    for i in range(x, x + 2):
        for j in range(y, y + 2):
            for k in range(z, z + 2):
                word = words[finer, i >> 2, j >> 2, k >> 2]
                if (word >> (((i & 3) << 4) + ((j & 3) << 2) + (k & 3))) & 1:
                    return True
    return False


@cache.device
def _pack_slice(density: np.ndarray, limit: float, level: int, bx: int, words: np.ndarray) -> None:
    resolution, blocks = density.shape[1], words.shape[1]
    quarter = resolution // 4
    for by in range(blocks):
        for bz in range(blocks):
            word = np.int64(0)
            bit = np.int64(1)
            for x in range(4 * bx, 4 * bx + 4):
                for y in range(4 * by, 4 * by + 4):
                    for z in range(4 * bz, 4 * bz + 4):
                        least = min(x, y, z) - quarter
                        if level > 0 and least >= 0 and max(x, y, z) < 3 * quarter:
                            # Only rounding at the border sends a point here, and then the finer level's opinion counts.
                            full = _any_finer(words, level - 1, 2 * (x - quarter), 2 * (y - quarter), 2 * (z - quarter))
                        else:
                            full = density[level, x, y, z] > limit
                        if full:
                            word |= bit
                        bit <<= 1
            words[level, bx, by, bz] = word


@cache.kernel("void(f4[:,:,:,::1], f8, i8, i8[:,:,:,::1])", parallel=True)
def _pack(density: np.ndarray, limit: float, level: int, words: np.ndarray) -> None:
    for bx in numba.prange(words.shape[1]):
        _pack_slice(density, limit, level, bx, words)


@cache.device
def _spread(place: np.ndarray, first: int, stride: int, line: np.ndarray) -> None:
    """Along one line of blocks, d(i) becomes min over j of max(|i − j|, d(j)): one axis of the Chebyshev distance."""
    count = line.shape[0]
    for i in range(count):
        line[i] = place[first + i * stride]
    for i in range(count):
        best = LEAP
        for j in range(max(0, i - LEAP), min(count, i + LEAP + 1)):
            best = min(best, max(abs(i - j), np.int64(line[j])))
        place[first + i * stride] = best


@cache.kernel("void(i8[::1], u1[::1], i8, i8, i8)")
def _clear(words: np.ndarray, clearance: np.ndarray, blocks: int, low: int, high: int) -> None:
    line = np.empty(blocks, np.uint8)
    area = blocks * blocks
    for block in range(words.shape[0]):
        z, y, x = block % blocks, block // blocks % blocks, block // area % blocks
        # A ray must not leap into the part that the finer level answers for.
        finer = block >= area * blocks and min(x, y, z) >= low and max(x, y, z) < high
        clearance[block] = 0 if finer or words[block] != 0 else LEAP
    strides = (1, blocks, area)
    for stride in strides:
        for rank in range(words.shape[0] // blocks):
            # The lines of this axis: all blocks whose place along it is 0.
            _spread(clearance, rank // stride * stride * blocks + rank % stride, stride, line)


def finer_blocks(resolution: int) -> tuple[int, int]:
    """The blocks of a level, low to high (exclusive) on each axis, that touch the finer level's box."""
    quarter = resolution // 4
    return quarter // 4, -(-3 * quarter // 4)


def pack(density: NDArray[np.float32], limits: list[float], words: NDArray[np.int64]) -> None:
    """Set the bit of each cell whose density is above its level's limit.

    Args:
        density: (levels, r, r, r).
        limits: One a level.
        words: (levels, r / 4, r / 4, r / 4), written.
    """
    for level, limit in enumerate(limits):
        _pack(density, float(limit), level, words)


@cache.device
def _sum_slice(density: np.ndarray, level: int, x: int, low: int, high: int, sums: np.ndarray) -> None:
    resolution = density.shape[1]
    total, count = 0.0, 0
    for y in range(resolution):
        for z in range(resolution):
            value = density[level, x, y, z]
            hidden = level > 0 and min(x, y, z) >= low and max(x, y, z) < high
            if value >= 0 and not hidden:
                total += value
                count += 1
    sums[0], sums[1] = total, count


@cache.kernel("void(f4[:,:,:,::1], i8, i8, f8[:,:,::1])", parallel=True)
def _sum(density: np.ndarray, low: int, high: int, sums: np.ndarray) -> None:
    resolution = density.shape[1]
    for slab in numba.prange(density.shape[0] * resolution):
        level, x = slab // resolution, slab % resolution
        _sum_slice(density, level, x, low, high, sums[level, x])


def sum_density(density: NDArray[np.float32], low: int, high: int) -> NDArray[np.float64]:
    """Sum of the densities of each level and the number of its cells, (levels, 2).

    Cells that are excluded for good, whose density is negative, are left out, and so are those from `low` to `high` on
    each axis of all levels but the first, for which a finer level answers.
    """
    sums = np.empty((*density.shape[:2], 2))
    _sum(density, low, high, sums)
    return sums.sum(axis=1)


@cache.device
def _unpack_slice(words: np.ndarray, level: int, bx: int, cells: np.ndarray) -> None:
    blocks = words.shape[1]
    for by in range(blocks):
        for bz in range(blocks):
            word = words[level, bx, by, bz]
            for x in range(4 * bx, 4 * bx + 4):
                for y in range(4 * by, 4 * by + 4):
                    for z in range(4 * bz, 4 * bz + 4):
                        cells[level, x, y, z] = word & 1
                        word >>= 1


@cache.kernel("void(i8[:,:,:,::1], b1[:,:,:,::1])", parallel=True)
def _unpack(words: np.ndarray, cells: np.ndarray) -> None:
    for slab in numba.prange(words.shape[0] * words.shape[1]):
        _unpack_slice(words, slab // words.shape[1], slab % words.shape[1], cells)


def unpack(words: NDArray[np.int64], cells: NDArray[np.bool_]) -> None:
    """The bit of each cell.

    Args:
        words: (levels, r / 4, r / 4, r / 4).
        cells: (levels, r, r, r), written.
    """
    _unpack(words, cells)


def clear(words: NDArray[np.int64], clearance: NDArray[np.uint8]) -> None:
    """Distance (Chebyshev, in blocks, at most `LEAP`) to the next block that is not empty or touches a finer level.

    Args:
        words: (levels, w, w, w).
        clearance: (levels, w, w, w), written.
    """
    blocks = words.shape[1]
    _clear(words.reshape(-1), clearance.reshape(-1), blocks, *finer_blocks(4 * blocks))
