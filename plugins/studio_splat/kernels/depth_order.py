"""Sort splats by depth, count the tiles of each stretch of that order, and place the tiles' lists.

A radix sort of the depths that the splats really span; equal depths keep the order of the indices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from studio.kernels.cache import device, inline, kernel
from studio.kernels.vec import element, prefetch, put

from .shares import share

MAX_PAIRS = 2**31 - 1
_AHEAD = 8
_STAGES_A_PASS = 4
"""Of the radix sort: count digits, sum up shares of digits, place them, move the keys."""


@device
def _count_digits(keys: Any, first: int, last: int, base: int, shift: int, histogram: Any, t: int) -> None:
    radix = histogram.shape[1]
    for digit in range(radix):
        histogram[t, digit] = 0
    mask = np.uint64(radix - 1)
    for i in range(first, last):
        histogram[t, ((keys[i] - base) >> shift) & mask] += 1


@device
def _move_by_digit(
    keys: Any,
    first: int,
    last: int,
    base: int,
    shift: int,
    histogram: Any,
    t: int,
    out: Any,
) -> None:
    mask = np.uint64(histogram.shape[1] - 1)
    for i in range(first, last):
        key = keys[i]
        digit = ((key - base) >> shift) & mask
        out[histogram[t, digit]] = key
        histogram[t, digit] += 1


@inline
def ask_ahead(order: Any, j: int, last: int, info: Any, spans: Any) -> None:
    """Prefetch what the splats further on in the depth order will read; they lie anywhere in memory."""
    far = element(order, min(j + 2 * _AHEAD, last - 1))
    prefetch(info, np.int64(far & np.uint64(0xFFFFFFFF)))
    near = element(order, min(j + _AHEAD, last - 1))
    prefetch(
        spans,
        np.int64(element(info, np.int64(near & np.uint64(0xFFFFFFFF))) >> np.uint64(32)),
    )


@inline
def located(where: np.uint64) -> tuple[int, int, int]:
    """(first span, number of spans, first tile row) from an entry of `info`."""
    return (
        np.int64(where >> np.uint64(32)),
        np.int64(where) & 0xFFFF,
        np.int64(where >> np.uint64(16)) & 0xFFFF,
    )


@device
def _count_tiles(
    order: Any,
    first: int,
    last: int,
    columns: int,
    info: Any,
    spans: Any,
    histogram: Any,
    base: int,
    tiles: int,
) -> None:
    """Histogram of the tiles of the splats `first` to `last` of the depth order, at `base` of `histogram`."""
    for tile in range(base, base + tiles + 1):
        histogram[tile] = 0
    for j in range(first, last):
        ask_ahead(order, j, last, info, spans)
        span, rows, row = located(element(info, np.int64(element(order, j) & np.uint64(0xFFFFFFFF))))
        line = base + row * columns
        for k in range(span, span + rows):
            ends = np.int64(element(spans, k))
            # Ends of intervals only; a running sum makes counts of them.
            begin, end = line + (ends & 0xFFFF), line + (ends >> 16)
            put(histogram, begin, element(histogram, begin) + 1)
            put(histogram, end, element(histogram, end) - 1)
            line += columns
    running = 0
    for tile in range(base, base + tiles):
        running += histogram[tile]
        histogram[tile] = running


@device
def _sum_columns(histogram: Any, first: int, last: int) -> int:
    """All counts of some tiles or digits."""
    total = 0
    for chunk in range(histogram.shape[0]):
        for column in range(first, last):
            total += histogram[chunk, column]
    return total


@device
def _place_digits(histogram: Any, first: int, last: int, offset: int) -> None:
    """Turn counts of some digits into the place where each thread writes the next key with that digit."""
    for digit in range(first, last):
        for t in range(histogram.shape[0]):
            here = histogram[t, digit]
            histogram[t, digit] = offset
            offset += here


@device
def _place_lists(histogram: Any, first: int, last: int, offset: int, start: Any, count: Any) -> None:
    """Turn counts into the place where each chunk writes its part of each tile's list."""
    for tile in range(first, last):
        start[tile] = offset
        for chunk in range(histogram.shape[0]):
            here = histogram[chunk, tile]
            histogram[chunk, tile] = offset
            offset += here
        count[tile] = offset - start[tile]


