"""The blending rule of one tile, shared by the forward and backward passes so that both take the same decisions.

A tile is four blocks of 4x4 pixels, one vector each: 0 left top, 1 right top, 2 left bottom, 3 right bottom. Lane l of a
block is the pixel in row l // 4, column l % 4. Values of a whole tile are tuples of four vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .binning import LOG2_ALPHA_MIN, TILE
from .cache import inline
from .vec import any_lane, broadcast, exp2, fma, fnma, lane_index, load, minimum, select, splat, store, to_float

PIXELS = TILE * TILE
BLOCK = 16
"""Pixels of a block; a tile's scratch plane holds its blocks one after the other."""

ALPHA_MAX = float(np.float32(0.999))
TRANSMITTANCE_MIN = float(np.float32(1e-4))
LN2 = 0.6931471805599453
AHEAD = 12
"""How many splats ahead records are prefetched."""


@inline
def tile_axes(column: int, row: int) -> Any:
    """Pixel centres (x left, x right, y top, y bottom) of the blocks of the tile at this tile column and row."""
    lane = lane_index()
    x = to_float(lane & np.int32(3)) + np.float32(np.float32(column * TILE) + np.float32(0.5))
    y = to_float(lane >> 2) + np.float32(np.float32(row * TILE) + np.float32(0.5))
    return x, x + np.float32(4.0), y, y + np.float32(4.0)


@inline
def inside_image(axes: Any, width: int, height: int) -> Any:
    """Masks of the tile's pixels that lie in the image."""
    left, right = axes[0] < np.float32(width), axes[1] < np.float32(width)
    top, bottom = axes[2] < np.float32(height), axes[3] < np.float32(height)
    return left & top, right & top, left & bottom, right & bottom


@inline
def splat_offsets(records: Any, base: int, axes: Any) -> Any:
    """Pixel centres minus the splat's centre: (dx left, dx right, dy top, dy bottom)."""
    x = broadcast(records, base)
    y = broadcast(records, base + 1)
    return axes[0] - x, axes[1] - x, axes[2] - y, axes[3] - y


@inline
def splat_exponents(records: Any, base: int, offsets: Any) -> Any:
    """log2 of opacity times the Gaussian, for the four blocks: L + A dx² + (B dx + C dy) dy."""
    left, right, top, bottom = offsets
    a = broadcast(records, base + 2)
    b = broadcast(records, base + 3)
    c = broadcast(records, base + 4)
    level = broadcast(records, base + 5)
    along_left = fma(a * left, left, level)
    along_right = fma(a * right, right, level)
    cross_left = b * left
    cross_right = b * right
    return (
        fma(fma(c, top, cross_left), top, along_left),
        fma(fma(c, top, cross_right), top, along_right),
        fma(fma(c, bottom, cross_left), bottom, along_left),
        fma(fma(c, bottom, cross_right), bottom, along_right),
    )


@inline
def hits(exponents: Any, live: Any) -> Any:
    """Masks of the live pixels where alpha >= 1/255."""
    return (
        live[0] & (exponents[0] >= np.float32(LOG2_ALPHA_MIN)),
        live[1] & (exponents[1] >= np.float32(LOG2_ALPHA_MIN)),
        live[2] & (exponents[2] >= np.float32(LOG2_ALPHA_MIN)),
        live[3] & (exponents[3] >= np.float32(LOG2_ALPHA_MIN)),
    )


@inline
def any_of(masks: Any) -> Any:
    """True if any pixel of the tile is set."""
    return any_lane((masks[0] | masks[1]) | (masks[2] | masks[3]))


@inline
def absorb(exponent: Any, hit: Any, transmittance: Any) -> Any:
    """Let one block's light pass a splat: (raw alpha, alpha, weight, transmittance after, pixels that took it).

    A pixel whose transmittance would fall to 1e-4 does not take the splat, and takes none after it.
    Alpha is 0 where not hit, and the transmittance then unchanged, so those pixels pass.
    """
    raw = exp2(exponent)
    alpha = select(hit, minimum(raw, np.float32(ALPHA_MAX)), np.float32(0.0))
    after = fnma(alpha, transmittance, transmittance)
    passed = after > np.float32(TRANSMITTANCE_MIN)
    weight = select(passed, alpha * transmittance, np.float32(0.0))
    return raw, alpha, weight, select(passed, after, transmittance), passed


@inline
def accumulate(total: Any, weights: Any, value: Any) -> Any:
    """total + weights · value for the four blocks, with one value for the tile."""
    return (
        fma(weights[0], value, total[0]),
        fma(weights[1], value, total[1]),
        fma(weights[2], value, total[2]),
        fma(weights[3], value, total[3]),
    )


@inline
def filled(value: float) -> Any:
    """The four blocks full of one scalar."""
    v = splat(np.float32(value))
    return v, v, v, v


@inline
def load_plane(plane: Any, offset: int) -> Any:
    """The four blocks of a scratch plane."""
    return (
        load(plane, offset),
        load(plane, offset + BLOCK),
        load(plane, offset + 2 * BLOCK),
        load(plane, offset + 3 * BLOCK),
    )


@inline
def store_plane(plane: Any, offset: int, values: Any) -> None:
    """Write the four blocks to a scratch plane."""
    store(plane, offset, values[0])
    store(plane, offset + BLOCK, values[1])
    store(plane, offset + 2 * BLOCK, values[2])
    store(plane, offset + 3 * BLOCK, values[3])
