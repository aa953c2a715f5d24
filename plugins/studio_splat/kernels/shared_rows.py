"""Who writes the gradient row of which splat, when several threads walk the tiles.

Threads own contiguous runs of tiles and add to the same rows, except for splats that reach into the tiles of more than
one thread: those go to rows of the thread's own and are added up at the end, in the order of the threads. A splat has
such rows for the threads that its tile rows touch only: with many threads nearly every splat is shared, but by few.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from studio.kernels.cache import device, inline, kernel
from studio.kernels.vec import load, splat, store

from .records import RECORD
from .shares import share

GRADIENT_BLOCK = 16
"""Gaussians that share one `touched` flag."""


@device
def _clear_blocks(touched: Any, first: int, last: int, rows: Any, feature_rows: Any) -> None:
    """Zero the rows of the blocks that the previous call touched."""
    planes = feature_rows.shape[1]
    zero = splat(np.float32(0.0))
    for block in range(first, last):
        if touched[block]:
            touched[block] = 0
            for i in range(block * GRADIENT_BLOCK, (block + 1) * GRADIENT_BLOCK):
                store(rows, i * RECORD, zero)
            if planes:
                feature_rows[block * GRADIENT_BLOCK : (block + 1) * GRADIENT_BLOCK, :] = np.float32(0.0)


@inline
def _owner(bounds: Any, tile: int) -> int:
    """The thread whose run of tiles holds this tile."""
    low, high = 0, bounds.shape[0] - 2
    while low < high:
        middle = (low + high + 1) // 2
        if bounds[middle] <= tile:
            low = middle
        else:
            high = middle - 1
    return low


@inline
def _first_tile(info: Any, i: int, columns: int) -> int:
    """The first tile of the tile rows of a splat."""
    return (np.int64(info[i] >> np.uint64(16)) & 0xFFFF) * columns


@device
def _find_shared(info: Any, first: int, last: int, columns: int, bounds: Any, slot: Any, found: Any, t: int) -> None:
    """Count the splats whose tile rows belong to several threads, and rows for all of these; `slot` gets how many."""
    count = 0
    needed = 0
    for i in range(first, last):
        low = _first_tile(info, i, columns)
        high = low + np.int64(info[i] & np.uint64(0xFFFF)) * columns
        owners = _owner(bounds, high - 1) - _owner(bounds, low) + 1 if high > low else 1
        slot[i] = np.int32(owners)
        if owners > 1:
            count += 1
            needed += owners
    found[t, 0], found[t, 1] = count, needed


@device
def _number_shared(
    info: Any, first: int, last: int, columns: int, bounds: Any, slot: Any, shared: Any, starts: Any, k: int, row: int
) -> None:
    """Give the shared splats `first` to `last` the numbers from `k` on and rows from `row` on."""
    for i in range(first, last):
        owners = slot[i]
        slot[i] = -1
        if owners > 1:
            shared[k] = np.int32(i)
            starts[k] = row
            # The thread adds its own number. Rows begin at the number of threads, so that this is not negative.
            slot[i] = np.int32(row - _owner(bounds, _first_tile(info, i, columns)))
            k += 1
            row += owners


@kernel(
    "i8(u8[::1], i4[::1], i8, u1[::1], f4[:,::1], f4[:,::1], i8[::1], i4[::1], i4[::1], i8[::1], i8[:,::1])",
    parallel=True,
)
def prepare_rows(
    info: Any,
    count: Any,
    columns: int,
    touched: Any,
    rows: Any,
    feature_rows: Any,
    bounds: Any,
    slot: Any,
    shared: Any,
    starts: Any,
    found: Any,
) -> int:
    """Share out the tiles by list length, clear old gradients, and number the shared splats. Returns how many.

    The threads' own rows of shared splat k are `starts[k]` to `starts[k + 1]`; thread t writes to `slot[i] + t`.
    """
    threads = bounds.shape[0] - 1
    tiles = count.shape[0]
    splats = info.shape[0]
    work = 0
    for tile in range(tiles):
        work += count[tile] + 4  # a tile without splats still costs about as much as four
    done = 0
    k = 1
    bounds[0] = 0
    for tile in range(tiles):
        if k < threads and done * threads >= work * k:
            bounds[k] = tile
            k += 1
        done += count[tile] + 4
    while k <= threads:
        bounds[k] = tiles
        k += 1
    blocks = touched.shape[0]
    total = 0
    row = threads
    # Both stages through one parallel loop: each one costs most of a second to compile.
    for stage in range(2):
        for part in prange(threads):
            t = np.int64(part)
            first, last = share(splats, t, threads), share(splats, t + 1, threads)
            if stage == 0:
                _clear_blocks(touched, share(blocks, t, threads), share(blocks, t + 1, threads), rows, feature_rows)
                _find_shared(info, first, last, columns, bounds, slot, found, t)
            else:
                _number_shared(info, first, last, columns, bounds, slot, shared, starts, found[t, 0], found[t, 1])
        if stage == 0:
            for t in range(threads):
                here, needed = found[t, 0], found[t, 1]
                found[t, 0], found[t, 1] = total, row
                total += here
                row += needed
            starts[total] = row
    return total


@device
def clear_own(own_rows: Any, own_feature_rows: Any, planes: int, first: int, last: int) -> None:
    for i in range(first, last):
        store(own_rows, i * RECORD, splat(np.float32(0.0)))
    for i in range(first * planes, last * planes):
        own_feature_rows[i] = np.float32(0.0)


@device
def merge_shared(
    shared: Any,
    first: int,
    last: int,
    starts: Any,
    rows: Any,
    own: Any,
    features: Any,
    own_features: Any,
) -> None:
    """Add up the threads' own rows of the shared splats `first` to `last`; nobody else has written to their rows."""
    planes = features.shape[1]
    for k in range(first, last):
        index = np.int64(shared[k])
        total = load(own, starts[k] * RECORD)
        for row in range(starts[k] + 1, starts[k + 1]):
            total = total + load(own, row * RECORD)
        store(rows, index * RECORD, total)
        for plane in range(planes):
            value = np.float32(0.0)
            for row in range(starts[k], starts[k + 1]):
                value += own_features[row * planes + plane]
            features[index, plane] = value