@device
def _order_share(
    stage: int,
    t: int,
    keys: Any,
    scratch: Any,
    shares: Any,
    count: int,
    drawn: int,
    base: int,
    columns: int,
    bits: int,
    passes: int,
    info: Any,
    spans: Any,
    digits: Any,
    histogram: Any,
    start: Any,
    tile_count: Any,
    totals: Any,
) -> None:
    """One thread's share of one stage of :func:`order_splats`."""
    threads = shares.shape[0]
    chunks = histogram.shape[0]
    tiles = histogram.shape[1] - 1
    step, part = stage // _STAGES_A_PASS, stage % _STAGES_A_PASS
    swapped = min(step, passes) % 2 == 1
    source = scratch if swapped else keys
    if step < passes:
        # The first pass also closes the gaps between the shares of the measuring stage.
        first = share(count, t, threads) if step == 0 else share(drawn, t, threads)
        last = first + shares[t, 0] if step == 0 else share(drawn, t + 1, threads)
        low, high = share(digits.shape[1], t, threads), share(digits.shape[1], t + 1, threads)
        shift = np.uint64(32 + step * bits)
        if part == 0:
            _count_digits(source, first, last, base, shift, digits, t)
        elif part == 1:
            totals[t] = _sum_columns(digits, low, high)
        elif part == 2:
            _place_digits(digits, low, high, totals[t])
        else:
            _move_by_digit(
                source,
                first,
                last,
                base,
                shift,
                digits,
                t,
                keys if swapped else scratch,
            )
    elif stage == _STAGES_A_PASS * passes:
        # A thread takes one chunk from the near end and one from the far end: near splats are the large ones.
        for chunk in (t, chunks - 1 - t):
            _count_tiles(
                source,
                share(drawn, chunk, chunks),
                share(drawn, chunk + 1, chunks),
                columns,
                info,
                spans,
                histogram.reshape(-1),
                chunk * (tiles + 1),
                tiles,
            )
    else:
        first, last = share(tiles, t, threads), share(tiles, t + 1, threads)
        if stage == _STAGES_A_PASS * passes + 1:
            totals[t] = _sum_columns(histogram, first, last)
        else:
            _place_lists(histogram, first, last, totals[t], start, tile_count)


@kernel(
    "i8(u8[::1], u8[::1], i8[:,::1], i8, i8, i8, i8, u8[::1], u4[::1], i4[:,::1], i4[:,::1], i8[::1],"
    " i4[::1], i8[::1])",
    parallel=True,
)
def order_splats(
    keys: Any,
    scratch: Any,
    shares: Any,
    count: int,
    columns: int,
    bits: int,
    passes: int,
    info: Any,
    spans: Any,
    digits: Any,
    histogram: Any,
    start: Any,
    tile_count: Any,
    totals: Any,
) -> int:
    """Sort the keys by depth (equal depths by index), count tiles and place the lists. Returns the number of pairs.

    `keys` and `scratch` swap roles at each of the `passes` passes of `bits` bits.
    """
    threads = shares.shape[0]
    drawn = 0
    lowest = shares[0, 2]
    for t in range(threads):
        drawn += shares[t, 0]
        lowest = min(lowest, shares[t, 2])
    base = np.uint64(lowest) << np.uint64(32)
    tiles = histogram.shape[1] - 1
    pairs = 0
    # All stages through one parallel loop: each such loop in the source costs most of a second to compile.
    for stage in range(_STAGES_A_PASS * passes + 3):
        if pairs <= MAX_PAIRS:
            for part in prange(threads):
                _order_share(
                    stage,
                    np.int64(part),  # Numba counts prange in uint64, which turns into float64 beside an int64
                    keys,
                    scratch,
                    shares,
                    count,
                    drawn,
                    base,
                    columns,
                    bits,
                    passes,
                    info,
                    spans,
                    digits,
                    histogram,
                    start,
                    tile_count,
                    totals,
                )
        # What was counted of a share of digits or tiles becomes the place where the share begins.
        if stage == _STAGES_A_PASS * passes + 1 or (stage < _STAGES_A_PASS * passes and stage % _STAGES_A_PASS == 1):
            offset = 0
            for t in range(threads):
                here = totals[t]
                totals[t] = offset
                offset += here
            if stage > _STAGES_A_PASS * passes:
                pairs = offset
    start[tiles] = pairs
    return pairs
