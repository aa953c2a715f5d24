"""Sort splats by depth and list, for every 8x8 tile of the image, the splats that can touch it.

Splats, not (tile, splat) pairs, are sorted: a radix sort of the depths, then a stable counting sort of the splats
into tiles in that order. The tiles of a splat are found exactly: in each row of tiles, the interval of pixel columns
that the ellipse ``alpha = 1/255`` reaches. All stages split their input into contiguous shares, one a thread, and join
counts by prefix sums, so the lists do not depend on the number of threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from studio.errors import StudioError
from studio.kernels.cache import device, get_threads, inline, kernel
from studio.kernels.vec import (
    ceil,
    element,
    floor,
    lane_index,
    maximum,
    minimum,
    prefetch,
    put,
    select,
    splat,
    sqrt,
    store,
    to_float,
    to_int,
)
from studio.kernels.workspace import Workspace

TILE = 8
"""Side of a tile in pixels."""

RECORD = 16
"""Floats of a record: x, y, A, B, C, log2 opacity, r, g, b, depth, half extents, B / 2A, C − B² / 4A, two free."""

SHEAR = 12
"""Where binning writes B / 2A and C − B² / 4A, computed in double; the other entries come from the projection."""

LOG2_ALPHA_MIN = float(np.float32(-math.log2(255.0)))
"""log2 of the smallest alpha that is drawn, 1/255."""

_MAX_DIGIT_BITS = 11
_PIXEL_SLACK = 0.01
"""Pixels by which a splat's extent is widened, more than float32 rounding can move the ellipse."""

_MAX_SIDE = 8 * 65535
_MAX_PAIRS = 2**31 - 1
_CHUNKS_PER_THREAD = 2
_AHEAD = 8


