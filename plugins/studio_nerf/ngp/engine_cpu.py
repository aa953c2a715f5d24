"""The field on the compiled kernels: everything between the marched samples and the next weights."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from studio.kernels import cache
from studio.kernels.workspace import Workspace
from studio.marching import PackedSamples
from studio_nerf.ngp.encoding import HashGrid
from studio_nerf.ngp.engine import Further, Rates, RayTargets, StepResult, Thinning
from studio_nerf.ngp.following import LANES, STRETCH, Followed, Follower, padded
from studio_nerf.ngp.kernels import hash_grid
from studio_nerf.ngp.kernels.adam import adam_matrix
from studio_nerf.ngp.kernels.evaluate import density_slope, evaluate_color, evaluate_density
from studio_nerf.ngp.kernels.layers import Weights
from studio_nerf.ngp.kernels.samples import reached_samples
from studio_nerf.ngp.kernels.train import SHARES, scratch_size, train_rays
from studio_nerf.ngp.networks import Shading
from studio_nerf.ngp.optimizer import LazyAdam
from studio_nerf.ngp.space import Space

_POINTS_AT_ONCE = 1 << 17
"""Points whose density is asked for without rays: their features take 16 MiB."""


@dataclass(frozen=True)
class CpuVisible:
    """`studio_nerf.ngp.engine.Visible`: views of the engine's buffers, k samples of n rays."""

    features: NDArray[np.float32]
    """Of all samples that were encoded, (levels, columns, 4)."""
    index: NDArray[np.int32]
    """Their columns."""
    marched: NDArray[np.int32]
    """Which of the marched samples they are."""
    marched_offsets: NDArray[np.int64]
    rays: NDArray[np.int32]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.float32]
    middles: NDArray[np.float32]
    places: NDArray[np.float32]
    """(3, k and padding)."""
    densities: NDArray[np.float32]

    @property
    def count(self) -> int:
        return len(self.index)

    @property
    def samples(self) -> PackedSamples:
        starts = torch.from_numpy(self.middles - 0.5 * self.lengths)
        return PackedSamples(torch.from_numpy(self.offsets), starts, starts + torch.from_numpy(self.lengths))

    @property
    def density(self) -> Float[Tensor, " k"]:
        return torch.from_numpy(self.densities)

    @property
    def deepest(self) -> Int[Tensor, " n"]:
        lit = np.diff(self.offsets) > 0
        found = np.zeros(len(lit), np.int64)
        found[lit] = self.marched[self.offsets[1:][lit] - 1] + 1 - self.marched_offsets[:-1][lit]
        return torch.from_numpy(found)


