"""Adam on a dense matrix whose gradient lies in shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache
from studio.kernels.elementary import f32, lanewise


@lanewise
def _step(
    value: np.ndarray, gradients: np.ndarray, at: int, width: int, first: np.ndarray, second: np.ndarray,
    adam: np.ndarray,
) -> None:  # fmt: skip
    rate, keep1, keep2, unbias2, epsilon = adam[0], adam[1], adam[2], adam[3], adam[4]
    for i in range(value.shape[0]):
        for j in range(value.shape[1]):
            g = f32(0.0)
            for share in range(gradients.shape[0]):
                g += gradients[share, at + i * width + j]
            first[i, j] = first[i, j] * keep1 + g * (f32(1.0) - keep1)
            second[i, j] = second[i, j] * keep2 + g * g * (f32(1.0) - keep2)
            value[i, j] -= rate * first[i, j] / (np.sqrt(second[i, j] * unbias2) + epsilon)


@cache.kernel("void(f4[:,::1], f4[:,::1], i8, i8, f4[:,::1], f4[:,::1], f4[::1])")
def _adam(
    value: np.ndarray, gradients: np.ndarray, at: int, width: int, first: np.ndarray, second: np.ndarray,
    adam: np.ndarray,
) -> None:  # fmt: skip
    _step(value, gradients, at, width, first, second, adam)


def adam_matrix(
    value: NDArray[np.float32], gradients: NDArray[np.float32], at: int, width: int, first: NDArray[np.float32],
    second: NDArray[np.float32], adam: NDArray[np.float32],
) -> None:  # fmt: skip
    """One Adam step on a matrix.

    Args:
        value: (rows, columns), updated.
        gradients: (shares, ...): row i begins at ``at + i * width`` of each share; the shares are added in order.
        at: Where the matrix begins.
        width: Columns that a row of the gradient has, padding included.
        first: (rows, columns), updated.
        second: (rows, columns), updated.
        adam: rate / (1 - b1^t), b1, b2, 1 / (1 - b2^t), epsilon.
    """
    _adam(value, gradients, at, width, first, second, adam)
