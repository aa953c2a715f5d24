"""Photos as the loss takes them: 8-bit pixels to planes over a background, and the squared error between planes."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from . import cache
from .elementary import f32, lanewise
from .layout import check_array

_SCALE = f32(1.0 / 255.0)


@lanewise
def _compose_rows(first: int, end: int, pixels: np.ndarray, background: np.ndarray, planes: np.ndarray) -> None:
    channels = pixels.shape[2]
    for y in range(first, end):
        for x in range(pixels.shape[1]):
            alpha = f32(pixels[y, x, 3]) * _SCALE if channels == 4 else f32(1.0)
            for c in range(3):
                behind = background[c]
                planes[c, y, x] = behind + alpha * (f32(pixels[y, x, c]) * _SCALE - behind)


@cache.kernel("void(i8, Array(u1, 3, 'C', readonly=True), f4[::1], f4[:,:,::1])", parallel=True)
def _compose(shares: int, pixels: np.ndarray, background: np.ndarray, planes: np.ndarray) -> None:
    height = pixels.shape[0]
    for share in numba.prange(shares):
        _compose_rows(share * height // shares, (share + 1) * height // shares, pixels, background, planes)


def compose(pixels: NDArray[np.uint8], background: NDArray[np.float32], planes: NDArray[np.float32]) -> None:
    """Composite a photo: alpha * rgb + (1 - alpha) * background.

    Args:
        pixels: (H, W, 3), or (H, W, 4) with straight alpha.
        background: (3,).
        planes: (3, H, W), written; in [0, 1].

    Raises:
        ValueError: A shape, dtype or layout in memory is not as above.
    """
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise ValueError(f"pixels must have shape (H, W, 3 or 4), got {pixels.shape}")
    check_array("pixels", pixels, pixels.shape, np.uint8)
    check_array("background", background, (3,))
    check_array("planes", planes, (3, *pixels.shape[:2]))
    _compose(cache.get_threads(), pixels, background, planes)


@lanewise
def _squared_error_rows(first: int, end: int, a: np.ndarray, b: np.ndarray) -> float:
    total = 0.0
    for c in range(a.shape[0]):
        for y in range(first, end):
            # One row a sum in single precision, rows added in double: fast, and exact enough for thousands of rows.
            row = f32(0.0)
            for x in range(a.shape[2]):
                d = a[c, y, x] - b[c, y, x]
                row += d * d
            total += row
    return total


@cache.kernel("void(i8, f4[:,:,::1], f4[:,:,::1], f8[::1])", parallel=True)
def _squared_error(shares: int, a: np.ndarray, b: np.ndarray, sums: np.ndarray) -> None:
    height = a.shape[1]
    for share in numba.prange(shares):
        sums[share] = _squared_error_rows(share * height // shares, (share + 1) * height // shares, a, b)


def mean_squared_error(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Mean of (a - b)^2 over two images (C, H, W)."""
    check_array("b", b, a.shape)
    sums = np.zeros(cache.get_threads(), np.float64)
    _squared_error(cache.get_threads(), a, b, sums)
    return float(sums.sum() / a.size)
