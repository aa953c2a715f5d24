"""Everything a training step wants of packed samples in one pass, and its gradients in one more.

Threads over rays, each ray in order, sums in float64: results do not depend on the number of threads.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from studio.kernels import cache

from .volume import F4, I8, share_of


@cache.device
def _render(
    first: int,
    last: int,
    offsets: np.ndarray,
    density: np.ndarray,
    values: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    weights: np.ndarray,
    transmittance: np.ndarray,
    sums: np.ndarray,
    opacity: np.ndarray,
    moment: np.ndarray,
) -> None:
    channels = values.shape[1]
    total = np.empty(channels)
    for ray in range(first, last):
        total[:] = 0.0
        light, along = 1.0, 0.0
        for i in range(offsets[ray], offsets[ray + 1]):
            start, end = np.float64(starts[i]), np.float64(ends[i])
            after = light * math.exp(-np.float64(density[i]) * (end - start))
            weight = light - after
            weights[i] = weight
            transmittance[i] = light
            along += weight * 0.5 * (start + end)
            for c in range(channels):
                total[c] += weight * values[i, c]
            light = after
        for c in range(channels):
            sums[ray, c] = total[c]
        opacity[ray] = 1.0 - light
        moment[ray] = along


@cache.kernel(
    "void(i8, i8[::1], f4[::1], f4[:,::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[:,::1], f4[::1], f4[::1])",
    parallel=True,
)
def _forward(
    shares: int,
    offsets: np.ndarray,
    density: np.ndarray,
    values: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    weights: np.ndarray,
    transmittance: np.ndarray,
    sums: np.ndarray,
    opacity: np.ndarray,
    moment: np.ndarray,
) -> None:
    for share in numba.prange(shares):
        first, last = share_of(offsets, share, shares), share_of(offsets, share + 1, shares)
        _render(first, last, offsets, density, values, starts, ends, weights, transmittance, sums, opacity, moment)


@cache.device
def _gradient(
    first: int,
    last: int,
    offsets: np.ndarray,
    density: np.ndarray,
    values: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    weights: np.ndarray,
    transmittance: np.ndarray,
    grad_sums: np.ndarray,
    grad_opacity: np.ndarray,
    grad_moment: np.ndarray,
    grad_weights: np.ndarray,
    grad_density: np.ndarray,
    grad_values: np.ndarray,
) -> None:
    channels = values.shape[1]
    with_weights, to_values = grad_weights.shape[0] > 0, grad_values.shape[0] > 0
    for ray in range(first, last):
        # What the samples behind gain by one unit more of light.
        behind = 0.0
        for i in range(offsets[ray + 1] - 1, offsets[ray] - 1, -1):
            start, end = np.float64(starts[i]), np.float64(ends[i])
            after = np.float64(transmittance[i]) * math.exp(-np.float64(density[i]) * (end - start))
            weight = weights[i]
            gain = grad_opacity[ray] + np.float64(grad_moment[ray]) * 0.5 * (start + end)
            if with_weights:
                gain += grad_weights[i]
            for c in range(channels):
                gain += np.float64(grad_sums[ray, c]) * values[i, c]
            if to_values:
                for c in range(channels):
                    grad_values[i, c] = weight * grad_sums[ray, c]
            grad_density[i] = (end - start) * (gain * after - behind)
            behind += gain * weight


@cache.kernel(
    "void(i8, i8[::1], f4[::1], f4[:,::1], f4[::1], f4[::1], f4[::1], f4[::1], f4[:,::1], f4[::1], f4[::1], f4[::1], "
    "f4[::1], f4[:,::1])",
    parallel=True,
)
def _backward(
    shares: int,
    offsets: np.ndarray,
    density: np.ndarray,
    values: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    weights: np.ndarray,
    transmittance: np.ndarray,
    grad_sums: np.ndarray,
    grad_opacity: np.ndarray,
    grad_moment: np.ndarray,
    grad_weights: np.ndarray,
    grad_density: np.ndarray,
    grad_values: np.ndarray,
) -> None:
    for share in numba.prange(shares):
        first, last = share_of(offsets, share, shares), share_of(offsets, share + 1, shares)
        _gradient(
            first,
            last,
            offsets,
            density,
            values,
            starts,
            ends,
            weights,
            transmittance,
            grad_sums,
            grad_opacity,
            grad_moment,
            grad_weights,
            grad_density,
            grad_values,
        )


def render_forward(offsets: I8, density: F4, values: F4, starts: F4, ends: F4) -> tuple[F4, F4, F4, F4, F4]:
    """Blended values (n, c), opacity (n), Σ w t (n), weights (m) and transmittances (m).

    Args:
        offsets: (n + 1).
        density: (m).
        values: (m, c).
        starts: (m).
        ends: (m).
    """
    rays = len(offsets) - 1
    sums = np.empty((rays, values.shape[1]), np.float32)
    opacity, moment = np.empty(rays, np.float32), np.empty(rays, np.float32)
    weights, transmittance = np.empty_like(density), np.empty_like(density)
    _forward(
        cache.get_threads(),
        offsets,
        density,
        values,
        starts,
        ends,
        weights,
        transmittance,
        sums,
        opacity,
        moment,
    )
    return sums, opacity, moment, weights, transmittance


def render_backward(
    offsets: I8,
    density: F4,
    values: F4,
    starts: F4,
    ends: F4,
    weights: F4,
    transmittance: F4,
    grad_sums: F4,
    grad_opacity: F4,
    grad_moment: F4,
    grad_weights: F4 | None,
    need_values: bool,
) -> tuple[F4, F4 | None]:
    """Gradients of densities (m) and values (m, c; None if not needed) from those of the outputs."""
    grad_density = np.empty_like(density)
    grad_values = np.empty((len(values) if need_values else 0, values.shape[1]), np.float32)
    _backward(
        cache.get_threads(),
        offsets,
        density,
        values,
        starts,
        ends,
        weights,
        transmittance,
        grad_sums,
        grad_opacity,
        grad_moment,
        np.empty(0, np.float32) if grad_weights is None else grad_weights,
        grad_density,
        grad_values,
    )
    return grad_density, grad_values if need_values else None
