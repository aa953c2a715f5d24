"""Packed volume rendering in plain torch, on any device and in any precision, with torch's own gradients."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from studio.marching.compositing import half_life_share

_OPAQUE = 100.0
"""Optical thickness beyond which an interval lets nothing through (e^-100); sums are cut to it to stay exact."""


def exclusive_sums(values: Float[Tensor, " m"], offsets: Int[Tensor, " n+1"], ray: Int[Tensor, " m"]) -> Tensor:
    """Sum of the values before each one on its ray.

    One running sum over all rays, minus what it was at the ray's begin: in float64, because in float32 the sum over
    millions of samples would leave a ray few digits. MPS has no float64, so there the host sums.
    """
    wide = (values.cpu() if values.device.type == "mps" else values).double()
    running = torch.cat([wide.new_zeros(1), wide.cumsum(0)])
    begin = offsets[:-1].to(running.device)[ray.to(running.device)]
    return (running[:-1] - running[begin]).to(values.dtype).to(values.device)


def weights(
    density: Float[Tensor, " m"], offsets: Int[Tensor, " n+1"], ray: Int[Tensor, " m"], lengths: Float[Tensor, " m"]
) -> tuple[Tensor, Tensor]:
    """Weights and transmittances."""
    thickness = density * lengths
    transmittance = torch.exp(-exclusive_sums(thickness.clamp_max(_OPAQUE), offsets, ray))
    return transmittance * -torch.expm1(-thickness), transmittance


def sums(values: Float[Tensor, " m *c"], ray: Int[Tensor, " m"], rays: int) -> Float[Tensor, " n *c"]:
    """Sum over each ray."""
    return values.new_zeros((rays, *values.shape[1:])).index_add(0, ray, values)


def median_depth(
    weights: Float[Tensor, " m"],
    light: Float[Tensor, " n"],
    offsets: Int[Tensor, " n+1"],
    ray: Int[Tensor, " m"],
    starts: Float[Tensor, " m"],
    ends: Float[Tensor, " m"],
) -> Float[Tensor, " n"]:
    """See `studio.marching.packed.packed_median_depth`."""
    if len(weights) == 0:
        return weights.new_zeros(len(offsets) - 1)
    entering = light[ray] - exclusive_sums(weights, offsets, ray)
    # The transmittance falls along a ray, so what is still above one half at an interval's end is its first part.
    above = (entering - weights > 0.5).to(torch.int64)
    index = offsets[:-1] + torch.zeros_like(offsets[:-1]).index_add(0, ray, above)
    any_sample = offsets[1:] > offsets[:-1]
    last = (offsets[1:] - 1).clamp_min(0)
    crosses = any_sample & (index < offsets[1:])
    index = torch.where(crosses, index, last)
    share = half_life_share(weights[index], entering[index])
    inside = starts[index] + (ends[index] - starts[index]) * share
    return torch.where(crosses, inside, torch.where(any_sample, ends[last], torch.zeros_like(ends[last])))


def distortion_loss(
    weights: Float[Tensor, " m"],
    offsets: Int[Tensor, " n+1"],
    ray: Int[Tensor, " m"],
    middle: Float[Tensor, " m"],
    lengths: Float[Tensor, " m"],
) -> Float[Tensor, " n"]:
    """See `studio.marching.packed.packed_distortion_loss`."""
    weight_before = exclusive_sums(weights, offsets, ray)
    moment_before = exclusive_sums(weights * middle, offsets, ray)
    between = 2.0 * weights * (middle * weight_before - moment_before)
    return sums(between + weights.square() * lengths / 3.0, ray, len(offsets) - 1)
