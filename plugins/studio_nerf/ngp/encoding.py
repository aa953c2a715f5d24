"""The multiresolution hash encoding as a module: its levels, its table, and the reference in plain torch."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from studio_nerf.ngp.kernels.hash_grid import FEATURES, PRIMES, GridArrays

_ROW_MULTIPLE = 16
_SMOOTH_CELLS = 200


class HashGrid(nn.Module):
    """Features of points, interpolated in grids of growing resolution (Müller et al. 2022, section 3).

    A level whose vertices fit into its rows has a row each; else they share rows by a hash of their coordinates.

    Args:
        levels: Number of grids; a multiple of 4.
        coarsest: Cells a side of the first grid.
        finest: Cells a side of the last; those between grow geometrically.
        log2_rows: Most rows of a level, as a power of 2.
    """

    def __init__(self, levels: int, coarsest: int, finest: int, log2_rows: int) -> None:
        super().__init__()
        growth = (finest / coarsest) ** (1 / max(levels - 1, 1))
        cells = [round(coarsest * growth**level) for level in range(levels)]
        most = 2**log2_rows
        dense = [(n + 1) ** 3 <= most for n in cells]
        rows = [
            -(-((n + 1) ** 3) // _ROW_MULTIPLE) * _ROW_MULTIPLE if fits else most
            for n, fits in zip(cells, dense, strict=True)
        ]
        self.cells = tuple(cells)
        self.arrays: GridArrays = (
            np.array(cells, np.float32),
            np.array([n + 1 if fits else 0 for n, fits in zip(cells, dense, strict=True)], np.int32),
            np.array([count - 1 for count in rows], np.int32),
            np.array([0, *np.cumsum(rows)], np.int64),
        )
        """What the kernels take."""
        self.table = nn.Parameter(torch.empty(sum(rows), FEATURES))
        nn.init.uniform_(self.table, -1e-4, 1e-4)

    @property
    def width(self) -> int:
        """Features of a point."""
        return FEATURES * len(self.cells)

    @property
    def most_rows(self) -> int:
        """Rows of the largest level."""
        return int(self.arrays[2].max()) + 1

    def decays(self, fine: float) -> NDArray[np.float32]:
        """What values lose of themselves in a step, for each level: `fine` in the finer half, nothing in the others.

        The coarse levels say where something is, and without them all of space would be equally dense; fine ones that
        shrink where they are not needed leave less for each photo to explain by itself.
        """
        levels = len(self.cells)
        return np.where(np.arange(levels) >= levels // 2, fine, 0.0).astype(np.float32)

    def row_decays(self, fine: float) -> Float[Tensor, "rows 1"]:
        """The same for each row of the table."""
        rows = torch.from_numpy(np.diff(self.arrays[3])).to(self.table.device)
        by_level = torch.from_numpy(self.decays(fine)).to(self.table)
        return by_level.repeat_interleave(rows, output_size=len(self.table))[:, None]

    @property
    def smooth_levels(self) -> int:
        """Number of levels that shape surface normals: finer ones hold texture, and bend the density more than they
        move its surfaces."""
        return max(1, sum(n <= _SMOOTH_CELLS for n in self.cells))

    def forward(self, positions: Float[Tensor, "m 3"], moving_levels: int | None = None) -> Float[Tensor, "m width"]:
        """Features of positions in [0, 1]^3, in their dtype; differentiable in positions and table.

        Args:
            positions: Where.
            moving_levels: Only so many levels, from the coarsest on, pass gradients to the positions; None: all.
        """
        _, strides, masks, offsets = (array.tolist() for array in self.arrays)
        corner = torch.tensor([[c & 1, c >> 1 & 1, c >> 2] for c in range(8)], device=positions.device)
        outputs = []
        for level, n in enumerate(self.cells):
            moving = moving_levels is None or level < moving_levels
            scaled = (positions if moving else positions.detach()) * n
            low = scaled.detach().floor().clamp(0, n - 1)
            within = (scaled - low)[:, None]
            vertex = low.long()[:, None] + corner
            if strides[level]:
                stride = strides[level]
                row = vertex[..., 0] + vertex[..., 1] * stride + vertex[..., 2] * stride**2
            else:
                mixed = vertex * torch.tensor(PRIMES, device=vertex.device)
                row = (mixed[..., 0] ^ mixed[..., 1] ^ mixed[..., 2]) & masks[level]
            weight = torch.where(corner.bool(), within, 1 - within).prod(dim=-1)
            values = self.table[offsets[level] + row].to(positions.dtype)
            outputs.append((weight[..., None] * values).sum(dim=1))
        return torch.cat(outputs, dim=-1)
