"""How many float operations the rasteriser's lists take, and how many the kernels execute.

The yardstick, by which kernels of any kind are compared, is what blending *every* pixel of a tile with every splat of
its list takes: additions, subtractions, multiplications and divisions, one for each pixel, a fused multiply-add as two,
as the 2 n^3 of a matrix product are counted. What pixels of a tile share (the offsets of a row, say) counts once. Not
counted: comparisons, selections, masks, integer operations (among them the exponent's of 2^x), absolute values, minima,
loads and stores, work once a tile, and scalar work once a splat. A splat of a list costs the exponent test where no
live pixel of the tile is covered, and the whole blend where one is. The backward pass walks only the latter.

The kernels need fewer: they pass over the rows of a tile that a splat cannot reach. `executed_forward` and
`executed_backward` count what is left, with the operations of the compiled code, which the tests compare.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from studio_splat.kernels.records import LOG2_ALPHA_MIN, REST, SHEAR, SLOPE, TILE

if TYPE_CHECKING:
    from studio_splat.kernels.binning import Tiles

PIXELS = 64
"""Of a tile."""
ROW = 8
"""Pixels of a row of a tile."""

# For each pixel of a tile and each splat of its list; a tile is four vectors, so a vector operation is 1/4 each.
EXPONENT = 1 + 1.5 + 5
"""dx and dy (4 vectors); C dy² + L for two halves (a product and an FMA each); the rest, an FMA, a product, an FMA."""
ALPHA = 3 + 5 * 2
"""2^x: rounding by three additions, a polynomial of degree five."""
LIGHT = 2 + 1
"""Transmittance behind the splat (an FMA), and the weight."""
LIGHT_GRADIENT = 2 + 1 + 1 + 1 + 1 + 1 + 2
"""Both again; the splat's share and what is left behind it; dL/dexponent, by a difference, a quotient and an FMA."""
MOMENTS = 36 / 4
"""Six moments of dL/dexponent over the tile, in 36 vector operations that share rows and columns."""
ABSOLUTE = 34 / 4
"""|d/dx| and |d/dy| of every pixel, summed over blocks."""
_LANE_SUM = (15 + 2) / PIXELS
"""Adding up the lanes of one sum, and adding it to the gradient row by an FMA."""


EXECUTED_ROWS = 10 * ROW
"""Once a splat, eight rows at a time: dy, the two terms of a row (an FMA; a product and an FMA), and the test whether
it is reached (two FMAs)."""
EXECUTED_EXPONENT = 2 * 2
"""The rest of the exponent, two FMAs a pixel."""
EXECUTED_MOMENTS = 1 + 1 + 1 + 2
"""Sums over the rows of a column: of g, g dy (a product) and g dy^2 (an FMA)."""
EXECUTED_ABSOLUTE = 2 * (2 + 2)
"""|d/dx| and |d/dy|, an FMA and another to add it up."""


def rows_reached(records: NDArray[np.float32], tiles: Tiles) -> int:
    """Rows of tiles that the splats of the lists can reach, by the rule of `measure_rows`, here with NumPy."""
    count = tiles.count.astype(np.int64)
    tile = np.repeat(np.arange(len(count)), count)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    splats = records[tiles.ids[tiles.start[:-1][tile] + within]]
    slope = splats[:, SLOPE]
    start = slope * ((tile % tiles.columns) * TILE + 0.5 - splats[:, 0])
    dy = ((tile // tiles.columns) * TILE + 0.5 + np.arange(TILE)[:, None]) - splats[:, 1]
    left = start + splats[:, SHEAR] * dy
    nearest = np.maximum(np.maximum(left, -(left + (TILE - 1) * slope)), 0.0)
    return int((splats[:, 5] + splats[:, REST] * dy * dy - nearest * nearest >= LOG2_ALPHA_MIN).sum())


def executed_forward(looked_at: int, blended_rows: int, channels: int) -> float:
    """Float operations that `rasterize_forward` executes, at least.

    Args:
        looked_at: As in `forward_operations`.
        blended_rows: Rows of tiles that the blended splats can reach; those of other splats are left out.
        channels: Blended channels.
    """
    return EXECUTED_ROWS * looked_at + ROW * blended_rows * (EXECUTED_EXPONENT + ALPHA + LIGHT + 2 * channels)


def executed_backward(blended: int, blended_rows: int, channels: int, *, absgrad: bool) -> float:
    """Float operations that `rasterize_backward` executes, without those of adding up lanes."""
    color = 4 * channels - 1  # c·v, and weight · v summed over rows
    each = EXECUTED_EXPONENT + ALPHA + color + LIGHT_GRADIENT + EXECUTED_MOMENTS
    return EXECUTED_ROWS * blended + ROW * blended_rows * (each + (EXECUTED_ABSOLUTE if absgrad else 0))


def forward_operations(looked_at: int, blended: int, channels: int) -> float:
    """Float operations of `rasterize_forward`.

    Args:
        looked_at: Splats whose exponents were evaluated, summed over tiles (`Raster.evaluated`).
        blended: Splats that at least one pixel took in, summed over tiles (`Tiles.count` afterwards).
        channels: Blended channels.
    """
    return PIXELS * (looked_at * EXPONENT + blended * (ALPHA + LIGHT + 2 * channels))


def backward_operations(blended: int, channels: int, *, absgrad: bool) -> float:
    """Float operations of `rasterize_backward` over the lists that the forward pass left (colours in the records)."""
    color = 2 * channels - 1  # c·v of each pixel
    color_sums = 7 / 4 * channels  # weight · v over four blocks: a product and three FMAs a channel
    sums = 6 + channels + (2 if absgrad else 0)
    each = EXPONENT + ALPHA + color + LIGHT_GRADIENT + MOMENTS + color_sums + sums * _LANE_SUM
    return PIXELS * blended * (each + (ABSOLUTE if absgrad else 0.0))
