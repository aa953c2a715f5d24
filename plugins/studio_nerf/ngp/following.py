"""Rays followed through the field: marched, encoded and given densities only as far as their light goes.

Most of a ray's occupied samples lie behind the surface that ends it. So a ray is marched in stretches, each twice as
long as the one before, and each stretch is encoded in rounds; rays whose light has ended take no part in the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from studio.kernels.workspace import Workspace
from studio.marching import PackedSamples
from studio_nerf.ngp.encoding import HashGrid
from studio_nerf.ngp.engine import Further
from studio_nerf.ngp.kernels import hash_grid
from studio_nerf.ngp.kernels.evaluate import evaluate_density
from studio_nerf.ngp.kernels.layers import Weights
from studio_nerf.ngp.kernels.samples import depth_limit, follow_rays, place_samples, splice_samples
from studio_nerf.ngp.space import Space

LANES = 16
STRETCH = 32
"""Samples of a ray that are marched at first."""
_FIRST_ROUND = 8
"""Samples of a ray that are encoded before its light is looked at; later rounds take half as many as were before."""
_MOST_ROUNDS = 64


@dataclass(frozen=True)
class Followed:
    """Samples of rays that were encoded. Columns number them in the order in which that happened."""

    positions: NDArray[np.float32]
    """In the unit cube, (3, columns)."""
    features: NDArray[np.float32]
    """(levels, columns, 4)."""
    density: NDArray[np.float32]
    """By column."""
    samples: PackedSamples
    """The samples, of which at least those before `seen` were encoded."""
    columns: NDArray[np.int32]
    """Of the samples that were encoded."""
    seen: NDArray[np.int64]
    """End of each ray's encoded samples."""
    count: int
    """End of the columns."""


@dataclass(frozen=True)
class _Stretch:
    """Samples of some rays, marched together."""

    rays: NDArray[np.int32]
    samples: PackedSamples
    columns: NDArray[np.int32]
    seen: NDArray[np.int64]
    """End of the encoded samples of each of `rays`."""


