"""Densities, colours and density gradients of samples, without training: for empty space, rendering and normals."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache
from studio.kernels.vec import element, fetch_add, load, put, store

from .layers import (
    BLOCK,
    GEOMETRY,
    WEIGHTS,
    Weights,
    color_forward,
    densities,
    density_forward,
    gather_features,
    layout,
    sigmoid,
    take_column,
)
from .matmul import multiply_mask, multiply_store


def scratch_size(features: int, weights: Weights, rows: int = BLOCK) -> int:
    """Floats that a worker needs for a block."""
    hidden = sum(w.shape[1] for w in (weights[0], weights[2], weights[3], weights[4]))
    return rows * (features + hidden + weights[2].shape[0] + 4)


@cache.device
def _density_blocks(
    counter: np.ndarray, features: np.ndarray, samples: np.ndarray, weights: np.ndarray, scratch: np.ndarray,
    density: np.ndarray,
) -> None:  # fmt: skip
    at = layout(BLOCK, features, weights)
    first = BLOCK * fetch_add(counter, 1)
    while first < samples.shape[0]:
        count = min(BLOCK, samples.shape[0] - first)
        gather_features(scratch, at[0], BLOCK, features, samples, first, count)
        density_forward(scratch, at, BLOCK, features, weights)
        take_column(scratch, at[2], weights[2].shape[0], count, BLOCK, at[6])
        densities(scratch, at[6], BLOCK)
        for s in range(count):
            put(density, first + s, element(scratch, at[6] + s))
        first = BLOCK * fetch_add(counter, 1)


@cache.kernel(f"void(i8, i8[::1], f4[:,:,::1], i4[::1], {WEIGHTS}, f4[:,::1], f4[::1])", parallel=True)
def _density(
    workers: int, counter: np.ndarray, features: np.ndarray, samples: np.ndarray, weights: np.ndarray,
    scratch: np.ndarray, density: np.ndarray,
) -> None:  # fmt: skip
    for worker in numba.prange(workers):
        _density_blocks(counter, features, samples, weights, scratch[worker], density)


def evaluate_density(
    features: NDArray[np.float32], samples: NDArray[np.int32], weights: Weights, density: NDArray[np.float32]
) -> None:
    """Densities of samples.

    Args:
        features: (levels, m, 4), from `encode`.
        samples: (k,), which of the m.
        weights: The layers' matrices.
        density: (k,), written; scene units^-1.
    """
    workers = cache.get_threads()
    scratch = np.empty((workers, scratch_size(4 * len(features), weights)), np.float32)
    _density(workers, np.zeros(1, np.int64), features, samples, weights, scratch, density)


@cache.device
def _color_blocks(
    counter: np.ndarray, features: np.ndarray, samples: np.ndarray, rays: np.ndarray, view: np.ndarray,
    weights: np.ndarray, scratch: np.ndarray, rgb: np.ndarray,
) -> None:  # fmt: skip
    at = layout(BLOCK, features, weights)
    wide, out = weights[2].shape[0], weights[4].shape[1]
    first = BLOCK * fetch_add(counter, 1)
    while first < samples.shape[0]:
        count = min(BLOCK, samples.shape[0] - first)
        gather_features(scratch, at[0], BLOCK, features, samples, first, count)
        density_forward(scratch, at, BLOCK, features, weights)
        for s in range(count):
            source = view.shape[1] * np.int64(element(rays, first + s))
            for k in range(0, view.shape[1], 16):
                store(scratch, at[2] + s * wide + GEOMETRY + k, load(view, source + k))
        color_forward(scratch, at, BLOCK, weights)
        for s in range(count):
            store(scratch, at[5] + s * out, sigmoid(load(scratch, at[5] + s * out)))
            for k in range(3):
                put(rgb, 3 * (first + s) + k, element(scratch, at[5] + s * out + k))
        first = BLOCK * fetch_add(counter, 1)


@cache.kernel(
    f"void(i8, i8[::1], f4[:,:,::1], i4[::1], i4[::1], f4[:,::1], {WEIGHTS}, f4[:,::1], f4[:,::1])", parallel=True
)
def _color(
    workers: int, counter: np.ndarray, features: np.ndarray, samples: np.ndarray, rays: np.ndarray, view: np.ndarray,
    weights: np.ndarray, scratch: np.ndarray, rgb: np.ndarray,
) -> None:  # fmt: skip
    for worker in numba.prange(workers):
        _color_blocks(counter, features, samples, rays, view, weights, scratch[worker], rgb)


def evaluate_color(
    features: NDArray[np.float32], samples: NDArray[np.int32], rays: NDArray[np.int32], view: NDArray[np.float32],
    weights: Weights, rgb: NDArray[np.float32],
) -> None:  # fmt: skip
    """Colours of samples.

    Args:
        features: (levels, m, 4), from `encode`.
        samples: (k,), which of the m.
        rays: (k,), the row of `view` that belongs to each.
        view: (n, v), what the colour network sees of a ray; v a multiple of 16.
        weights: The layers' matrices.
        rgb: (k, 3), written; sRGB in [0, 1].
    """
    workers = cache.get_threads()
    scratch = np.zeros((workers, scratch_size(4 * len(features), weights)), np.float32)
    _color(workers, np.zeros(1, np.int64), features, samples, rays, view, weights, scratch, rgb)


@cache.device
def _slope_blocks(
    counter: np.ndarray, features: np.ndarray, samples: np.ndarray, weights: np.ndarray, transposed: np.ndarray,
    scratch: np.ndarray, upstream: np.ndarray,
) -> None:  # fmt: skip
    at = layout(BLOCK, features, weights)
    inputs, hidden, wide = 4 * features.shape[0], weights[0].shape[1], weights[2].shape[0]
    first = BLOCK * fetch_add(counter, 1)
    while first < samples.shape[0]:
        count = min(BLOCK, samples.shape[0] - first)
        gather_features(scratch, at[0], BLOCK, features, samples, first, count)
        density_forward(scratch, at, BLOCK, features, weights)
        for s in range(BLOCK):
            for k in range(GEOMETRY):
                scratch[at[2] + s * wide + k] = np.float32(1.0) if k == 0 else np.float32(0.0)
        w2, w1 = transposed[1], transposed[0]
        multiply_mask(scratch, at[2], wide, 1, w2, 0, hidden, scratch, at[1], hidden, BLOCK, GEOMETRY, hidden)
        multiply_store(scratch, at[1], hidden, 1, w1, 0, inputs, scratch, at[0], inputs, BLOCK, hidden, inputs)
        for level in range(features.shape[0]):
            for s in range(count):
                for k in range(4):
                    upstream[level, first + s, k] = scratch[at[0] + s * inputs + 4 * level + k]
        first = BLOCK * fetch_add(counter, 1)


@cache.kernel(f"void(i8, i8[::1], f4[:,:,::1], i4[::1], {WEIGHTS}, {WEIGHTS}, f4[:,::1], f4[:,:,::1])", parallel=True)
def _slope(
    workers: int, counter: np.ndarray, features: np.ndarray, samples: np.ndarray, weights: np.ndarray,
    transposed: np.ndarray, scratch: np.ndarray, upstream: np.ndarray,
) -> None:  # fmt: skip
    for worker in numba.prange(workers):
        _slope_blocks(counter, features, samples, weights, transposed, scratch[worker], upstream)


def density_slope(
    features: NDArray[np.float32], samples: NDArray[np.int32], weights: Weights, transposed: Weights,
    upstream: NDArray[np.float32],
) -> None:  # fmt: skip
    """Gradient of the log-density with respect to the features, for surface normals.

    Args:
        features: (levels, m, 4), from `encode`.
        samples: (k,), which of the m.
        weights: The layers' matrices.
        transposed: Their transposes.
        upstream: (levels, at least k, 4), written.
    """
    workers = cache.get_threads()
    scratch = np.empty((workers, scratch_size(4 * len(features), weights)), np.float32)
    _slope(workers, np.zeros(1, np.int64), features, samples, weights, transposed, scratch, upstream)
