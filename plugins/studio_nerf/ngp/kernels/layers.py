"""The two small networks on a block of samples: rows are samples, all of it stays in the L2 cache.

Density network: features -> hidden (ReLU) -> 16 outputs, the first of which is the log of the density. Colour network:
those 16 outputs and what belongs to the ray (direction, photo) -> hidden -> hidden (ReLU) -> 3 logits. Without biases.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache
from studio.kernels.elementary import exp
from studio.kernels.vec import element, load, minimum, put, splat, store

from .matmul import multiply_relu, multiply_store

GEOMETRY = 16
"""Outputs of the density network."""
DENSITY_SHIFT = np.float32(1.0)
"""A new field, whose logits are near 0, starts with density 1/e: thin enough to see through."""
LOG_DENSITY_LIMIT = np.float32(15.0)
"""Where the exponential ends; the gradient is cut there as well."""
BLOCK = 128
"""Samples that a block is filled up to."""

f32 = np.float32
_ZERO, _ONE = f32(0.0), f32(1.0)

WEIGHTS = "UniTuple(Array(f4, 2, 'C'), 5)"
"""Signature of the layers' matrices (inputs, outputs), outputs padded to whole vectors; or of their transposes."""

Weights = tuple[NDArray[np.float32], ...]


@cache.inline
def layout(rows: int, features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Where each matrix of a block of `rows` samples begins in a worker's scratch: x, h1, c, h2, h3, o; and its end."""
    at = np.empty(7, np.int64)
    at[0] = 0
    at[1] = rows * features.shape[0] * 4
    at[2] = at[1] + rows * weights[0].shape[1]
    at[3] = at[2] + rows * weights[2].shape[0]
    at[4] = at[3] + rows * weights[2].shape[1]
    at[5] = at[4] + rows * weights[3].shape[1]
    at[6] = at[5] + rows * weights[4].shape[1]
    return at


@cache.inline
def gather_features(
    scratch: np.ndarray, at: int, rows: int, features: np.ndarray, samples: np.ndarray, first: int, count: int
) -> None:
    """Rows of features of `count` samples from `first` on, padded with zeros to `rows`."""
    width = 4 * features.shape[0]
    for level in range(features.shape[0]):
        base = level * features.shape[1]
        for s in range(count):
            source = 4 * (base + element(samples, first + s))
            target = at + s * width + 4 * level
            for k in range(4):
                put(scratch, target + k, element(features, source + k))
    for k in range(at + count * width, at + rows * width):
        put(scratch, k, _ZERO)


@cache.inline
def density_forward(scratch: np.ndarray, at: np.ndarray, rows: int, features: np.ndarray, weights: np.ndarray) -> None:
    """x -> h1 -> the first 16 columns of c."""
    w1, w2 = weights[0], weights[1]
    inputs, hidden, wide = 4 * features.shape[0], w1.shape[1], weights[2].shape[0]
    multiply_relu(scratch, at[0], inputs, 1, w1, 0, hidden, scratch, at[1], hidden, rows, inputs, hidden)
    multiply_store(scratch, at[1], hidden, 1, w2, 0, GEOMETRY, scratch, at[2], wide, rows, hidden, GEOMETRY)


@cache.inline
def color_forward(scratch: np.ndarray, at: np.ndarray, rows: int, weights: np.ndarray) -> None:
    """c -> h2 -> h3 -> o."""
    w3, w4, w5 = weights[2], weights[3], weights[4]
    wide, h2, h3, out = w3.shape[0], w3.shape[1], w4.shape[1], w5.shape[1]
    multiply_relu(scratch, at[2], wide, 1, w3, 0, h2, scratch, at[3], h2, rows, wide, h2)
    multiply_relu(scratch, at[3], h2, 1, w4, 0, h3, scratch, at[4], h3, rows, h2, h3)
    multiply_store(scratch, at[4], h3, 1, w5, 0, out, scratch, at[5], out, rows, h3, out)


@cache.inline
def take_column(scratch: np.ndarray, at: int, stride: int, count: int, rows: int, target: int) -> None:
    """A column of a matrix as a contiguous run of `rows` numbers, zero from `count` on."""
    for s in range(count):
        put(scratch, target + s, element(scratch, at + s * stride))
    for s in range(count, rows):
        put(scratch, target + s, _ZERO)


@cache.inline
def density_of(logits: np.ndarray) -> np.ndarray:
    """Densities of sixteen first outputs."""
    return exp(minimum(logits - DENSITY_SHIFT, LOG_DENSITY_LIMIT))


@cache.inline
def sigmoid(x: np.ndarray) -> np.ndarray:
    return splat(_ONE) / (_ONE + exp(splat(_ZERO) - x))


@cache.inline
def densities(scratch: np.ndarray, at: int, rows: int) -> None:
    """Turn `rows` logits, a multiple of 16, into densities."""
    for s in range(at, at + rows, 16):
        store(scratch, s, density_of(load(scratch, s)))