class Follower:
    """Follows rays; what it returns are views of its buffers, good until the next call.

    Args:
        encoding: Encodes samples.
        space: Geometry.
    """

    def __init__(self, encoding: HashGrid, space: Space) -> None:
        self._encoding, self._space = encoding, space
        self._work = Workspace()
        self._room = 0
        self._everything = np.arange(0, dtype=np.int32)

    def follow(
        self,
        samples: PackedSamples,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        weights: Weights,
        early_stop: float,
        further: Further | None,
    ) -> Followed:
        """Encode samples from the cameras on, for as long as there is light; arguments as for `Engine.visible`."""
        depth = np.zeros(samples.rays, np.float32)
        rays, most, marched = np.arange(samples.rays, dtype=np.int32), STRETCH, STRETCH
        stretches: list[_Stretch] = []
        count = looked = 0
        while True:
            self._make_room(count, len(samples))
            stretch = self._new_stretch(rays, samples, len(stretches))
            count, looked = self._encode(stretch, (origins, directions), weights, early_stop, depth, count, looked)
            stretches.append(stretch)
            if further is None or marched >= further.most:
                break
            # Rays with fewer samples than were allowed have left the grid.
            offsets = samples.offsets.numpy()
            lit = (np.diff(offsets) == most) & (depth[rays] <= depth_limit(early_stop))
            if not lit.any():
                break
            ends = samples.ends[torch.from_numpy(offsets[1:][lit] - 1)]
            rays, most = rays[lit], min(2 * most, further.most - marched)
            marched += most
            samples = further.march(torch.from_numpy(rays).long(), ends, most)
        return self._joined(stretches, len(depth), count)

    def _new_stretch(self, rays: NDArray[np.int32], samples: PackedSamples, number: int) -> _Stretch:
        columns = self._work.array(f"columns.{number}", (len(samples),), np.int32)
        return _Stretch(rays, samples, columns, samples.offsets.numpy()[:-1].copy())

    def _encode(
        self, stretch: _Stretch, lines: tuple[Tensor, Tensor], weights: Weights, early_stop: float,
        depth: NDArray[np.float32], first: int, looked: int,
    ) -> tuple[int, int]:  # fmt: skip
        """Encode a stretch in rounds, from the column `first` on.

        Returns:
            The end of the columns, and how many samples of a ray rounds have looked at.
        """
        origins, directions = (line.numpy() for line in lines)
        samples = stretch.samples
        offsets, starts, ends = samples.offsets.numpy(), samples.starts.numpy(), samples.ends.numpy()
        positions, features, density = self._buffers()
        # By ray, of all rays.
        seen, stops = np.zeros((2, len(depth)), np.int64)
        seen[stretch.rays], stops[stretch.rays] = offsets[:-1], offsets[1:]
        rays, counts = stretch.rays.copy(), np.zeros(len(stretch.rays), np.int32)
        lit = len(rays)
        while True:
            most = max(_FIRST_ROUND, looked // 2)
            lit = follow_rays(
                lit, most, early_stop, stops, starts, ends, density, stretch.columns, seen, depth, rays, counts
            )
            if lit == 0:
                stretch.seen[:] = seen[stretch.rays]
                return first, looked
            looked += most
            places = np.zeros(lit + 1, np.int64)
            np.cumsum(counts[:lit], out=places[1:])
            places += first
            end = int(places[-1])
            place_samples(
                rays[:lit], places, seen, origins, directions, starts, ends, self._space.frame, self._space.contracted,
                positions, stretch.columns,
            )  # fmt: skip
            table = self._encoding.table.detach().numpy()
            hash_grid.encode(positions, self._encoding.arrays, table, features, first, padded(end))
            evaluate_density(features, self.indices(end)[first:], weights, density[first:end])
            first = padded(end)

    def _joined(self, stretches: list[_Stretch], rays: int, count: int) -> Followed:
        """All stretches as samples of the rays, with what was not encoded left out where there are several."""
        positions, features, density = self._buffers()
        only = stretches[0]
        if len(stretches) == 1:
            return Followed(positions, features, density, only.samples, only.columns, only.seen, count)
        offsets = np.zeros(rays + 1, np.int64)
        for stretch in stretches:
            offsets[1:][stretch.rays] += stretch.seen - stretch.samples.offsets.numpy()[:-1]
        np.cumsum(offsets, out=offsets)
        starts, ends = (self._work.array(f"joined.{name}", (offsets[-1],)) for name in ("starts", "ends"))
        columns = self._work.array("joined.columns", (offsets[-1],), np.int32)
        at = offsets[:-1].copy()
        for stretch in stretches:
            given = stretch.samples
            splice_samples(
                stretch.rays, given.offsets.numpy()[:-1], stretch.seen, given.starts.numpy(), given.ends.numpy(),
                stretch.columns, at, starts, ends, columns,
            )  # fmt: skip
        joined = PackedSamples(*(torch.from_numpy(array) for array in (offsets, starts, ends)))
        return Followed(positions, features, density, joined, columns, at, count)

    def indices(self, count: int) -> NDArray[np.int32]:
        """0 to `count`."""
        if len(self._everything) < count:
            self._everything = np.arange(count, dtype=np.int32)
        return self._everything[:count]

    # ---- buffers -------------------------------------------------------------------------------------------------
    def _buffers(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Positions, features and densities by column. What is not used of them takes no memory."""
        levels = len(self._encoding.cells)
        shapes = {"positions": (3, self._room), "features": (levels, self._room, 4), "density": (self._room,)}
        positions, features, density = (self._work.array(name, shape) for name, shape in shapes.items())
        return positions, features, density

    def _make_room(self, used: int, samples: int) -> None:
        # Every round may leave the rest of 16 columns unused.
        wanted = used + padded(samples) + LANES * _MOST_ROUNDS
        if wanted <= self._room:
            return
        old = [array.copy() for array in self._columns(used)]
        self._room = max(wanted, 2 * self._room)
        for array, before in zip(self._columns(used), old, strict=True):
            array[:] = before

    def _columns(self, used: int) -> tuple[NDArray[np.float32], ...]:
        positions, features, density = self._buffers()
        return positions[:, :used], features[:, :used], density[:used]


def padded(count: int) -> int:
    """The next multiple of a vector's lanes."""
    return -(-count // LANES) * LANES
