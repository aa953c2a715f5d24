"""Area resampling: each new pixel is the mean of exactly the area of the photo that it covers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor


def downscaled_size(size: tuple[int, int], downscale: float) -> tuple[int, int]:
    """``(width, height)`` divided by `downscale`, rounded to whole pixels (halves up), at least 1."""
    width, height = (max(1, math.floor(n / downscale + 0.5)) for n in size)
    return width, height


def resize_area(image: UInt8[Tensor, "h w c"], size: tuple[int, int]) -> UInt8[Tensor, "h2 w2 c"]:
    """Resize an 8-bit photo to ``size = (width, height)`` by exact area averaging.

    Four channels are RGB with straight alpha: colours are averaged with their alpha as weight, so what is transparent
    does not bleed into the edges, and compositing the result equals resizing the composited photo up to rounding.
    Releases the interpreter lock, so several threads can resize at once.
    """
    height, width, channels = image.shape
    if (width, height) == size:
        return image
    resized = np.empty((size[1], size[0], channels), dtype=np.uint8)
    _average(
        image.contiguous().numpy(), *_coverage(height, size[1]), *_coverage(width, size[0]), channels == 4, resized
    )
    return torch.from_numpy(resized)


def resize_mask(mask: Bool[Tensor, "h w"], size: tuple[int, int]) -> Bool[Tensor, "h2 w2"]:
    """Resize a mask to ``size = (width, height)``: True only where all of the covered area is True.

    So a resized pixel never mixes in what was masked out.
    """
    height, width = mask.shape
    if (width, height) == size:
        return mask
    # Sums over all rectangles from the corner; integers, so that "none is False" is exact.
    sums = np.zeros((height + 1, width + 1), dtype=np.int64)
    np.cumsum(np.cumsum(~mask.numpy(), axis=0, dtype=np.int64), axis=1, out=sums[1:, 1:])
    top, bottom = _touched(height, size[1])
    left, right = _touched(width, size[0])
    excluded = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    return torch.from_numpy(excluded == 0)


def _touched(length: int, new_length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First, and one past the last, old pixel that each new pixel covers any part of."""
    new = np.arange(new_length, dtype=np.int64)
    return new * length // new_length, -((-(new + 1) * length) // new_length)


def _coverage(length: int, new_length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The first old pixel of each new one, and the shares of its area (new_length, taps) from that pixel on."""
    first, last = _touched(length, new_length)
    edges = np.arange(new_length + 1) * length / new_length
    pixels = first[:, None] + np.arange(int((last - first).max()))
    low = np.maximum(edges[:-1, None], pixels)
    high = np.minimum(edges[1:, None], pixels + 1)
    # Taps beyond the last pixel have no area; kept at zero exactly, they are skipped.
    shares = np.where(pixels < last[:, None], np.clip(high - low, 0, None), 0)
    return first, (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


def _compiled(function: Callable[..., None]) -> Any:
    """Compile to machine code, kept on disk between runs where there is a place to write to."""
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


@_compiled
def _average(
    image: npt.NDArray[np.uint8],
    first_row: npt.NDArray[np.int64],
    row_shares: npt.NDArray[np.float32],
    first_column: npt.NDArray[np.int64],
    column_shares: npt.NDArray[np.float32],
    with_alpha: bool,
    out: npt.NDArray[np.uint8],
) -> None:
    """Average down the columns into one row of floats, then along it."""
    _, width, channels = image.shape
    row = np.empty((width, channels), dtype=np.float32)
    mean = np.empty(channels, dtype=np.float32)
    for i in range(out.shape[0]):
        row[:] = 0
        for tap in range(row_shares.shape[1]):
            share = row_shares[i, tap]
            if share == 0:
                continue
            y = first_row[i] + tap
            if with_alpha:
                for x in range(width):
                    weight = share * np.float32(image[y, x, 3])
                    row[x, 0] += weight * np.float32(image[y, x, 0])
                    row[x, 1] += weight * np.float32(image[y, x, 1])
                    row[x, 2] += weight * np.float32(image[y, x, 2])
                    row[x, 3] += weight
            else:
                for x in range(width):
                    for c in range(channels):
                        row[x, c] += share * np.float32(image[y, x, c])
        for j in range(out.shape[1]):
            mean[:] = 0
            for tap in range(column_shares.shape[1]):
                share = column_shares[j, tap]
                if share > 0:
                    for c in range(channels):
                        mean[c] += share * row[first_column[j] + tap, c]
            if with_alpha:
                # Where all is transparent the colours are zero too, and any positive divisor will do.
                visible = max(mean[3], np.float32(1e-6))
                for c in range(3):
                    mean[c] /= visible
            for c in range(channels):
                out[i, j, c] = np.uint8(min(mean[c] + np.float32(0.5), np.float32(255)))
