"""Closed surfaces from volumes: marching cubes over a density, or over what depth pictures leave of a box.

Volumes are (x, y, z) grids of the values at the centres of cubic voxels, positive inside of matter and negative
outside. A layer of outside is put around them, so that every surface is closed: where matter reaches the box, the box
closes it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from studio.errors import MissingDependencyError, StudioError
from studio.export.mesh import Mesh
from studio.export.views import View

_POINTS_AT_ONCE = 1 << 18
_LEAST = 1e-3
"""Least absolute value: surfaces keep this part of a voxel away from its corners, so that no triangle degenerates."""
_MANY = 0.25
"""Share of the pictures that must show a place as hidden for it to be solid."""
_REPAIRS = 20
"""Most rounds of filling places where sheets of a surface touch."""
_FILLED = 0.1
"""Value that fills them."""
_BAND = 3.0
"""Voxels in front of and behind a surface over which a depth picture says how far it is."""


@dataclass(frozen=True, eq=False)
class VoxelGrid:
    """Cubic voxels that cover a box."""

    low: Float[Tensor, " 3"]
    """Corner of the first voxel."""
    side: float
    """Of a voxel."""
    shape: tuple[int, int, int]

    @classmethod
    def of_box(cls, box: Float[Tensor, "2 3"], resolution: int) -> VoxelGrid:
        """So many voxels along the longest side of the box; the others are covered, too."""
        extent = (box[1] - box[0]).double()
        side = float(extent.max()) / resolution
        count = [max(int(-(-float(length) // side)), 1) for length in extent]
        margin = (torch.tensor(count) * side - extent) / 2
        return cls((box[0].double() - margin).float(), side, (count[0], count[1], count[2]))

    def points(self, start: int, stop: int) -> Float[Tensor, "n 3"]:
        """Centres of the voxels start to stop in row-major order."""
        index = torch.arange(start, stop)
        _, ny, nz = self.shape
        cell = torch.stack([index // (ny * nz), index // nz % ny, index % nz], dim=-1)
        return self.low + (cell + 0.5) * self.side

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]


def density_volume(
    density: Callable[[Float[Tensor, "m 3"]], Float[Tensor, " m"]],
    grid: VoxelGrid,
    threshold: float,
    *,
    device: torch.device | str = "cpu",
    on_part: Callable[[float], object] = lambda share: None,
) -> Float[Tensor, "x y z"]:
    """``density / threshold - 1``, at most 1.

    Raises:
        StudioError: No density reaches the threshold.
    """
    volume = torch.empty(len(grid))
    largest = 0.0
    for start in range(0, len(grid), _POINTS_AT_ONCE):
        stop = min(start + _POINTS_AT_ONCE, len(grid))
        found = density(grid.points(start, stop).to(device)).cpu()
        largest = max(largest, float(found.max()))
        volume[start:stop] = (found / threshold - 1).clamp(max=1)
        on_part(stop / len(grid))
    if largest <= threshold:
        raise StudioError(
            f"No density is above the threshold {threshold:.4g} (the largest is {largest:.4g}): there is no surface.",
            fix="Train the run further, or give a smaller --threshold.",
        )
    return volume.reshape(grid.shape)


def occupancy_volume(
    views: Sequence[View], grid: VoxelGrid, *, on_view: Callable[[], object] = lambda: None
) -> Float[Tensor, "x y z"]:
    """Signed distance behind the surfaces of depth pictures, in bands of three voxels, from -1 to 1.

    Each view tells, for the voxels that it sees or that lie little behind what it sees, how far they are from its
    surface (Curless and Levoy 1996); their mean is taken. What is hidden in many pictures and seen in none is
    taken for solid, which closes the surface; what is in few pictures is outside.
    """
    total, weight = torch.zeros(len(grid)), torch.zeros(len(grid))
    pictured = torch.zeros(len(grid))
    band = _BAND * grid.side
    for view in views:
        surface, solid = view.depth.flatten(), view.solid.flatten()
        for start in range(0, len(grid), _POINTS_AT_ONCE):
            stop = min(start + _POINTS_AT_ONCE, len(grid))
            index, depth, inside = view.look_up(grid.points(start, stop))
            behind = torch.where(solid[index], (depth - surface[index]) / band, torch.full_like(depth, -1.0))
            counts = inside & (behind < 1)
            total[start:stop] += torch.where(counts, behind.clamp(min=-1), torch.zeros_like(behind))
            weight[start:stop] += counts
            pictured[start:stop] += inside
        on_view()
    if not bool((total < 0).any()):
        raise StudioError("No render sees into the box of the export.", fix="Give another --crop.")
    hidden = torch.where(pictured >= _MANY * len(views), 1.0, -1.0)
    return torch.where(weight > 0, total / weight.clamp(min=1), hidden).reshape(grid.shape)


def marching_cubes(volume: Float[Tensor, "x y z"], grid: VoxelGrid) -> Mesh:
    """The closed surface between positive and negative values (Lewiner et al. 2003), in the frame of the grid.

    Raises:
        MissingDependencyError: scikit-image is not installed.
        StudioError: Everything is negative.
    """
    require_marching_cubes()
    from skimage.measure import marching_cubes as lewiner

    if not bool((volume > 0).any()):
        raise StudioError("The volume is empty: there is no surface.", fix="Train the run further.")
    away = torch.where(volume >= 0, volume.clamp(min=_LEAST), volume.clamp(max=-_LEAST))
    padded = torch.nn.functional.pad(away, (1,) * 6, value=-1.0)
    for _ in range(_REPAIRS):
        vertices, faces, _, _ = lewiner(padded.numpy(), level=0.0, gradient_direction="ascent")
        pinched = _pinched_edges(faces)
        if len(pinched) == 0:
            break
        # Where two sheets touch along an edge, the cube around it is filled: then they are one.
        middle = vertices[pinched].mean(axis=1)
        corner = torch.from_numpy(np.floor(middle)).long().clamp(min=1)
        for step in torch.cartesian_prod(*[torch.arange(2)] * 3):
            x, y, z = torch.minimum(corner + step, torch.tensor(padded.shape) - 2).unbind(-1)
            padded[x, y, z] = padded[x, y, z].clamp(min=_FILLED)
    # Index 1 of the padded volume is the centre of the first voxel.
    placed = torch.from_numpy(vertices.copy()).double() - 0.5
    return Mesh((grid.low + placed * grid.side).float(), torch.from_numpy(faces.astype("int64")))


def _pinched_edges(faces: np.ndarray) -> np.ndarray:
    """Edges (n, 2) that do not belong to exactly two faces."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1).astype(np.int64)
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    edges = edges[order]
    first = np.concatenate([[True], (edges[1:] != edges[:-1]).any(axis=1)])
    starts = np.flatnonzero(first)
    counts = np.diff(np.append(starts, len(edges)))
    return edges[starts[counts != 2]]


def require_marching_cubes() -> None:
    """Raise MissingDependencyError unless scikit-image is there."""
    if importlib.util.find_spec("skimage") is None:
        raise MissingDependencyError("scikit-image", "mesh", purpose="Marching cubes")