@dataclass(frozen=True)
class Tiles:
    """Splats listed by tile, nearest first. Arrays are views into the workspace.

    Attributes:
        width: image width in pixels.
        height: image height in pixels.
        start: (tiles + 1,) int64, where each tile's list starts in `ids`; tiles are in row-major order.
        count: (tiles,) int32, length of each list. The forward pass shortens lists to the splats that a pixel met.
        ids: (pairs + 16,) int32, indices of records.
        info: (N,) uint64, a splat's tile rows: rows in bits 0-15, first row in bits 16-31; 0 for splats not drawn.
        pairs: number of (tile, splat) pairs before the forward pass.
        drawn: number of splats that touch the image.
    """

    width: int
    height: int
    start: NDArray[np.int64]
    count: NDArray[np.int32]
    ids: NDArray[np.int32]
    info: NDArray[np.uint64]
    pairs: int
    drawn: int

    @property
    def columns(self) -> int:
        """Tiles in a row."""
        return -(-self.width // TILE)


@inline
def share(count: int, part: int, parts: int) -> int:
    """Where the contiguous share `part` of `count` items begins when they are split into `parts`."""
    return count * part // parts


@inline
def _clamped_int(value: float, low: int, high: int) -> int:
    """`value` cut to whole and into [low, high]; `low` for NaN."""
    if not value > low:
        return low
    return int(value) if value < high else high


@device
def _measure_share(
    records: Any,
    first: int,
    last: int,
    width: int,
    height: int,
    info: Any,
    spans: Any,
    span: int,
    room: int,
    keys: Any,
) -> tuple[int, int, int, int]:
    """Find the tile spans of the records `first` to `last`; write (depth key, index) of those drawn from `first` on.

    Returns the number drawn, the number of spans, and the smallest and largest depth key. Past `room` spans it only
    counts them.
    """
    drawn = first
    wanted = 0
    key_low = np.uint32(0xFFFFFFFF)
    key_high = np.uint32(0)
    for i in range(first, last):
        info[i] = np.uint64(0)
        if not (records[i, 10] > 0.0 and records[i, 11] > 0.0):
            continue
        x = records[i, 0]
        y = records[i, 1]
        a = -records[i, 2]
        b = -records[i, 3]
        c = -records[i, 4]
        # alpha >= 1/255 where a dx² + b dx dy + c dy² <= level; widened by the rounding of that sum at the far ends.
        level = records[i, 5] - np.float32(LOG2_ALPHA_MIN)
        if not level > 0.0:
            continue
        # In double: the determinant of a needle is a small difference of large products.
        exact = 4.0 * np.float64(a) * np.float64(c) - np.float64(b) * np.float64(b)
        inverse = 0.25 / np.float64(a)
        records[i, SHEAR] = np.float32(2.0 * np.float64(b) * inverse)
        records[i, SHEAR + 1] = np.float32(-exact * inverse)
        determinant = np.float32(exact)
        half_x = records[i, 10]
        half_y = records[i, 11]
        is_ellipse = determinant > 0.0 and a > 0.0
        if is_ellipse:
            level = level * np.float32(1.00001) + np.float32(1e-5)
            scale = np.float32(4.0) * level / determinant
            level = level + np.float32(5e-7) * scale * (a * c) * np.float32(2.0)
            scale = np.float32(4.0) * level / determinant
            half_x = math.sqrt(c * scale)
            half_y = math.sqrt(a * scale)
        half_x += np.float32(_PIXEL_SLACK)
        half_y += np.float32(_PIXEL_SLACK)
        # Pixel i is reached when |i + 0.5 - y| <= half_y. Comparisons are written so that NaN draws nothing.
        if not (x + half_x >= 0.5 and x - half_x <= width - 0.5 and y + half_y >= 0.5 and y - half_y <= height - 0.5):
            continue
        top = _clamped_int(np.ceil(y - half_y - np.float32(0.5)), 0, height)
        bottom = _clamped_int(np.floor(y + half_y - np.float32(0.5)), -1, height - 1)
        if bottom < top:
            continue
        first_row = top // TILE
        rows = bottom // TILE - first_row + 1

        if wanted + rows <= room:
            right_limit = np.float32(width - 1)
            # The extreme x is reached at ±y_extreme; within a band of rows, at the nearest row to that.
            y_extreme = -b * half_x / (np.float32(2.0) * c)
            half_inverse = np.float32(0.5) / a
            reach = np.float32(4.0) * a * level
            for row in range(0, rows, 16):
                near = to_float(lane_index() + np.int32(first_row + row)) * TILE + (np.float32(0.5) - y)
                if is_ellipse:
                    far = near + (TILE - 1)
                    y_right = minimum(maximum(near, y_extreme), far)
                    y_left = minimum(maximum(near, -y_extreme), far)
                    root_right = sqrt(maximum(reach - y_right * y_right * determinant, 0.0))
                    root_left = sqrt(maximum(reach - y_left * y_left * determinant, 0.0))
                    left = x + (y_left * -b - root_left) * half_inverse - (0.5 + _PIXEL_SLACK)
                    right = x + (y_right * -b + root_right) * half_inverse + (_PIXEL_SLACK - 0.5)
                else:
                    left = splat(x - half_x - np.float32(0.5))
                    right = splat(x + half_x - np.float32(0.5))
                left = minimum(maximum(ceil(left), 0.0), right_limit + np.float32(1.0))
                right = minimum(maximum(floor(right), -1.0), right_limit)
                begin = to_int(left) >> 3
                end = select(right < left, begin, (to_int(right) >> 3) + np.int32(1))
                store(spans, span + wanted + row, begin | (end << 16))
        wanted += rows
        info[i] = (np.uint64(span + wanted - rows) << np.uint64(32)) | np.uint64((first_row << 16) | rows)

        bits = np.float32(records[i, 9]).view(np.uint32)
        # Order of floats as unsigned integers: flip the sign bit, and all bits of negative numbers.
        key = bits ^ (np.uint32(0xFFFFFFFF) if bits >> np.uint32(31) else np.uint32(0x80000000))
        key_low = min(key_low, key)
        key_high = max(key_high, key)
        keys[drawn] = (np.uint64(key) << np.uint64(32)) | np.uint64(i)
        drawn += 1
    return drawn - first, wanted, key_low, key_high


@kernel("i8(f4[:,::1], i8, i8, i8, u8[::1], u4[::1], u8[::1], i8[:,::1])", parallel=True)
def _measure(
    records: Any,
    width: int,
    height: int,
    threads: int,
    info: Any,
    spans: Any,
    keys: Any,
    shares: Any,
) -> int:
    """Measure all records; `shares` (threads, 4) gets each share's drawn, spans and key range. Returns spans needed."""
    count = records.shape[0]
    room = spans.shape[0] // threads
    for part in prange(threads):
        t = np.int64(part)  # Numba counts prange in uint64, which turns into float64 beside an int64
        shares[t, 0], shares[t, 1], shares[t, 2], shares[t, 3] = _measure_share(
            records,
            share(count, t, threads),
            share(count, t + 1, threads),
            width,
            height,
            info,
            spans,
            t * room,
            room - 16,
            keys,
        )
    most = 0
    for t in range(threads):
        most = max(most, shares[t, 1])
    return (most + 16) * threads


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
def _ask_ahead(order: Any, j: int, last: int, info: Any, spans: Any) -> None:
    """Prefetch what the splats further on in the depth order will read; they lie anywhere in memory."""
    far = element(order, min(j + 2 * _AHEAD, last - 1))
    prefetch(info, np.int64(far & np.uint64(0xFFFFFFFF)))
    near = element(order, min(j + _AHEAD, last - 1))
    prefetch(
        spans,
        np.int64(element(info, np.int64(near & np.uint64(0xFFFFFFFF))) >> np.uint64(32)),
    )


@inline
def _located(where: np.uint64) -> tuple[int, int, int]:
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
        _ask_ahead(order, j, last, info, spans)
        span, rows, row = _located(element(info, np.int64(element(order, j) & np.uint64(0xFFFFFFFF))))
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
def _sum_tiles(histogram: Any, first: int, last: int) -> int:
    total = 0
    for chunk in range(histogram.shape[0]):
        for tile in range(first, last):
            total += histogram[chunk, tile]
    return total


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
    """One thread's share of one stage of :func:`_order`."""
    threads = shares.shape[0]
    chunks = histogram.shape[0]
    tiles = histogram.shape[1] - 1
    step = stage // 2
    swapped = min(step, passes) % 2 == 1
    source = scratch if swapped else keys
    if step < passes:
        # The first pass also closes the gaps between the shares of the measuring stage.
        first = share(count, t, threads) if step == 0 else share(drawn, t, threads)
        last = first + shares[t, 0] if step == 0 else share(drawn, t + 1, threads)
        shift = np.uint64(32 + step * bits)
        if stage % 2 == 0:
            _count_digits(source, first, last, base, shift, digits, t)
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
    elif stage == 2 * passes:
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
        if stage == 2 * passes + 1:
            totals[t] = _sum_tiles(histogram, first, last)
        else:
            _place_lists(histogram, first, last, totals[t], start, tile_count)


@kernel(
    "i8(u8[::1], u8[::1], i8[:,::1], i8, i8, i8, i8, u8[::1], u4[::1], i4[:,::1], i4[:,::1], i8[::1],"
    " i4[::1], i8[::1])",
    parallel=True,
)
def _order(
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
    for stage in range(2 * passes + 3):
        if pairs <= _MAX_PAIRS:
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
        if stage < 2 * passes and stage % 2 == 0:
            offset = 0
            for digit in range(digits.shape[1]):
                for t in range(threads):
                    here = digits[t, digit]
                    digits[t, digit] = offset
                    offset += here
        elif stage == 2 * passes + 1:
            for t in range(threads):
                here = totals[t]
                totals[t] = pairs
                pairs += here
    start[tiles] = pairs
    return pairs


@device
def _fill_lists(
    order: Any,
    first: int,
    last: int,
    columns: int,
    info: Any,
    spans: Any,
    cursor: Any,
    base: int,
    ids: Any,
) -> None:
    for j in range(first, last):
        _ask_ahead(order, j, last, info, spans)
        index = np.int64(element(order, j) & np.uint64(0xFFFFFFFF))
        span, rows, row = _located(element(info, index))
        line = base + row * columns
        for k in range(span, span + rows):
            ends = np.int64(element(spans, k))
            for tile in range(line + (ends & 0xFFFF), line + (ends >> 16)):
                place = np.int64(element(cursor, tile))
                put(ids, place, index)
                put(cursor, tile, place + 1)
            line += columns


@kernel("void(u8[::1], i8, i8, u8[::1], u4[::1], i4[:,::1], i4[::1])", parallel=True)
def _fill(order: Any, drawn: int, columns: int, info: Any, spans: Any, cursor: Any, ids: Any) -> None:
    chunks = cursor.shape[0]
    for part in prange(chunks // 2):
        t = np.int64(part)
        for chunk in (t, chunks - 1 - t):
            _fill_lists(
                order,
                share(drawn, chunk, chunks),
                share(drawn, chunk + 1, chunks),
                columns,
                info,
                spans,
                cursor.reshape(-1),
                chunk * cursor.shape[1],
                ids,
            )


def check_records(records: NDArray[np.float32]) -> None:
    """Raise ValueError unless `records` is a C-contiguous writable float32 array of shape (N, 16)."""
    if records.ndim != 2 or records.shape[1] != RECORD or records.dtype != np.float32:
        raise ValueError(f"records: expected float32 of shape (N, {RECORD}), got {records.dtype} {records.shape}")
    if not (records.flags.c_contiguous and records.flags.writeable):
        raise ValueError("records: expected a C-contiguous, writable array")


def _order_splats(
    records: NDArray[np.float32], width: int, height: int, workspace: Workspace
) -> tuple[int, int, NDArray, NDArray, NDArray]:
    """All stages but the writing of lists: pairs, drawn, depth order, spans, write positions."""
    check_records(records)
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
        raise ValueError(f"width, height: expected 1 to {_MAX_SIDE} pixels, got {width}x{height}")
    count = len(records)
    threads = get_threads()
    info = workspace.array("bin.info", (count,), np.uint64)
    keys = workspace.array("bin.keys", (count,), np.uint64)
    shares = workspace.array("bin.shares", (threads, 4), np.int64)
    needed = max(workspace.capacity("bin.spans"), 4 * count + 16 * threads)
    while True:
        spans = workspace.array("bin.spans", (needed,), np.uint32)
        needed = _measure(records, width, height, threads, info, spans, keys, shares)
        if needed <= len(spans):
            break

    drawn = int(shares[:, 0].sum())
    spread = int(shares[:, 3].max()) - int(shares[:, 2].min())
    bits = max(1, spread.bit_length())
    passes = -(-bits // _MAX_DIGIT_BITS)
    bits = -(-bits // passes)
    columns, rows = -(-width // TILE), -(-height // TILE)
    tiles = columns * rows
    scratch = workspace.array("bin.scratch", (count,), np.uint64)
    digits = workspace.array("bin.digits", (threads, 1 << bits), np.int32)
    cursor = workspace.array("bin.cursor", (_CHUNKS_PER_THREAD * threads, tiles + 1), np.int32)
    start = workspace.array("bin.start", (tiles + 1,), np.int64)
    tile_count = workspace.array("bin.count", (tiles,), np.int32)
    totals = workspace.array("bin.totals", (threads,), np.int64)
    pairs = _order(
        keys,
        scratch,
        shares,
        count,
        columns,
        bits,
        passes,
        info,
        spans,
        digits,
        cursor,
        start,
        tile_count,
        totals,
    )
    return pairs, drawn, (keys if passes % 2 == 0 else scratch), spans, cursor


def count_pairs(records: NDArray[np.float32], width: int, height: int, workspace: Workspace) -> int:
    """Number of (tile, splat) pairs that :func:`bin_splats` would list: what its memory and the frame's time depend on.

    It costs about half of the binning and allocates nothing in proportion to the pairs (4 bytes each are needed for
    the lists). Tiles from an earlier call with this workspace become invalid.
    """
    return _order_splats(records, width, height, workspace)[0]


def bin_splats(records: NDArray[np.float32], width: int, height: int, workspace: Workspace) -> Tiles:
    """List the splats that touch each 8x8 tile, nearest first, equal depths in index order.

    Args:
        records: (N, 16) float32, C-contiguous; splats with a half extent of 0 are not drawn, nor those with NaN.
        width: image width in pixels.
        height: image height in pixels.
        workspace: holds the result until the next call.

    Raises:
        ValueError: wrong shape, dtype or image size.
        StudioError: more than 2³¹ − 1 pairs, or the system refuses the memory.
    """
    pairs, drawn, order, spans, cursor = _order_splats(records, width, height, workspace)
    if pairs > _MAX_PAIRS:
        raise StudioError(
            f"{pairs} (tile, Gaussian) pairs in one {width}x{height} image; at most {_MAX_PAIRS} are possible",
            fix="render a smaller image, or prune Gaussians that cover the whole view",
        )
    count = len(records)
    tiles = -(-width // TILE) * -(-height // TILE)
    info = workspace.array("bin.info", (count,), np.uint64)
    # Sixteen to spare: the rasteriser reads ahead.
    ids = workspace.array("bin.ids", (pairs + 16,), np.int32)
    _fill(order, drawn, -(-width // TILE), info, spans, cursor, ids)
    return Tiles(
        width=width,
        height=height,
        start=workspace.array("bin.start", (tiles + 1,), np.int64),
        count=workspace.array("bin.count", (tiles,), np.int32),
        ids=ids,
        info=info,
        pairs=pairs,
        drawn=drawn,
    )
