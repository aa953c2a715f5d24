"""Volume rendering on packed samples: rays have different numbers of intervals, stored one ray after the other.

m intervals in all belong to n rays; interval k of ray i stands at ``offsets[i] + k``. A ray may have none. The formulas
are those of `studio.marching.compositing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from studio.marching import packed_cpu, packed_torch
from studio.marching.arguments import check_same_shape
from studio.marching.compositing import normalized_distance


@dataclass(frozen=True, eq=False)
class PackedSamples:
    """Intervals along n rays.

    Attributes:
        offsets: int64; ray i owns the intervals ``offsets[i]:offsets[i + 1]``.
        starts: Distance along the ray at which each interval begins; sorted within a ray.
        ends: Where it ends. Intervals of a ray may leave gaps (empty space) but do not overlap.
    """

    offsets: Int[Tensor, " n+1"]
    starts: Float[Tensor, " m"]
    ends: Float[Tensor, " m"]

    def __post_init__(self) -> None:
        if self.offsets.dtype != torch.int64 or self.offsets.ndim != 1 or len(self.offsets) == 0:
            raise ValueError(
                f"offsets: expected int64 of shape (n + 1,), got {self.offsets.dtype} {self.offsets.shape}"
            )
        check_same_shape("ends", self.ends, tuple(self.starts.shape), "as starts")
        # On a GPU the look would cost a wait; on the CPU wrong offsets would send a kernel beyond its arrays.
        if self.offsets.device.type == "cpu":
            first, last = int(self.offsets[0]), int(self.offsets[-1])
            if first != 0 or last != len(self.starts) or bool((self.counts < 0).any()):
                raise ValueError(f"offsets: expected to rise from 0 to {len(self.starts)}, got {first} to {last}")

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def rays(self) -> int:
        """Number of rays n, with or without samples."""
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> Int[Tensor, " n"]:
        """Intervals of each ray."""
        return self.offsets.diff()

    @cached_property
    def ray_index(self) -> Int[Tensor, " m"]:
        """The ray of each interval."""
        rays = torch.arange(self.rays, device=self.offsets.device)
        return torch.repeat_interleave(rays, self.counts, output_size=len(self))

    @property
    def lengths(self) -> Float[Tensor, " m"]:
        return self.ends - self.starts

    @property
    def midpoints(self) -> Float[Tensor, " m"]:
        return 0.5 * (self.starts + self.ends)

    def positions(self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "m 3"]:
        """Points in the middle of the intervals, differentiable in origins and directions."""
        index = self.ray_index
        return origins[index] + directions[index] * self.midpoints[:, None]

    def directions(self, directions: Float[Tensor, "n 3"]) -> Float[Tensor, "m 3"]:
        """The direction of each interval's ray."""
        return directions[self.ray_index]

    def keep(self, mask: Bool[Tensor, " m"]) -> PackedSamples:
        """Only the intervals where `mask` is True, of the same rays."""
        check_same_shape("mask", mask, (len(self),), "one a sample")
        kept = torch.cat([mask.new_zeros(1, dtype=torch.int64), mask.cumsum(0)])
        return PackedSamples(kept[self.offsets], self.starts[mask], self.ends[mask])


