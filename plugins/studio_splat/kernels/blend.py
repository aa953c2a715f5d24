"""The blending rule of one tile, shared by the forward and backward passes so that both take the same decisions.

A tile is four blocks of 4x4 pixels, one vector each: 0 left top, 1 right top, 2 left bottom, 3 right bottom. Lane l of
a block is the pixel in row l // 4, column l % 4. Values of a whole tile are tuples of four vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from studio.kernels.cache import inline
from studio.kernels.vec import (
    any_lane,
    broadcast,
    exp2,
    fma,
    fnma,
    lane_index,
    load,
    minimum,
    select,
    splat,
    store,
    to_float,
)

from .records import LOG2_ALPHA_MIN, SHEAR, TILE

PIXELS = TILE * TILE
BLOCK = 16
"""Pixels of a block; a tile's scratch plane holds its blocks one after the other."""

ALPHA_MAX = float(np.float32(0.999))
TRANSMITTANCE_MIN = float(np.float32(1e-4))
LN2 = 0.6931471805599453
AHEAD = 12
"""How many splats ahead records are prefetched."""


@inline
def in_plane(x: int, y: int) -> int:
    """Where the pixel (x, y) of a tile stands in a scratch plane."""
    return (y >> 2) * (2 * BLOCK) + (x >> 2) * BLOCK + (y & 3) * 4 + (x & 3)


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
def full_light(axes: Any, width: int, height: int) -> Any:
    """Transmittance before the first splat: 1, and 0 for pixels outside the image."""
    inside = inside_image(axes, width, height)
    one, zero = np.float32(1.0), np.float32(0.0)
    return (
        select(inside[0], one, zero),
        select(inside[1], one, zero),
        select(inside[2], one, zero),
        select(inside[3], one, zero),
    )


@inline
def splat_offsets(records: Any, base: int, axes: Any) -> Any:
    """Pixel centres minus the splat's centre: (dx left, dx right, dy top, dy bottom)."""
    x = broadcast(records, base)
    y = broadcast(records, base + 1)
    return axes[0] - x, axes[1] - x, axes[2] - y, axes[3] - y


@inline
def _exponent(dx: Any, dy: Any, shear: Any, a: Any, level: Any) -> Any:
    u = fma(shear, dy, dx)
    return fma(a * u, u, level)


@inline
def splat_exponents(records: Any, base: int, offsets: Any) -> Any:
    """log2 of opacity times the Gaussian, for the four blocks.

    L + A dx² + B dx dy + C dy² is evaluated with the square completed, L + A (dx + B dy / 2A)² + (C − B² / 4A) dy²: for
    a needle the three terms are large and cancel, which would cost float32 several digits.
    """
    left, right, top, bottom = offsets
    a = broadcast(records, base + 2)
    level = broadcast(records, base + 5)
    shear = broadcast(records, base + SHEAR)
    rest = broadcast(records, base + SHEAR + 1)
    level_top = fma(rest * top, top, level)
    level_bottom = fma(rest * bottom, bottom, level)
    return (
        _exponent(left, top, shear, a, level_top),
        _exponent(right, top, shear, a, level_top),
        _exponent(left, bottom, shear, a, level_bottom),
        _exponent(right, bottom, shear, a, level_bottom),
    )


@inline
def _alpha(exponent: Any) -> Any:
    drawn = exponent >= np.float32(LOG2_ALPHA_MIN)
    return select(drawn, minimum(exp2(exponent), np.float32(ALPHA_MAX)), np.float32(0.0))


@inline
def alphas(exponents: Any) -> Any:
    """min(0.999, 2^exponent) for the four blocks, and 0 where that is below 1/255."""
    return _alpha(exponents[0]), _alpha(exponents[1]), _alpha(exponents[2]), _alpha(exponents[3])


@inline
def any_of(masks: Any) -> Any:
    """True if any pixel of the tile is set."""
    return any_lane((masks[0] | masks[1]) | (masks[2] | masks[3]))


@inline
def any_drawn(exponents: Any, live: Any) -> Any:
    """True if a live pixel of the tile has alpha >= 1/255."""
    low = np.float32(LOG2_ALPHA_MIN)
    return any_of(
        (
            live[0] & (exponents[0] >= low),
            live[1] & (exponents[1] >= low),
            live[2] & (exponents[2] >= low),
            live[3] & (exponents[3] >= low),
        )
    )


@inline
def pass_light(alpha: Any, light: Any) -> Any:
    """Let one block's light pass a splat: (weight, light after, pixels that took it).

    A pixel whose transmittance would fall to 1e-4 does not take the splat, and must take none after it. Where alpha is
    0 the light is unchanged, so those pixels count as having taken it.
    """
    after = fnma(alpha, light, light)
    passed = after > np.float32(TRANSMITTANCE_MIN)
    return select(passed, alpha * light, np.float32(0.0)), select(passed, after, light), passed


@inline
def scaled(values: Any, factor: Any) -> Any:
    """values · factor for the four blocks."""
    return values[0] * factor, values[1] * factor, values[2] * factor, values[3] * factor


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
