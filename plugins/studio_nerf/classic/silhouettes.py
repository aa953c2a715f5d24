"""What photos with alpha tell before any training: where nothing can be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from studio.marching import OccupancyGrid
from studio.scene import Photo, PhotoStore

_CLEAR = 2 / 255
"""Alpha below which a pixel shows nothing."""
_CELLS_AT_ONCE = 1 << 18


@torch.no_grad()
def carve(grid: OccupancyGrid, photos: PhotoStore) -> None:
    """Empty for good all cells of the grid's first level that some photo sees through.

    Nothing in such a cell may be seen in that photo, whose pixels there and a cell's size around are clear. What is
    left contains the visual hull (Laurentini 1994). Photos without alpha carve nothing.

    Args:
        grid: Of one level, on the CPU; loses cells.
        photos: The training photos.
    """
    resolution = grid.resolution
    side = (grid.box[1] - grid.box[0]) / resolution
    radius = float(side.norm()) / 2
    possible = torch.ones(resolution**3, dtype=torch.bool)
    for photo in photos:
        alpha = photo.alpha
        if alpha is None:
            continue
        index = possible.nonzero()[:, 0]
        for part in index.split(_CELLS_AT_ONCE):
            cell = torch.stack([part // resolution**2, part // resolution % resolution, part % resolution], dim=-1)
            possible[part] &= ~_is_clear(photo, alpha, grid.box[0] + (cell + 0.5) * side, radius)
    grid.density[0][~possible.view_as(grid.density[0])] = -1.0
    grid.set_cells(grid.cells & (grid.density >= 0))


def _is_clear(
    photo: Photo, alpha: Float[Tensor, "h w"], centers: Float[Tensor, "m 3"], radius: float
) -> Bool[Tensor, " m"]:
    """Which balls are seen whole, before nothing but clear pixels."""
    height, width = alpha.shape
    pixel, depth = photo.camera.project(centers)
    seen = (depth > 2 * radius) & photo.camera.sees(centers)
    if not bool(seen.any()):
        return seen
    # Half of the side of a square that holds the ball's picture, with some room for what perspective stretches off the
    # axis, and a pixel more for the photo's own filter.
    focal = float(torch.maximum(photo.camera.fx, photo.camera.fy))
    wanted = 1 + 1.1 * focal * radius / (depth - radius).clamp(min=radius)
    shown = (alpha >= _CLEAR).float()
    if photo.mask is not None:
        # What does not count could be anything.
        shown[~photo.mask] = 1.0
    column = pixel[:, 0].floor().long().clamp(0, width - 1)
    row = pixel[:, 1].floor().long().clamp(0, height - 1)
    clear = torch.zeros_like(seen)
    # Squares of a few sizes do for all depths; a cell whose square would fill the photo is left alone.
    reach, smaller = 2, 0
    while smaller < min(width, height) / 2:
        chosen = (seen & (wanted > smaller) & (wanted <= reach)).nonzero()[:, 0]
        if len(chosen):
            # Beyond the photo's edge there could be something, too.
            padded = F.pad(shown, (reach, reach, reach, reach), value=1.0)[None, None]
            rows = F.max_pool2d(padded, (2 * reach + 1, 1), stride=1)
            around = F.max_pool2d(rows, (1, 2 * reach + 1), stride=1)[0, 0]
            clear[chosen] = around[row[chosen], column[chosen]] == 0
        smaller, reach = reach, 2 * reach
    return clear