class CpuEngine:
    """`studio_nerf.ngp.engine.Engine` on the CPU.

    Args:
        encoding: Whose table is trained in place.
        shading: Whose matrices are trained in place.
        space: Geometry.
    """

    stretch: int | None = STRETCH

    def __init__(self, encoding: HashGrid, shading: Shading, space: Space) -> None:
        self.encoding, self.shading, self.space = encoding, shading, space
        self.turn: AbstractContextManager[Any] = threading.RLock()
        self._work = Workspace()
        self._follower = Follower(encoding, space)

    # ---- looking -------------------------------------------------------------------------------------------------
    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
        unit = self.space.to_unit(points.float())
        result = np.empty(len(points), np.float32)
        weights = self._weights()
        for first in range(0, len(points), _POINTS_AT_ONCE):
            part = unit[first : first + _POINTS_AT_ONCE].numpy()
            positions = self._array("positions", 3, padded(len(part)))
            positions[:, : len(part)] = part.T
            features = self._encode(positions)
            evaluate_density(features, self._follower.indices(len(part)), weights, result[first : first + len(part)])
        return torch.from_numpy(result)

    def visible(
        self,
        samples: PackedSamples,
        origins: Tensor,
        directions: Tensor,
        early_stop: float,
        least_thickness: float,
        further: Further | None = None,
        thinning: Thinning | None = None,
    ) -> CpuVisible:
        followed = self._follower.follow(samples, origins, directions, self._weights(), early_stop, further)
        return self._reached(followed, early_stop, least_thickness, thinning)

    def colors(self, visible: CpuVisible, view: Float[Tensor, "n v"]) -> Float[Tensor, "k 3"]:
        rgb = np.empty((visible.count, 3), np.float32)
        evaluate_color(visible.features, visible.index, visible.rays, view.numpy(), self._weights(), rgb)
        return torch.from_numpy(rgb)

    def density_gradients(self, visible: CpuVisible) -> Float[Tensor, "k 3"]:
        weights = self._weights()
        upstream = self._array("upstream", len(visible.features), visible.places.shape[1], 4)
        upstream[:, visible.count :] = 0
        density_slope(visible.features, visible.index, weights, _transposed(weights), upstream)
        upstream[self.encoding.smooth_levels :] = 0
        return torch.from_numpy(self._position_gradient(visible.places, upstream)[:, : visible.count].T)

    # ---- training ------------------------------------------------------------------------------------------------
    def step(
        self, visible: CpuVisible, targets: RayTargets, adam: LazyAdam, rates: Rates, *, with_positions: bool = False
    ) -> StepResult:
        weights = self._weights()
        count, padded = visible.count, visible.places.shape[1]
        levels = len(visible.features)
        upstream = self._array("upstream", levels, padded, 4)
        upstream[:, count:] = 0
        gradients = self._array("gradients", SHARES, sum(w.size for w in weights))
        longest = int(np.diff(visible.offsets).max(initial=0))
        scratch = self._array("scratch", cache.get_threads(), scratch_size(4 * levels, weights, longest))
        view = targets.view.detach().numpy()
        view_gradient = np.zeros(view.shape if targets.view.requires_grad else (0, view.shape[1]), np.float32)
        rays = len(view)
        scored = rays if targets.scored is None else targets.scored
        distortion, nearness = targets.distortion / rays, targets.nearness / rays
        options = np.array([targets.loss_limit, 1 / (3 * rays), distortion, targets.bend, nearness, scored], np.float32)
        sums = train_rays(
            visible.features, visible.index, visible.rays, visible.offsets, visible.lengths, visible.middles, view,
            targets.rgb.numpy(), targets.background.numpy(), options, weights, _transposed(weights), scratch, gradients,
            upstream, view_gradient,
        )  # fmt: skip
        if not np.isfinite(sums[0]):
            return StepResult(float(sums[0]), float("nan"), None, None)
        places = None
        if with_positions:
            places = torch.from_numpy(self._position_gradient(visible.places, upstream)[:, :count].T)
        adam.steps += 1
        buffers = self._zeros("table", cache.get_threads(), self.encoding.most_rows, 4)
        table, first, second = adam.arrays("encoding.table")
        hash_grid.descend(
            visible.places, self.encoding.arrays, upstream, buffers, table, first, second,
            adam.coefficients(rates.encoding), self.encoding.decays(rates.encoding * rates.decay),
        )  # fmt: skip
        at = 0
        for i, weight in enumerate(weights):
            value, first, second = adam.arrays(f"shading.{i}")
            adam_matrix(value, gradients, at, weight.shape[1], first, second, adam.coefficients(rates.networks))
            at += weight.size
        return StepResult(
            float(sums[0]), float(sums[1]) / (3 * scored),
            torch.from_numpy(view_gradient) if len(view_gradient) else None, places,
        )  # fmt: skip

    def matrices(self) -> tuple[Weights, Weights]:
        """The networks' matrices as the kernels take them, and their transposes."""
        weights = self._weights()
        return weights, _transposed(weights)

    # ---- parts ---------------------------------------------------------------------------------------------------
    def _reached(
        self, followed: Followed, early_stop: float, least_thickness: float, thinning: Thinning | None
    ) -> CpuVisible:
        samples = followed.samples
        most, room = followed.count, padded(followed.count)
        names = ("chosen", "index", "rays")
        chosen, index, rays = (self._array(f"kept.{name}", most, dtype=np.int32) for name in names)
        lengths, middles, density = (self._array(f"kept.{name}", most) for name in ("lengths", "middles", "density"))
        places = self._array("kept.all_places", 3, room)
        offsets = self._array("kept.offsets", samples.rays + 1, dtype=np.int64)
        sure, turns = (0.0, lengths[:0]) if thinning is None else (thinning.sure, thinning.turns.float().numpy())
        kept = reached_samples(
            samples.offsets.numpy(), followed.seen, samples.starts.numpy(), samples.ends.numpy(), followed.columns,
            followed.density, followed.positions, early_stop, least_thickness, sure, turns, chosen, index, rays,
            offsets, lengths, middles, density, places,
        )  # fmt: skip
        compact = self._array("kept.places", 3, padded(kept))
        compact[:, :kept] = places[:, :kept]
        return CpuVisible(
            followed.features, index[:kept], chosen[:kept], samples.offsets.numpy(), rays[:kept], offsets,
            lengths[:kept], middles[:kept], compact, density[:kept],
        )  # fmt: skip

    def _encode(self, positions: NDArray[np.float32]) -> NDArray[np.float32]:
        levels = len(self.encoding.cells)
        features = self._array("features", levels, positions.shape[1], 4)
        hash_grid.encode(positions, self.encoding.arrays, self._table(), features)
        return features

    def _position_gradient(self, places: NDArray[np.float32], upstream: NDArray[np.float32]) -> NDArray[np.float32]:
        gradient = np.empty_like(places)
        hash_grid.position_gradient(places, self.encoding.arrays, self._table(), upstream, gradient)
        return gradient

    def _table(self) -> NDArray[np.float32]:
        return self.encoding.table.detach().numpy()

    def _weights(self) -> Weights:
        """The matrices with whole vectors of outputs."""
        return tuple(_widened(m.detach().numpy()) for m in self.shading.named_matrices().values())

    def _array(self, name: str, *shape: int, dtype: type = np.float32) -> NDArray:
        return self._work.array(name, shape, dtype)

    def _zeros(self, name: str, *shape: int) -> NDArray[np.float32]:
        """As `_array`, for buffers that whoever writes them leaves zero again."""
        return self._work.array(name, shape)


def _widened(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    rows, columns = matrix.shape
    if columns % LANES == 0:
        return matrix
    wide = np.zeros((rows, padded(columns)), np.float32)
    wide[:, :columns] = matrix
    return wide


def _transposed(weights: Weights) -> Weights:
    return tuple(np.ascontiguousarray(w.T) for w in weights)