def packed_weights(
    density: Float[Tensor, " m"], samples: PackedSamples
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """Weight of each interval, and the transmittance with which light enters it; density is not negative."""
    check_same_shape("density", density, (len(samples),), "one a sample")
    if _kernels_serve(samples, density):
        weights, transmittance = packed_cpu.Weights.apply(density, samples.offsets, samples.starts, samples.ends)
        return weights, transmittance
    return packed_torch.weights(density, samples.offsets, samples.ray_index, samples.lengths)


def packed_sum(values: Float[Tensor, " m *c"], samples: PackedSamples) -> Float[Tensor, " n *c"]:
    """Sum over the intervals of each ray; 0 for a ray without any."""
    check_same_shape("values", values, (len(samples), *values.shape[1:]), "one a sample")
    if packed_cpu.serves(values):
        total: Tensor = packed_cpu.Sum.apply(
            None, values.flatten(1) if values.ndim > 1 else values[:, None], samples.offsets
        )
        return total.reshape(samples.rays, *values.shape[1:])
    return packed_torch.sums(values, samples.ray_index, samples.rays)


def packed_opacity(weights: Float[Tensor, " m"], samples: PackedSamples) -> Float[Tensor, " n"]:
    """Accumulated alpha of each ray."""
    return packed_sum(weights, samples)


def packed_composite(
    weights: Float[Tensor, " m"],
    values: Float[Tensor, "m c"],
    samples: PackedSamples,
    background: Float[Tensor, "*#n c"] | None = None,
) -> Float[Tensor, "n c"]:
    """Blend values along each ray, over a background where one is given (all of it for a ray without samples)."""
    check_same_shape("weights", weights, (len(samples),), "one a sample")
    check_same_shape("values", values, (len(samples), values.shape[-1]), "one row a sample")
    if packed_cpu.serves(weights, values):
        blended: Tensor = packed_cpu.Sum.apply(weights, values, samples.offsets)
    else:
        blended = packed_torch.sums(weights[:, None] * values, samples.ray_index, samples.rays)
    if background is None:
        return blended
    return blended + (1.0 - packed_opacity(weights, samples))[:, None] * background


def packed_expected_depth(weights: Float[Tensor, " m"], samples: PackedSamples) -> Float[Tensor, " n"]:
    """Mean distance at which light that reaches the eye comes from; 0 where nothing stops the ray."""
    moment = packed_sum(weights * samples.midpoints, samples)
    return normalized_distance(moment, packed_opacity(weights, samples))


def packed_median_depth(
    weights: Float[Tensor, " m"], samples: PackedSamples, light: Float[Tensor, " n"] | None = None
) -> Float[Tensor, " n"]:
    """Distance at which the transmittance is one half; the last end where it never falls so far, 0 without samples.

    Args:
        weights: One a sample.
        samples: Their intervals.
        light: Transmittance before each ray's first sample, for rays whose beginning is elsewhere; default 1.
    """
    check_same_shape("weights", weights, (len(samples),), "one a sample")
    if light is None:
        light = weights.new_ones(samples.rays)
    check_same_shape("light", light, (samples.rays,), "one a ray")
    return packed_torch.median_depth(weights, light, samples.offsets, samples.ray_index, samples.starts, samples.ends)


def packed_distortion_loss(weights: Float[Tensor, " m"], samples: PackedSamples) -> Float[Tensor, " n"]:
    """How far the weight of each ray is spread (Barron et al. 2022, eq. 15); in units of the distances."""
    check_same_shape("weights", weights, (len(samples),), "one a sample")
    if _kernels_serve(samples, weights):
        loss: Tensor = packed_cpu.Distortion.apply(weights, samples.offsets, samples.starts, samples.ends)
        return loss
    return packed_torch.distortion_loss(weights, samples.offsets, samples.ray_index, samples.midpoints, samples.lengths)


@dataclass(frozen=True, eq=False)
class PackedRender:
    """Outputs of `packed_render`, differentiable in densities and values.

    Attributes:
        values: Blended values, over the background if one was given.
        opacity: Accumulated alpha.
        moment: Σ w t; see `expected_depth`.
        weights: Of each sample.
    """

    values: Float[Tensor, "n c"]
    opacity: Float[Tensor, " n"]
    moment: Float[Tensor, " n"]
    weights: Float[Tensor, " m"]

    @property
    def expected_depth(self) -> Float[Tensor, " n"]:
        """Mean distance at which light that reaches the eye comes from; 0 where nothing stops the ray."""
        return normalized_distance(self.moment, self.opacity)


def packed_render(
    density: Float[Tensor, " m"],
    values: Float[Tensor, "m c"],
    samples: PackedSamples,
    background: Float[Tensor, "*#n c"] | None = None,
) -> PackedRender:
    """Weights, blended values, opacity and depth at once: on the CPU one pass forward and one backward."""
    check_same_shape("density", density, (len(samples),), "one a sample")
    check_same_shape("values", values, (len(samples), values.shape[-1]), "one row a sample")
    if _kernels_serve(samples, density, values):
        blended, opacity, moment, weights = packed_cpu.Render.apply(
            density, values, samples.offsets, samples.starts, samples.ends
        )
    else:
        weights, _ = packed_weights(density, samples)
        blended, opacity = packed_composite(weights, values, samples), packed_opacity(weights, samples)
        moment = packed_sum(weights * samples.midpoints, samples)
    if background is not None:
        blended = blended + (1.0 - opacity)[:, None] * background
    return PackedRender(blended, opacity, moment, weights)


def visible(transmittance: Float[Tensor, " m"], early_stop: float = 1e-4) -> Bool[Tensor, " m"]:
    """Which intervals light still reaches: those entered with a transmittance of at least `early_stop`."""
    return transmittance >= early_stop


def _kernels_serve(samples: PackedSamples, *tensors: Tensor) -> bool:
    intervals = (samples.starts, samples.ends)
    return packed_cpu.serves(*tensors, *intervals) and not any(t.requires_grad for t in intervals)
