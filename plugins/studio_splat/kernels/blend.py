"""The blending rule of one tile, shared by the forward and backward passes so that both take the same decisions.

A tile of 8x8 pixels is cut into *strips* of one or two rows, one register each: lane l of a strip is the pixel in its
row l // 8, column l % 8. A scratch plane holds the tile's pixels row by row, so a strip is a run of it.

Splats are taken in batches, and a strip goes through a whole batch before the next one does. So only the light and the
colour of one register of pixels are alive at once, which leaves most of AVX2's sixteen registers to constants and to
what is being computed. What the rows of a tile have to themselves is computed once a splat, for all eight at a time,
and tells which rows the splat can reach at all: strips without one never see it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from studio.kernels.cache import inline
from studio.kernels.target import has_wide_registers
from studio.kernels.vec import (
    bits_of,
    broadcast_pair,
    element,
    exp2,
    fma,
    fnma,
    from_bits,
    joined,
    lane_bits,
    lane_index,
    lane_index8,
    load,
    load8,
    maximum,
    minimum,
    select,
    splat,
    splat8,
    store,
    to_float,
)

from .records import LOG2_ALPHA_MIN, REST, SHEAR, SLOPE, TILE

PIXELS = TILE * TILE
STRIP_ROWS = 2 if has_wide_registers() else 1
"""Rows of a strip, so that a strip is one register of sixteen lanes, or of eight (two of four on NEON)."""
STRIP = STRIP_ROWS * TILE
"""Pixels of a strip."""
STRIPS = TILE // STRIP_ROWS
ROW_TERMS = 2 * TILE
"""Floats that `measure_rows` writes for a splat."""
ALPHA_MAX = float(np.float32(0.999))
TRANSMITTANCE_MIN = float(np.float32(1e-4))
LN2 = 0.6931471805599453


if STRIP_ROWS == 2:
    load_strip, fill_strip, _lanes = load, splat, lane_index
else:
    load_strip, fill_strip, _lanes = load8, splat8, lane_index8


@inline
def strip_columns() -> Any:
    """The column of each lane of a strip: 0 to 7."""
    return to_float(_lanes() & np.int32(7))


@inline
def strip_rows(strip: int) -> int:
    """The rows of a strip, as bits."""
    return np.int64(3 if STRIP_ROWS == 2 else 1) << (strip * STRIP_ROWS)


@inline
def first_bits(count: int) -> int:
    """The lowest `count` bits, 1 to 64 of them."""
    return np.int64(-1) if count == 64 else (np.int64(1) << count) - np.int64(1)


@inline
def row_centres(row: int) -> Any:
    """y of the pixel centres in the eight rows of the tiles in this tile row."""
    return to_float(lane_index8()) + np.float32(np.float32(row * TILE) + np.float32(0.5))


@inline
def inside_strip(strip: int, column: int, row: int, width: int, height: int) -> Any:
    """Which pixels of a strip of the tile at this tile column and row lie in the image."""
    lane = _lanes()
    x = (lane & np.int32(7)) + np.int32(column * TILE)
    y = (lane >> 3) + np.int32(row * TILE + STRIP_ROWS * strip)
    return (x < np.int32(width)) & (y < np.int32(height))


@inline
def load_image_strip(image: Any, corner: int, width: int) -> Any:
    """A strip of a plane of `width` columns, from the flat element `corner` on."""
    if STRIP_ROWS == 2:
        return joined(load8(image, corner), load8(image, corner + width))
    return load8(image, corner)


@inline
def measure_rows(records: Any, base: int, left: Any, centres: Any, terms: Any, at: int) -> int:
    """Write a splat's terms of the tile's rows, and return the rows that it can reach as bits.

    L + A dx² + B dx dy + C dy² is evaluated with the square completed: (L + (C − B² / 4A) dy²) − u², where
    u = √−A (dx + B dy / 2A) = √−A · column + s. For a needle the three terms are large and cancel, which would cost
    float32 several digits. The terms of a row are s (eight, then) and L + (C − B² / 4A) dy² (eight).

    A row is reached if the exponent at the column nearest to u = 0, whole or not, is enough for alpha = 1/255. Rounding
    keeps order, so no pixel that is drawn is missed.

    Args:
        left: x of the pixel centres in the tile's first column.
        centres: `row_centres` of the tile.
    """
    slope = element(records, base + SLOPE)
    dx = slope * np.float32(left - element(records, base))
    dy = centres - element(records, base + 1)
    s = fma(dy, element(records, base + SHEAR), splat8(dx))
    level = fma(dy * element(records, base + REST), dy, splat8(element(records, base + 5)))
    store(terms, at, s)
    store(terms, at + TILE, level)
    last = fma(splat8(np.float32(TILE - 1)), slope, s)
    nearest = maximum(maximum(s, -last), np.float32(0.0))
    return lane_bits(fnma(nearest, nearest, level) >= np.float32(LOG2_ALPHA_MIN))


@inline
def _row_values(terms: Any, at: int) -> Any:
    """The value of each row of a strip in the lanes of that row."""
    if STRIP_ROWS == 2:
        return broadcast_pair(terms, at)
    return splat8(element(terms, at))


@inline
def strip_exponent(terms: Any, at: int, strip: int, slope: Any, columns: Any) -> Any:
    """log2 of opacity times the Gaussian in a strip, from what `measure_rows` wrote at `at`; slope is √−A."""
    u = fma(columns, slope, _row_values(terms, at + STRIP_ROWS * strip))
    return fnma(u, u, _row_values(terms, at + TILE + STRIP_ROWS * strip))


@inline
def is_drawn(exponent: Any) -> Any:
    """Pixels whose alpha is at least 1/255."""
    return exponent >= np.float32(LOG2_ALPHA_MIN)


@inline
def alpha_of(exponent: Any, drawn: Any) -> Any:
    """min(0.999, 2^exponent), and 0 where that is not drawn."""
    return select(drawn, minimum(exp2(exponent), np.float32(ALPHA_MAX)), np.float32(0.0))


@inline
def pass_light(alpha: Any, light: Any) -> Any:
    """Let the light of a strip pass a splat: (weight, light after).

    A pixel whose transmittance would fall to 1e-4 does not take the splat, and must take none after it: its light turns
    negative, which is how pixels that have ended are known.
    """
    after = fnma(alpha, light, light)
    passed = after > np.float32(TRANSMITTANCE_MIN)
    ended = from_bits(bits_of(light) | np.int32(-(2**31)))
    return select(passed, alpha * light, np.float32(0.0)), select(passed, after, ended)
