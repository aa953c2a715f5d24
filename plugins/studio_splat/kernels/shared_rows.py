"""Who writes the gradient row of which splat, when several threads walk the tiles.

Threads own contiguous runs of tiles and add to the same rows, except for splats that reach into the tiles of more than
one thread: those go to rows of the thread's own and are added up at the end, in the order of the threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from studio.kernels.cache import device, kernel
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


@device
def _find_shared(info: Any, first: int, last: int, columns: int, bounds: Any, slot: Any, shared: Any) -> int:
    """Collect the splats whose tile rows are cut by a bound between threads, in `shared` from `first` on."""
    found = first
    for i in range(first, last):
        where = info[i]
        row = np.int64(where >> np.uint64(16)) & 0xFFFF
        low = row * columns
        high = low + np.int64(where & np.uint64(0xFFFF)) * columns
        slot[i] = -1
        for k in range(1, bounds.shape[0] - 1):
            if low < bounds[k] < high:
                shared[found] = np.int32(i)
                found += 1
                break
    return found - first


@kernel(
    "i8(u8[::1], i4[::1], i8, u1[::1], f4[:,::1], f4[:,::1], i8[::1], i4[::1], i4[::1], i8[::1])",
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
    found: Any,
) -> int:
    """Share out the tiles by list length, clear old gradients, and number the shared splats. Returns how many."""
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
    for part in prange(threads):
        t = np.int64(part)
        blocks = touched.shape[0]
        _clear_blocks(
            touched,
            share(blocks, t, threads),
            share(blocks, t + 1, threads),
            rows,
            feature_rows,
        )
        first = share(splats, t, threads)
        found[t] = _find_shared(info, first, share(splats, t + 1, threads), columns, bounds, slot, shared)
    total = 0
    for t in range(threads):
        first = share(splats, t, threads)
        for k in range(first, first + found[t]):
            # `total` never passes `k`, so closing the gaps in place is safe.
            shared[total] = shared[k]
            slot[shared[total]] = np.int32(total)
            total += 1
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
    count: int,
    threads: int,
    rows: Any,
    own: Any,
    features: Any,
    own_features: Any,
) -> None:
    """Add up the threads' own rows of the shared splats `first` to `last`; nobody else has written to their rows."""
    planes = features.shape[1]
    for k in range(first, last):
        index = np.int64(shared[k])
        total = load(own, k * RECORD)
        for t in range(1, threads):
            total = total + load(own, (t * count + k) * RECORD)
        store(rows, index * RECORD, total)
        for plane in range(planes):
            value = np.float32(0.0)
            for t in range(threads):
                value += own_features[(t * count + k) * planes + plane]
            features[index, plane] = value
