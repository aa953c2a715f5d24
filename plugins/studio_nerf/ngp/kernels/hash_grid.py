"""The multiresolution hash encoding (Müller et al., *Instant Neural Graphics Primitives*, 2022, section 3).

Sixteen samples at a time: lanes are samples where corners and weights are computed, and four samples of four features
where rows are read or written. Features and their gradients are level-major, (levels, samples, 4), so that all streams
but the table itself are read and written in order. A level is worked on for many samples before the next, which keeps
the part of its table in use in the cache.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache
from studio.kernels.vec import (
    any_lane,
    fetch_add,
    floor,
    fma,
    load,
    maximum,
    minimum,
    select,
    splat,
    splat_i32,
    sqrt,
    store,
    to_int,
)

from .rows import add_rows, load_rows, spread

FEATURES = 4
"""Features of a table row: one 128-bit load."""
PRIMES = (1, 2654435761, 805459861)
"""Of the spatial hash (Müller et al., equation 4)."""

_PRIME_Y, _PRIME_Z = np.int32(PRIMES[1] - 2**32), np.int32(PRIMES[2])
_CHUNK = 2048
"""Samples that a level is applied to before the next: their features stay in L2."""

f32 = np.float32
GridArrays = tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]
"""Of each level: cells a side; vertices a side where rows are not hashed, else 0; its number of rows less 1; and where
its rows begin (one more entry, the number of all rows)."""

_ZERO, _ONE = f32(0.0), f32(1.0)


@cache.inline
def _corners(
    at: int, level: int, positions: np.ndarray, cells: np.ndarray, strides: np.ndarray, masks: np.ndarray,
    rows: np.ndarray, weights: np.ndarray,
) -> None:  # fmt: skip
    """Row numbers within the level and trilinear weights of the 8 corners of 16 samples' cells, (8, 16) each.

    Corner c lies at x + (c & 1), y + (c >> 1 & 1), z + (c >> 2).
    """
    n = cells[level]
    count = positions.shape[1]
    x, y, z = load(positions, at) * n, load(positions, at + count) * n, load(positions, at + 2 * count) * n
    last = n - _ONE
    x0 = minimum(maximum(floor(x), _ZERO), last)
    y0 = minimum(maximum(floor(y), _ZERO), last)
    z0 = minimum(maximum(floor(z), _ZERO), last)
    fx, fy, fz = x - x0, y - y0, z - z0
    gx, gy, gz = _ONE - fx, _ONE - fy, _ONE - fz
    ix, iy, iz = to_int(x0), to_int(y0), to_int(z0)
    one = np.int32(1)
    stride = strides[level]
    if stride > 0:
        j0 = iy * splat_i32(stride)
        k0 = iz * splat_i32(stride * stride)
        j1 = j0 + stride
        k1 = k0 + np.int32(stride * stride)
        jk = (j0 + k0, j1 + k0, j0 + k1, j1 + k1)
        for c in range(4):
            store(rows, 32 * c, ix + jk[c])
            store(rows, 32 * c + 16, ix + jk[c] + one)
    else:
        j0 = iy * splat_i32(_PRIME_Y)
        k0 = iz * splat_i32(_PRIME_Z)
        j1 = j0 + _PRIME_Y
        k1 = k0 + _PRIME_Z
        mask = splat_i32(masks[level])
        x1 = ix + one
        hashes = (j0 ^ k0, j1 ^ k0, j0 ^ k1, j1 ^ k1)
        for c in range(4):
            store(rows, 32 * c, (ix ^ hashes[c]) & mask)
            store(rows, 32 * c + 16, (x1 ^ hashes[c]) & mask)
    yz = (gy * gz, fy * gz, gy * fz, fy * fz)
    for c in range(4):
        store(weights, 32 * c, gx * yz[c])
        store(weights, 32 * c + 16, fx * yz[c])


@cache.device
def _encode_level(
    first: int, end: int, level: int, positions: np.ndarray, cells: np.ndarray, strides: np.ndarray, masks: np.ndarray,
    table: np.ndarray, features: np.ndarray, rows: np.ndarray, weights: np.ndarray,
) -> None:  # fmt: skip
    out = level * positions.shape[1] * 4
    for at in range(first, end, 16):
        _corners(at, level, positions, cells, strides, masks, rows, weights)
        for q in range(0, 16, 4):
            total = load_rows(table, rows, q) * spread(weights, q)
            for c in range(16, 128, 16):
                total = fma(load_rows(table, rows, c + q), spread(weights, c + q), total)
            store(features, out + 4 * (at + q), total)


@cache.device
def _encode_share(
    share: int, shares: int, first: int, end: int, positions: np.ndarray, cells: np.ndarray, strides: np.ndarray,
    masks: np.ndarray, offsets: np.ndarray, table: np.ndarray, features: np.ndarray,
) -> None:  # fmt: skip
    rows, weights = np.empty(128, np.int32), np.empty(128, np.float32)
    blocks = (end - first) // 16
    last = first + 16 * ((share + 1) * blocks // shares)
    for chunk in range(first + 16 * (share * blocks // shares), last, _CHUNK):
        stop = min(chunk + _CHUNK, last)
        for level in range(cells.shape[0]):
            part = table[offsets[level] : offsets[level + 1]]
            _encode_level(chunk, stop, level, positions, cells, strides, masks, part, features, rows, weights)


@cache.kernel("void(i8, i8, i8, f4[:,::1], f4[::1], i4[::1], i4[::1], i8[::1], f4[:,::1], f4[:,:,::1])", parallel=True)
def _encode(
    shares: int, first: int, end: int, positions: np.ndarray, cells: np.ndarray, strides: np.ndarray,
    masks: np.ndarray, offsets: np.ndarray, table: np.ndarray, features: np.ndarray,
) -> None:  # fmt: skip
    for share in numba.prange(shares):
        _encode_share(share, shares, first, end, positions, cells, strides, masks, offsets, table, features)


def encode(
    positions: NDArray[np.float32], grid: GridArrays, table: NDArray[np.float32], features: NDArray[np.float32],
    first: int = 0, end: int | None = None,
) -> None:  # fmt: skip
    """Interpolated features of positions.

    Args:
        positions: (3, m) in [0, 1], m a multiple of 16.
        grid: The levels.
        table: (rows, 4), all levels one after another.
        features: (levels, m, 4), written.
        first: First position that is encoded, a multiple of 16.
        end: End of those that are, a multiple of 16; default m.
    """
    _encode(cache.get_threads(), first, positions.shape[1] if end is None else end, positions, *grid, table, features)


@cache.device
def _scatter_level(
    level: int, positions: np.ndarray, cells: np.ndarray, strides: np.ndarray, masks: np.ndarray, upstream: np.ndarray,
    gradient: np.ndarray, rows: np.ndarray, weights: np.ndarray,
) -> None:  # fmt: skip
    """Add the transposed interpolation of `upstream` (levels, m, 4) at one level to its `gradient` (rows, 4)."""
    count = positions.shape[1]
    source = level * count * 4
    for at in range(0, count, 16):
        _corners(at, level, positions, cells, strides, masks, rows, weights)
        for q in range(0, 16, 4):
            value = load(upstream, source + 4 * (at + q))
            for c in range(0, 128, 16):
                add_rows(gradient, rows, c + q, value * spread(weights, c + q))


@cache.device
def _adam_level(
    gradient: np.ndarray, table: np.ndarray, first: np.ndarray, second: np.ndarray, start: int, end: int,
    adam: np.ndarray, decay: float,
) -> None:  # fmt: skip
    """Adam on the values whose gradient is not 0; the gradient is zeroed for the next level.

    `adam`: rate / (1 - b1^t), b1, b2, 1 / (1 - b2^t), epsilon; `decay`: what such values lose of themselves.
    """
    rate, keep1, keep2, unbias2, epsilon = adam[0], adam[1], adam[2], adam[3], adam[4]
    new1, new2 = _ONE - keep1, _ONE - keep2
    nothing = splat(_ZERO)
    for at in range(0, 4 * (end - start), 16):
        g = load(gradient, at)
        touched = g != _ZERO
        if any_lane(touched):
            here = 4 * start + at
            old1, old2, value = load(first, here), load(second, here), load(table, here)
            m = fma(g, new1, old1 * keep1)
            v = fma(g * g, new2, old2 * keep2)
            step = fma(decay, value, rate * m / (sqrt(v * unbias2) + epsilon))
            store(table, here, select(touched, value - step, value))
            store(first, here, select(touched, m, old1))
            store(second, here, select(touched, v, old2))
            store(gradient, at, nothing)


@cache.device
def _descend_levels(
    worker: int, counter: np.ndarray, positions: np.ndarray, cells: np.ndarray, strides: np.ndarray, masks: np.ndarray,
    offsets: np.ndarray, upstream: np.ndarray, scratch: np.ndarray, table: np.ndarray, first: np.ndarray,
    second: np.ndarray, adam: np.ndarray, decays: np.ndarray,
) -> None:  # fmt: skip
    rows, weights = np.empty(128, np.int32), np.empty(128, np.float32)
    gradient = scratch[worker]
    # The fine levels take longest, so they go first.
    level = cells.shape[0] - 1 - fetch_add(counter, 1)
    while level >= 0:
        _scatter_level(level, positions, cells, strides, masks, upstream, gradient, rows, weights)
        _adam_level(gradient, table, first, second, offsets[level], offsets[level + 1], adam,
                    decays[level])  # fmt: skip
        level = cells.shape[0] - 1 - fetch_add(counter, 1)


@cache.kernel(
    "void(i8, i8[::1], f4[:,::1], f4[::1], i4[::1], i4[::1], i8[::1], f4[:,:,::1], f4[:,:,::1], f4[:,::1], f4[:,::1],"
    "f4[:,::1], f4[::1], f4[::1])",
    parallel=True,
)
def _descend(
    workers: int, counter: np.ndarray, positions: np.ndarray, cells: np.ndarray, strides: np.ndarray, masks: np.ndarray,
    offsets: np.ndarray, upstream: np.ndarray, scratch: np.ndarray, table: np.ndarray, first: np.ndarray,
    second: np.ndarray, adam: np.ndarray, decays: np.ndarray,
) -> None:  # fmt: skip
    for worker in numba.prange(workers):
        _descend_levels(worker, counter, positions, cells, strides, masks, offsets, upstream, scratch, table, first,
                        second, adam, decays)  # fmt: skip


def descend(
    positions: NDArray[np.float32], grid: GridArrays, upstream: NDArray[np.float32], scratch: NDArray[np.float32],
    table: NDArray[np.float32], first: NDArray[np.float32], second: NDArray[np.float32], adam: NDArray[np.float32],
    decays: NDArray[np.float32],
) -> None:  # fmt: skip
    """One Adam step (Kingma and Ba, 2015) on the table, from the gradient with respect to the features.

    The gradient of a level exists only while it is worked on, in a buffer that stays in the cache. One thread owns a
    level and adds its samples up in order, so the result is the same bits for any number of threads. Values that no
    sample touched keep their moments, as in Müller et al.'s implementation notes (appendix). The weight decay is
    decoupled from the gradient (Loshchilov and Hutter, 2019), and of touched values as well.

    Args:
        positions: (3, m) as for `encode`.
        grid: The levels.
        upstream: (levels, m, 4), d loss / d features; zero where `positions` are padding.
        scratch: (workers, most rows of a level, 4), zero; left zero.
        table: (rows, 4), updated.
        first: (rows, 4), updated: Adam's first moments.
        second: (rows, 4), updated: Adam's second moments.
        adam: rate / (1 - b1^t), b1, b2, 1 / (1 - b2^t), epsilon.
        decays: (levels,): share of itself that a touched value loses.
    """
    workers = min(cache.get_threads(), len(grid[0]), len(scratch))
    _descend(workers, np.zeros(1, np.int64), positions, *grid, upstream, scratch, table, first, second, adam,
             decays)  # fmt: skip


@cache.device
def _gradient_share(
    share: int, shares: int, positions: np.ndarray, cells: np.ndarray, strides: np.ndarray, masks: np.ndarray,
    offsets: np.ndarray, table: np.ndarray, upstream: np.ndarray, gradient: np.ndarray,
) -> None:  # fmt: skip
    rows, weights = np.empty(128, np.int32), np.empty(128, np.float32)
    # Sums of feature x upstream at the 8 corners of 16 samples.
    pull = np.empty((8, 16), np.float32)
    lanes = np.empty(16, np.float32)
    count = positions.shape[1]
    blocks = count // 16
    for at in range(16 * (share * blocks // shares), 16 * ((share + 1) * blocks // shares), 16):
        dx, dy, dz = splat(_ZERO), splat(_ZERO), splat(_ZERO)
        for level in range(cells.shape[0]):
            part = table[offsets[level] : offsets[level + 1]]
            _corners(at, level, positions, cells, strides, masks, rows, weights)
            for c in range(8):
                for q in range(0, 16, 4):
                    value = load(upstream, 4 * (level * count + at + q))
                    store(lanes, 0, load_rows(part, rows, 16 * c + q) * value)
                    for s in range(4):
                        pull[c, q + s] = (lanes[4 * s] + lanes[4 * s + 1]) + (lanes[4 * s + 2] + lanes[4 * s + 3])
            n = cells[level]
            last = n - _ONE
            x, y, z = load(positions, at) * n, load(positions, at + count) * n, load(positions, at + 2 * count) * n
            fx = x - minimum(maximum(floor(x), _ZERO), last)
            fy = y - minimum(maximum(floor(y), _ZERO), last)
            fz = z - minimum(maximum(floor(z), _ZERO), last)
            gx, gy, gz = _ONE - fx, _ONE - fy, _ONE - fz
            p000, p100, p010, p110 = load(pull, 0), load(pull, 16), load(pull, 32), load(pull, 48)
            p001, p101, p011, p111 = load(pull, 64), load(pull, 80), load(pull, 96), load(pull, 112)
            along_x = gy * gz * (p100 - p000) + fy * gz * (p110 - p010) + gy * fz * (p101 - p001)
            along_y = gx * gz * (p010 - p000) + fx * gz * (p110 - p100) + gx * fz * (p011 - p001)
            along_z = gx * gy * (p001 - p000) + fx * gy * (p101 - p100) + gx * fy * (p011 - p010)
            dx = fma(along_x + fy * fz * (p111 - p011), n, dx)
            dy = fma(along_y + fx * fz * (p111 - p101), n, dy)
            dz = fma(along_z + fx * fy * (p111 - p110), n, dz)
        store(gradient, at, dx)
        store(gradient, at + count, dy)
        store(gradient, at + 2 * count, dz)


@cache.kernel(
    "void(i8, f4[:,::1], f4[::1], i4[::1], i4[::1], i8[::1], f4[:,::1], f4[:,:,::1], f4[:,::1])", parallel=True
)
def _position_gradient(
    shares: int, positions: np.ndarray, cells: np.ndarray, strides: np.ndarray, masks: np.ndarray, offsets: np.ndarray,
    table: np.ndarray, upstream: np.ndarray, gradient: np.ndarray,
) -> None:  # fmt: skip
    for share in numba.prange(shares):
        _gradient_share(share, shares, positions, cells, strides, masks, offsets, table, upstream, gradient)


def position_gradient(
    positions: NDArray[np.float32], grid: GridArrays, table: NDArray[np.float32], upstream: NDArray[np.float32],
    gradient: NDArray[np.float32],
) -> None:  # fmt: skip
    """d loss / d positions through the interpolation weights (the cells are piecewise constant).

    Args:
        positions: (3, m) as for `encode`.
        grid: The levels.
        table: (rows, 4).
        upstream: (levels, m, 4), d loss / d features.
        gradient: (3, m), written.
    """
    _position_gradient(cache.get_threads(), positions, *grid, table, upstream, gradient)
