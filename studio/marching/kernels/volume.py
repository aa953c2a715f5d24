"""Volume rendering of packed samples and its gradients: threads over rays, each ray in order.

Sums along a ray are kept in float64 and belong to one thread, so results do not depend on the number of threads. The
formulas are those of `studio.marching.compositing`; tau_i = density_i length_i.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache

F4 = NDArray[np.float32]
I8 = NDArray[np.int64]


@cache.inline
def share_of(offsets: np.ndarray, share: int, shares: int) -> int:
    """First ray of a share, so that all shares have about the same number of samples (and of rays, where few have)."""
    rays = offsets.shape[0] - 1
    if share >= shares:
        return rays
    wanted = share * (offsets[rays] + rays) // shares
    low, high = 0, rays
    while low < high:
        middle = (low + high) >> 1
        if offsets[middle] + middle < wanted:
            low = middle + 1
        else:
            high = middle
    return low


# ------------------------------------------------------------------------------------------------------------ weights
@cache.device
def _weights(
    first: int,
    last: int,
    offsets: np.ndarray,
    density: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    weights: np.ndarray,
    transmittance: np.ndarray,
) -> None:
    for ray in range(first, last):
        light = 1.0
        for i in range(offsets[ray], offsets[ray + 1]):
            after = light * math.exp(-np.float64(density[i]) * (ends[i] - starts[i]))
            weights[i] = light - after
            transmittance[i] = light
            light = after


@cache.kernel("void(i8, i8[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1])", parallel=True)
def _weights_forward(
    shares: int,
    offsets: np.ndarray,
    density: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    weights: np.ndarray,
    transmittance: np.ndarray,
) -> None:
    for share in numba.prange(shares):
        first, last = share_of(offsets, share, shares), share_of(offsets, share + 1, shares)
        _weights(first, last, offsets, density, starts, ends, weights, transmittance)


@cache.device
def _weights_gradient(
    first: int,
    last: int,
    offsets: np.ndarray,
    density: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    weights: np.ndarray,
    transmittance: np.ndarray,
    grad_weights: np.ndarray,
    grad_transmittance: np.ndarray,
    grad_density: np.ndarray,
) -> None:
    with_light = grad_transmittance.shape[0] > 0
    for ray in range(first, last):
        # What the samples behind gain by one unit more of light.
        behind = 0.0
        for i in range(offsets[ray + 1] - 1, offsets[ray] - 1, -1):
            length = np.float64(ends[i]) - starts[i]
            light = np.float64(transmittance[i])
            after = light * math.exp(-np.float64(density[i]) * length)
            gain = np.float64(grad_weights[i])
            grad_density[i] = length * (gain * after - behind)
            behind += gain * weights[i]
            if with_light:
                behind += grad_transmittance[i] * light


@cache.kernel(
    "void(i8, i8[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1])", parallel=True
)
def _weights_backward(
    shares: int,
    offsets: np.ndarray,
    density: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    weights: np.ndarray,
    transmittance: np.ndarray,
    grad_weights: np.ndarray,
    grad_transmittance: np.ndarray,
    grad_density: np.ndarray,
) -> None:
    for share in numba.prange(shares):
        first, last = share_of(offsets, share, shares), share_of(offsets, share + 1, shares)
        _weights_gradient(
            first,
            last,
            offsets,
            density,
            starts,
            ends,
            weights,
            transmittance,
            grad_weights,
            grad_transmittance,
            grad_density,
        )


def weights_forward(offsets: I8, density: F4, starts: F4, ends: F4) -> tuple[F4, F4]:
    """Weights and transmittances (m), of densities (m) on intervals starts to ends (m) of rays offsets (n + 1)."""
    weights, transmittance = np.empty_like(density), np.empty_like(density)
    _weights_forward(cache.get_threads(), offsets, density, starts, ends, weights, transmittance)
    return weights, transmittance


def weights_backward(
    offsets: I8,
    density: F4,
    starts: F4,
    ends: F4,
    weights: F4,
    transmittance: F4,
    grad_weights: F4,
    grad_transmittance: F4 | None,
) -> F4:
    """Gradient of the densities (m) from those of weights and transmittances (m)."""
    grad_density = np.empty_like(density)
    none = np.empty(0, np.float32)
    _weights_backward(
        cache.get_threads(),
        offsets,
        density,
        starts,
        ends,
        weights,
        transmittance,
        grad_weights,
        none if grad_transmittance is None else grad_transmittance,
        grad_density,
    )
    return grad_density


# --------------------------------------------------------------------------------------------------------------- sums
@cache.device
def _sum(
    first: int,
    last: int,
    offsets: np.ndarray,
    weights: np.ndarray,
    values: np.ndarray,
    sums: np.ndarray,
) -> None:
    channels = values.shape[1]
    total = np.empty(channels)
    weighted = weights.shape[0] > 0
    for ray in range(first, last):
        total[:] = 0.0
        for i in range(offsets[ray], offsets[ray + 1]):
            weight = np.float64(weights[i]) if weighted else 1.0
            for c in range(channels):
                total[c] += weight * values[i, c]
        for c in range(channels):
            sums[ray, c] = total[c]


@cache.kernel("void(i8, i8[::1], f4[::1], f4[:,::1], f4[:,::1])", parallel=True)
def _sum_forward(shares: int, offsets: np.ndarray, weights: np.ndarray, values: np.ndarray, sums: np.ndarray) -> None:
    for share in numba.prange(shares):
        first, last = share_of(offsets, share, shares), share_of(offsets, share + 1, shares)
        _sum(first, last, offsets, weights, values, sums)


@cache.device
def _sum_gradient(
    first: int,
    last: int,
    offsets: np.ndarray,
    weights: np.ndarray,
    values: np.ndarray,
    grad_sums: np.ndarray,
    grad_weights: np.ndarray,
    grad_values: np.ndarray,
) -> None:
    channels = grad_sums.shape[1]
    weighted = weights.shape[0] > 0
    to_weights, to_values = grad_weights.shape[0] > 0, grad_values.shape[0] > 0
    for ray in range(first, last):
        for i in range(offsets[ray], offsets[ray + 1]):
            if to_values:
                weight = weights[i] if weighted else np.float32(1.0)
                for c in range(channels):
                    grad_values[i, c] = weight * grad_sums[ray, c]
            if to_weights:
                gain = 0.0
                for c in range(channels):
                    gain += np.float64(values[i, c]) * grad_sums[ray, c]
                grad_weights[i] = gain


@cache.kernel("void(i8, i8[::1], f4[::1], f4[:,::1], f4[:,::1], f4[::1], f4[:,::1])", parallel=True)
def _sum_backward(
    shares: int,
    offsets: np.ndarray,
    weights: np.ndarray,
    values: np.ndarray,
    grad_sums: np.ndarray,
    grad_weights: np.ndarray,
    grad_values: np.ndarray,
) -> None:
    for share in numba.prange(shares):
        first, last = share_of(offsets, share, shares), share_of(offsets, share + 1, shares)
        _sum_gradient(first, last, offsets, weights, values, grad_sums, grad_weights, grad_values)


def sum_forward(offsets: I8, weights: F4 | None, values: F4) -> F4:
    """Sum over each ray of the values (m, c), times their weights (m) if given: (n, c)."""
    sums = np.empty((len(offsets) - 1, values.shape[1]), np.float32)
    none = np.empty(0, np.float32)
    _sum_forward(cache.get_threads(), offsets, none if weights is None else weights, values, sums)
    return sums


def sum_backward(
    offsets: I8, weights: F4 | None, values: F4, grad_sums: F4, need_weights: bool, need_values: bool
) -> tuple[F4 | None, F4 | None]:
    """Gradients of weights and values, each None where it is not needed."""
    grad_weights = np.empty(len(values) if need_weights else 0, np.float32)
    grad_values = np.empty((len(values) if need_values else 0, values.shape[1]), np.float32)
    none = np.empty(0, np.float32)
    _sum_backward(
        cache.get_threads(),
        offsets,
        none if weights is None else weights,
        values,
        grad_sums,
        grad_weights,
        grad_values,
    )
    return grad_weights if need_weights else None, grad_values if need_values else None


# --------------------------------------------------------------------------------------------------------- distortion
@cache.device
def _distortion(
    first: int,
    last: int,
    offsets: np.ndarray,
    weights: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    grad_loss: np.ndarray,
    out: np.ndarray,
) -> None:
    backward = grad_loss.shape[0] > 0
    for ray in range(first, last):
        weight, moment, loss = 0.0, 0.0, 0.0
        for i in range(offsets[ray], offsets[ray + 1]):
            w = np.float64(weights[i])
            middle = 0.5 * (np.float64(starts[i]) + ends[i])
            if not backward:
                length = np.float64(ends[i]) - starts[i]
                loss += w * (2.0 * (middle * weight - moment) + w * length * (1.0 / 3.0))
            weight += w
            moment += w * middle
        if not backward:
            out[ray] = loss
            continue
        gain = 2.0 * grad_loss[ray]
        weight_before, moment_before = 0.0, 0.0
        for i in range(offsets[ray], offsets[ray + 1]):
            w = np.float64(weights[i])
            middle = 0.5 * (np.float64(starts[i]) + ends[i])
            length = np.float64(ends[i]) - starts[i]
            weight_after = weight - weight_before - w
            moment_after = moment - moment_before - w * middle
            spread = middle * (weight_before - weight_after) - moment_before + moment_after
            out[i] = gain * (spread + w * length * (1.0 / 3.0))
            weight_before += w
            moment_before += w * middle


@cache.kernel("void(i8, i8[::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[::1])", parallel=True)
def _distortion_pass(
    shares: int,
    offsets: np.ndarray,
    weights: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    grad_loss: np.ndarray,
    out: np.ndarray,
) -> None:
    for share in numba.prange(shares):
        first, last = share_of(offsets, share, shares), share_of(offsets, share + 1, shares)
        _distortion(first, last, offsets, weights, starts, ends, grad_loss, out)


def distortion_forward(offsets: I8, weights: F4, starts: F4, ends: F4) -> F4:
    """Distortion loss (n) of weights (m)."""
    loss = np.empty(len(offsets) - 1, np.float32)
    _distortion_pass(cache.get_threads(), offsets, weights, starts, ends, np.empty(0, np.float32), loss)
    return loss


def distortion_backward(offsets: I8, weights: F4, starts: F4, ends: F4, grad_loss: F4) -> F4:
    """Gradient of the weights (m) from that of the loss (n)."""
    grad_weights = np.empty_like(weights)
    if len(offsets) > 1:
        _distortion_pass(cache.get_threads(), offsets, weights, starts, ends, grad_loss, grad_weights)
    return grad_weights
