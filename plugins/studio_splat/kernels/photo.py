"""Photos as the loss takes them: 8-bit pixels to planes over a background, and the squared error between planes."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache
from studio.kernels.elementary import f32, lanewise

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
def _squared_error_rows(first: int, end: int, image: np.ndarray, target: np.ndarray, sums: np.ndarray) -> None:
    for y in range(first, end):
        total = 0.0
        for c in range(image.shape[0]):
            # One row a sum in single precision, rows added in double: fast, and exact enough for thousands of rows.
            row = f32(0.0)
            for x in range(image.shape[2]):
                d = min(max(image[c, y, x], f32(0.0)), f32(1.0)) - target[c, y, x]
                row += d * d
            total += row
        sums[y] = total


@lanewise
def _masked_error_rows(
    first: int, end: int, image: np.ndarray, target: np.ndarray, mask: np.ndarray, sums: np.ndarray
) -> None:
    for y in range(first, end):
        total = 0.0
        for c in range(image.shape[0]):
            row = f32(0.0)
            for x in range(image.shape[2]):
                if mask[y, x]:
                    d = min(max(image[c, y, x], f32(0.0)), f32(1.0)) - target[c, y, x]
                    row += d * d
            total += row
        sums[y] = total


@cache.kernel("void(i8, f4[:,:,::1], f4[:,:,::1], Array(b1, 2, 'C', readonly=True), f8[::1])", parallel=True)
def _squared_error(shares: int, image: np.ndarray, target: np.ndarray, mask: np.ndarray, sums: np.ndarray) -> None:
    height = image.shape[1]
    for share in numba.prange(shares):
        first, end = share * height // shares, (share + 1) * height // shares
        if mask.shape[0] == 0:
            _squared_error_rows(first, end, image, target, sums)
        else:
            _masked_error_rows(first, end, image, target, mask, sums)


def mean_squared_error(
    image: NDArray[np.float32], target: NDArray[np.float32], mask: NDArray[np.bool_] | None = None
) -> float:
    """Mean of (clamp(image) - target)^2, as evaluation measures it, whatever the number of threads.

    Args:
        image: (C, H, W), clamped to [0, 1].
        target: (C, H, W).
        mask: (H, W), True where pixels count; None for all.

    Raises:
        ValueError: A shape, dtype or layout in memory is not as above, or no pixel counts.
    """
    check_array("image", image, image.shape)
    check_array("target", target, image.shape)
    channels, height, width = image.shape
    counted = height * width
    if mask is not None:
        check_array("mask", mask, (height, width), np.bool_)
        counted = int(np.count_nonzero(mask))
    if counted == 0:
        raise ValueError("no pixel counts: the mask is zero everywhere")
    sums = np.empty(height, np.float64)
    _squared_error(cache.get_threads(), image, target, np.empty((0, 0), np.bool_) if mask is None else mask, sums)
    return float(sums.sum() / (channels * counted))
