"""The tiles that each splat touches: for every row of tiles, the columns that the ellipse alpha = 1/255 reaches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import prange

from studio.kernels.cache import device, inline, kernel
from studio.kernels.vec import ceil, floor, lane_index8, maximum, minimum, select, splat8, sqrt, store, to_float, to_int

from .records import LOG2_ALPHA_MIN, REST, SHEAR, SLOPE, TILE
from .shares import share

_PIXEL_SLACK = 0.01
"""Pixels by which a splat's extent is widened, more than float32 rounding can move the ellipse."""


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
        if not (level > 0.0 and a > 0.0):
            continue
        # In double: the determinant of a needle is a small difference of large products.
        exact = 4.0 * np.float64(a) * np.float64(c) - np.float64(b) * np.float64(b)
        inverse = 0.25 / np.float64(a)
        slope = math.sqrt(np.float64(a))
        records[i, SHEAR] = np.float32(slope * (2.0 * np.float64(b) * inverse))
        records[i, REST] = np.float32(-exact * inverse)
        records[i, SLOPE] = np.float32(slope)
        determinant = np.float32(exact)
        half_x = records[i, 10]
        half_y = records[i, 11]
        is_ellipse = determinant > 0.0
        if is_ellipse:
            level = level * np.float32(1.00001) + np.float32(1e-5)
            spread = np.float32(4.0) / determinant
            level = level + np.float32(5e-7) * (level * spread) * (a * c) * np.float32(2.0)
            scale = level * spread
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
            half_inverse = np.float32(2.0 * inverse)
            reach = np.float32(4.0) * a * level
            # Eight rows of tiles at a time: few splats reach more.
            for row in range(0, rows, 8):
                near = to_float(lane_index8() + np.int32(first_row + row)) * TILE + (np.float32(0.5) - y)
                if is_ellipse:
                    far = near + (TILE - 1)
                    y_right = minimum(maximum(near, y_extreme), far)
                    y_left = minimum(maximum(near, -y_extreme), far)
                    root_right = sqrt(maximum(reach - y_right * y_right * determinant, 0.0))
                    root_left = sqrt(maximum(reach - y_left * y_left * determinant, 0.0))
                    left = x + (y_left * -b - root_left) * half_inverse - (0.5 + _PIXEL_SLACK)
                    right = x + (y_right * -b + root_right) * half_inverse + (_PIXEL_SLACK - 0.5)
                else:
                    left = splat8(x - half_x - np.float32(0.5))
                    right = splat8(x + half_x - np.float32(0.5))
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
def measure_spans(
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
