"""Records of splats from one array a quantity, and back for gradients; pictures from planes to pixels, and back."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache

from .arrays import CONIC_SCALES
from .records import TILE
from .shares import share

_A_SCALE, _B_SCALE, _C_SCALE = (np.float32(value) for value in CONIC_SCALES)
_LN_2 = np.float32(math.log(2))


@cache.device
def _fill_records(
    first: int,
    last: int,
    means2d: Any,
    conics: Any,
    opacities: Any,
    features: Any,
    depths: Any,
    radii: Any,
    grid: float,
    records: Any,
) -> float:
    """Write the records `first` to `last`; returns a bound of their pairs with tiles."""
    colours = min(features.shape[1], 3)
    bound = 0.0
    for j in range(first, last):
        records[j, 0], records[j, 1] = means2d[j, 0], means2d[j, 1]
        records[j, 2] = conics[j, 0] * _A_SCALE
        records[j, 3] = conics[j, 1] * _B_SCALE
        records[j, 4] = conics[j, 2] * _C_SCALE
        records[j, 5] = np.log2(opacities[j])
        for c in range(3):
            records[j, 6 + c] = features[j, c] if c < colours else np.float32(0.0)
        records[j, 9] = depths[j]
        for c in range(12, 16):
            records[j, c] = np.float32(0.0)
        width, height = np.float64(radii[j, 0]), np.float64(radii[j, 1])
        records[j, 10], records[j, 11] = np.float32(width), np.float32(height)
        bound += min((width * 2 / TILE + 2) * (height * 2 / TILE + 2), grid)
    return bound


@cache.kernel(
    "void(f4[:,::1], f4[:,::1], f4[::1], f4[:,::1], f4[::1], i4[:,::1], f8, f4[:,::1], f8[::1])", parallel=True
)
def _records(
    means2d: Any,
    conics: Any,
    opacities: Any,
    features: Any,
    depths: Any,
    radii: Any,
    grid: float,
    records: Any,
    bounds: Any,
) -> None:
    shares = bounds.shape[0]
    for part in numba.prange(shares):
        t = np.int64(part)
        first, last = share(len(records), t, shares), share(len(records), t + 1, shares)
        bounds[t] = _fill_records(first, last, means2d, conics, opacities, features, depths, radii, grid, records)


def fill_records(
    means2d: NDArray[np.float32],
    conics: NDArray[np.float32],
    opacities: NDArray[np.float32],
    features: NDArray[np.float32] | None,
    depths: NDArray[np.float32],
    radii: NDArray[np.int32],
    width: int,
    height: int,
    records: NDArray[np.float32],
) -> float:
    """Write the records that the rasteriser takes.

    Args:
        means2d: (M, 2), pixels.
        conics: (M, 3), upper triangles.
        opacities: (M,).
        features: (M, C): the first three are the records' colours; None leaves those 0.
        depths: (M,), what the splats are sorted by.
        radii: (M, 2), half extents in whole pixels.
        width: Of the image, pixels.
        height: Of the image, pixels.
        records: (M, 16), written.

    Returns:
        At least as many pairs of a tile and a splat as there are, by the bounding boxes.
    """
    bounds = np.empty(cache.get_threads(), np.float64)
    grid = float(-(-width // TILE) * -(-height // TILE))
    features = np.empty((0, 0), np.float32) if features is None else features
    _records(means2d, conics, opacities, features, depths, radii, grid, records, bounds)
    return float(bounds.sum())


@cache.device
def _split_rows(
    first: int,
    last: int,
    rows: Any,
    opacities: Any,
    v_means2d: Any,
    v_conics: Any,
    v_opacities: Any,
    v_features: Any,
    absgrad: Any,
) -> None:
    channels = v_features.shape[1]
    for j in range(first, last):
        v_means2d[j, 0], v_means2d[j, 1] = rows[j, 0], rows[j, 1]
        v_conics[j, 0] = rows[j, 2] * _A_SCALE
        v_conics[j, 1] = rows[j, 3] * _B_SCALE
        v_conics[j, 2] = rows[j, 4] * _C_SCALE
        v_opacities[j] = rows[j, 5] / (opacities[j] * _LN_2)
        for c in range(channels):
            v_features[j, c] = rows[j, 6 + c]
        if absgrad.shape[0]:
            absgrad[j, 0] += rows[j, 10]
            absgrad[j, 1] += rows[j, 11]


@cache.kernel("void(i8, f4[:,::1], f4[::1], f4[:,::1], f4[:,::1], f4[::1], f4[:,::1], f4[:,::1])", parallel=True)
def _split(
    shares: int,
    rows: Any,
    opacities: Any,
    v_means2d: Any,
    v_conics: Any,
    v_opacities: Any,
    v_features: Any,
    absgrad: Any,
) -> None:
    for part in numba.prange(shares):
        t = np.int64(part)
        first, last = share(len(opacities), t, shares), share(len(opacities), t + 1, shares)
        _split_rows(first, last, rows, opacities, v_means2d, v_conics, v_opacities, v_features, absgrad)


def split_rows(
    rows: NDArray[np.float32],
    opacities: NDArray[np.float32],
    channels: int,
    absgrad: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Gradients with respect to what `fill_records` was given, as new arrays.

    Args:
        rows: (M, 16) of `rasterize_backward`.
        opacities: (M,) as given to `fill_records`.
        channels: Of the features that lie in the records, 0 to 4; the fourth is the depth.
        absgrad: (M, 2), to which the sums of absolute gradients are added; or None.

    Returns:
        Those of means2d (M, 2), conics (M, 3), opacities (M,) and features (M, channels).
    """
    m = len(opacities)
    found = (
        np.empty((m, 2), np.float32),
        np.empty((m, 3), np.float32),
        np.empty(m, np.float32),
        np.empty((m, channels), np.float32),
    )
    into = np.empty((0, 2), np.float32) if absgrad is None else absgrad
    _split(cache.get_threads(), rows[:m], opacities, *found, into)
    return found


@cache.device
def _copy_pixels(planes: Any, pixels: Any, channels: int, first: int, last: int, to_pixels: bool) -> None:
    for c in range(channels):
        for i in range(first, last):
            if to_pixels:
                pixels[i, c] = planes[c, i]
            else:
                planes[c, i] = pixels[i, c]


@cache.kernel("void(i8, f4[:,::1], f4[:,::1], b1)", parallel=True)
def _exchange(shares: int, planes: Any, pixels: Any, to_pixels: bool) -> None:
    for part in numba.prange(shares):
        t = np.int64(part)
        first, last = share(len(pixels), t, shares), share(len(pixels), t + 1, shares)
        _copy_pixels(planes, pixels, pixels.shape[1], first, last, to_pixels)


def pixels_of(planes: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """(H, W, channels), new, of the first planes of (C, H, W)."""
    _, height, width = planes.shape
    pixels = np.empty((height, width, channels), np.float32)
    _exchange(cache.get_threads(), planes.reshape(len(planes), -1), pixels.reshape(-1, channels), True)
    return pixels


def fill_planes(pixels: NDArray[np.float32], planes: NDArray[np.float32]) -> None:
    """Write (H, W, channels) into the first planes of (C, H, W); the others become 0."""
    channels = pixels.shape[2]
    planes[channels:] = 0
    _exchange(cache.get_threads(), planes.reshape(len(planes), -1), pixels.reshape(-1, channels), False)
