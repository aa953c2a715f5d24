"""The field in plain torch: any device, any precision, gradients by autograd. The kernels are held against it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from studio.marching import (
    PackedSamples,
    packed_composite,
    packed_distortion_loss,
    packed_opacity,
    packed_sum,
    packed_weights,
    visible,
)
from studio_nerf.ngp.encoding import HashGrid
from studio_nerf.ngp.engine import Further, Rates, RayTargets, StepResult, Thinning
from studio_nerf.ngp.networks import Shading
from studio_nerf.ngp.optimizer import LazyAdam
from studio_nerf.ngp.space import Space

_POINTS_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class TorchVisible:
    """`studio_nerf.ngp.engine.Visible`."""

    samples: PackedSamples
    places: Float[Tensor, "k 3"]
    density: Float[Tensor, " k"]
    deepest: Int[Tensor, " n"]


class TorchEngine:
    """`studio_nerf.ngp.engine.Engine` in plain torch.

    Args:
        encoding: Whose table is trained in place.
        shading: Whose matrices are trained in place.
        space: Geometry.
    """

    stretch: int | None = None
    turn: AbstractContextManager[Any] = nullcontext()

    def __init__(self, encoding: HashGrid, shading: Shading, space: Space) -> None:
        self.encoding, self.shading, self.space = encoding, shading, space

    def _density_at(self, places: Float[Tensor, "m 3"]) -> tuple[Float[Tensor, " m"], Float[Tensor, "m g"]]:
        density, geometry = self.shading.density(self.encoding(places))
        return density, geometry

    @torch.no_grad()
    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
        places = self.space.to_unit(points)
        return torch.cat([self._density_at(part)[0] for part in places.split(_POINTS_AT_ONCE)])

    @torch.no_grad()
    def visible(
        self,
        samples: PackedSamples,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        early_stop: float,
        least_thickness: float,
        further: Further | None = None,
        thinning: Thinning | None = None,
    ) -> TorchVisible:
        if further is not None:
            raise ValueError("further: this engine takes all samples of a ray at once")
        places = self.space.to_unit(samples.positions(origins, directions))
        density, _ = self._density_at(places)
        _, transmittance = packed_weights(density, samples)
        keep = visible(transmittance, early_stop) & (density * samples.lengths >= least_thickness)
        if thinning is not None:
            samples, keep = _thinned(samples, keep, density * samples.lengths, transmittance, thinning)
        ordinal = torch.arange(1, len(samples) + 1, device=places.device) - samples.offsets[samples.ray_index]
        deepest = torch.zeros_like(samples.counts).scatter_reduce_(0, samples.ray_index, ordinal * keep, "amax")
        return TorchVisible(samples.keep(keep), places[keep], density[keep], deepest)

    @torch.no_grad()
    def colors(self, visible: TorchVisible, view: Float[Tensor, "n v"]) -> Float[Tensor, "k 3"]:
        return self._shade(visible.places, view, visible.samples.ray_index)[1]

    def density_gradients(self, visible: TorchVisible) -> Float[Tensor, "k 3"]:
        with torch.enable_grad():
            places = visible.places.detach().requires_grad_()
            _, geometry = self.shading.density(self.encoding(places, self.encoding.smooth_levels))
            (gradient,) = torch.autograd.grad(geometry[:, 0].sum(), places)
        return gradient

    def _shade(
        self, places: Float[Tensor, "k 3"], view: Float[Tensor, "n v"], rays: Int[Tensor, " k"]
    ) -> tuple[Float[Tensor, " k"], Float[Tensor, "k 3"]]:
        density, geometry = self._density_at(places)
        return density, self.shading.color(geometry, view[rays])

    def losses(self, visible: TorchVisible, targets: RayTargets, places: Float[Tensor, "k 3"]) -> tuple[Tensor, Tensor]:
        """Loss and squared error of the clamped colours, differentiable."""
        samples = visible.samples
        density, rgb = self._shade(places, targets.view, samples.ray_index)
        weights, _ = packed_weights(density, samples)
        left = 1 - packed_opacity(weights, samples)
        shown = packed_composite(weights, rgb, samples) + left[:, None] * targets.background
        loss = torch.nn.functional.huber_loss(shown, targets.rgb, delta=targets.loss_limit)
        if targets.distortion > 0:
            bent = _bent(samples, targets.bend)
            loss = loss + targets.distortion * packed_distortion_loss(weights, bent).mean()
        if targets.nearness > 0:
            near = packed_sum(weights / (1 + targets.bend * samples.midpoints), samples)
            loss = loss + targets.nearness * near.mean()
        error = (shown.detach().clamp(0, 1) - targets.rgb)[: targets.scored]
        return loss, error.square().mean()

    def step(
        self,
        visible: TorchVisible,
        targets: RayTargets,
        adam: LazyAdam,
        rates: Rates,
        *,
        with_positions: bool = False,
    ) -> StepResult:
        places = visible.places.detach().requires_grad_(with_positions)
        named = self.trained()
        inputs = [*named.values()]
        inputs += [places] if with_positions else []
        inputs += [targets.view] if targets.view.requires_grad else []
        with torch.enable_grad():
            loss, error = self.losses(visible, targets, places)
            gradients = list(torch.autograd.grad(loss, inputs, allow_unused=True))
        view = gradients.pop() if targets.view.requires_grad else None
        position = gradients.pop() if with_positions else None
        # On a GPU this branch waits for the loss; a step is long enough there.
        if not bool(loss.isfinite()):
            return StepResult(loss.detach(), error, None, None)
        adam.steps += 1
        for name, gradient in zip(named, gradients, strict=True):
            if gradient is None:
                continue
            if name == "encoding.table":
                adam.step(name, gradient, rates.encoding, self.encoding.row_decays(rates.encoding * rates.decay))
            else:
                adam.step(name, gradient, rates.networks)
        return StepResult(loss.detach(), error, view, position)

    def trained(self) -> Mapping[str, Tensor]:
        """The parameters by the names that `LazyAdam` knows."""
        return {"encoding.table": self.encoding.table, **self.shading.named_matrices()}


def _thinned(
    samples: PackedSamples,
    keep: Bool[Tensor, " m"],
    thickness: Float[Tensor, " m"],
    transmittance: Float[Tensor, " m"],
    thinning: Thinning,
) -> tuple[PackedSamples, Bool[Tensor, " m"]]:
    """The samples with lengths for which they stand, and which of those to keep are left."""
    share = transmittance * thickness / ((1 + thickness) * thinning.sure)
    unsure = keep & (share < 1)
    # Sums along each ray, in double precision: whole numbers are counted.
    sums = share.double().where(unsure, 0).cumsum(0)
    before = torch.cat([sums.new_zeros(1), sums])[samples.offsets[:-1]]
    turn = sums + (thinning.turns - before)[samples.ray_index]
    chosen = turn.floor() > (turn - share.where(unsure, 0)).floor()
    half = 0.5 * samples.lengths / share.where(unsure, 1)
    thinned = PackedSamples(samples.offsets, samples.midpoints - half, samples.midpoints + half)
    return thinned, keep & (chosen | ~unsure)


def _bent(samples: PackedSamples, bend: float) -> PackedSamples:
    """The same intervals where distances t count as t / (1 + bend t), to first order around their middles."""
    part = 1 / (1 + bend * samples.midpoints)
    middles, halves = samples.midpoints * part, 0.5 * samples.lengths * part.square()
    return PackedSamples(samples.offsets, middles - halves, middles + halves)
