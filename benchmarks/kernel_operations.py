"""How many float operations the rasteriser does for the lists it was given.

Counted are the additions, subtractions, multiplications and divisions of float vectors that the kernels execute, one
for each lane, a fused multiply-add as two: as the 2 n^3 of a matrix product are counted. All 64 pixels of an 8x8 tile
count for each splat the tile looks at, whether or not they are covered, since they are computed. What pixels of a tile
share (the offsets of a row, say) counts once. Not counted: comparisons, selections, masks, integer operations (among
them the exponent's of 2^x), absolute values, minima, loads and stores, work once a tile, and scalar work once a splat.

A splat of a list costs the exponent test where no live pixel of the tile is covered, and the whole blend where one is.
The backward pass walks only the latter.
"""

from __future__ import annotations

PIXELS = 64
"""Of a tile."""

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
