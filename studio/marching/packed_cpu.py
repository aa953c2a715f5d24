"""The CPU kernels of packed volume rendering as differentiable torch functions.

Gradients are exact and taken once (no second derivatives). Intervals get no gradient here: callers whose intervals
need one take the torch path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from studio.marching.kernels import render, volume


def serves(*tensors: Tensor) -> bool:
    """Whether the kernels can take these tensors: float32 on the CPU."""
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


class Weights(torch.autograd.Function):
    """Weights and transmittances of densities."""

    @staticmethod
    def forward(
        ctx: Any,
        density: Float[Tensor, " m"],
        offsets: Int[Tensor, " n+1"],
        starts: Float[Tensor, " m"],
        ends: Float[Tensor, " m"],
    ) -> tuple[Tensor, Tensor]:
        found = volume.weights_forward(offsets.numpy(), _array(density), _array(starts), _array(ends))
        weights, transmittance = (torch.from_numpy(array) for array in found)
        ctx.save_for_backward(offsets, density, starts, ends, weights, transmittance)
        ctx.set_materialize_grads(False)
        return weights, transmittance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_weights: Tensor | None, grad_transmittance: Tensor | None) -> tuple[Any, ...]:
        if grad_weights is None and grad_transmittance is None:
            return None, None, None, None
        offsets, density, starts, ends, weights, transmittance = _arrays(ctx.saved_tensors)
        gains = np.zeros_like(density) if grad_weights is None else _array(grad_weights)
        light = None if grad_transmittance is None else _array(grad_transmittance)
        found = volume.weights_backward(offsets, density, starts, ends, weights, transmittance, gains, light)
        return torch.from_numpy(found), None, None, None


class Sum(torch.autograd.Function):
    """Sum of (weighted) values over each ray."""

    @staticmethod
    def forward(
        ctx: Any, weights: Float[Tensor, " m"] | None, values: Float[Tensor, "m c"], offsets: Int[Tensor, " n+1"]
    ) -> Tensor:
        ctx.save_for_backward(weights, values, offsets)
        given = None if weights is None else _array(weights)
        return torch.from_numpy(volume.sum_forward(offsets.numpy(), given, _array(values)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        need_weights, need_values = ctx.needs_input_grad[:2]
        weights, values, offsets = _arrays(ctx.saved_tensors)
        found = volume.sum_backward(offsets, weights, values, _array(grad), need_weights, need_values)
        return (*(None if g is None else torch.from_numpy(g) for g in found), None)


class Distortion(torch.autograd.Function):
    """Distortion loss of each ray."""

    @staticmethod
    def forward(
        ctx: Any,
        weights: Float[Tensor, " m"],
        offsets: Int[Tensor, " n+1"],
        starts: Float[Tensor, " m"],
        ends: Float[Tensor, " m"],
    ) -> Tensor:
        ctx.save_for_backward(offsets, weights, starts, ends)
        return torch.from_numpy(
            volume.distortion_forward(offsets.numpy(), _array(weights), _array(starts), _array(ends))
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        offsets, weights, starts, ends = _arrays(ctx.saved_tensors)
        found = volume.distortion_backward(offsets, weights, starts, ends, _array(grad))
        return torch.from_numpy(found), None, None, None


class Render(torch.autograd.Function):
    """Blended values, opacity, Σ w t and weights in one pass."""

    @staticmethod
    def forward(
        ctx: Any,
        density: Float[Tensor, " m"],
        values: Float[Tensor, "m c"],
        offsets: Int[Tensor, " n+1"],
        starts: Float[Tensor, " m"],
        ends: Float[Tensor, " m"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        arrays = (offsets.numpy(), _array(density), _array(values), _array(starts), _array(ends))
        sums, opacity, moment, weights, transmittance = (torch.from_numpy(a) for a in render.render_forward(*arrays))
        ctx.save_for_backward(offsets, density, values, starts, ends, weights, transmittance)
        ctx.set_materialize_grads(False)
        return sums, opacity, moment, weights

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        grad_sums: Tensor | None,
        grad_opacity: Tensor | None,
        grad_moment: Tensor | None,
        grad_weights: Tensor | None,
    ) -> tuple[Any, ...]:
        offsets, density, values, starts, ends, weights, transmittance = _arrays(ctx.saved_tensors)
        rays, channels = len(offsets) - 1, values.shape[1]
        to_density, to_values = render.render_backward(
            offsets,
            density,
            values,
            starts,
            ends,
            weights,
            transmittance,
            np.zeros((rays, channels), np.float32) if grad_sums is None else _array(grad_sums),
            np.zeros(rays, np.float32) if grad_opacity is None else _array(grad_opacity),
            np.zeros(rays, np.float32) if grad_moment is None else _array(grad_moment),
            None if grad_weights is None else _array(grad_weights),
            ctx.needs_input_grad[1],
        )
        return (
            torch.from_numpy(to_density),
            None if to_values is None else torch.from_numpy(to_values),
            None,
            None,
            None,
        )


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().contiguous().numpy()


def _arrays(saved: Sequence[Tensor | None]) -> tuple[Any, ...]:
    return tuple(None if tensor is None else _array(tensor) for tensor in saved)
