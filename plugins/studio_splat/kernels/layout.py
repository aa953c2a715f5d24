"""The training layout: blocks of 16 Gaussians, one row of 16 lanes for each parameter.

An array (blocks, R, 16) holds, for lane i of block b, Gaussian 16 b + i. Rows: 0-2 mean, 3-6 quaternion (w, x, y, z, of
any length but zero), 7-9 log of the scale, 10 logit of the opacity, then the spherical-harmonic coefficients,
coefficient-major: 11-13 rgb of k = 0, 14-16 rgb of k = 1, ...; R = 11 + 3 (degree + 1)^2, or 11 without colours. One
parameter of 16 neighbours is one vector load, and a block is one contiguous stretch of memory.

The last block is filled up with Gaussians that no camera sees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from studio.kernels import cache

from .sh import MAX_DEGREE

LANES = 16
GEOMETRY_ROWS = 11
PADDING_LOGIT = np.float32(-1e4)
"""Logit of the padding's opacity: far below 1/255, so that projection culls it."""

_ALIGNMENT = 64


def aligned_empty(shape: tuple[int, ...], dtype: type = np.float32) -> NDArray:
    """An uninitialised C-contiguous array that starts on a cache line, as vector loads like it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def aligned_zeros(shape: tuple[int, ...], dtype: type = np.float32) -> NDArray:
    """As `aligned_empty`, filled with zeros."""
    array = aligned_empty(shape, dtype)
    array.fill(0)
    return array


def block_count(gaussians: int) -> int:
    """Blocks that hold this many Gaussians."""
    return -(-gaussians // LANES)


def block_rows(sh_degree: int) -> int:
    """Rows of a block that holds spherical harmonics up to this degree; -1 for none."""
    return GEOMETRY_ROWS + 3 * (sh_degree + 1) ** 2


def held_degree(rows: int) -> int:
    """The degree whose `block_rows` this is.

    Raises:
        ValueError: No degree from -1 to 4 has that many rows.
    """
    for degree in range(-1, MAX_DEGREE + 1):
        if block_rows(degree) == rows:
            return degree
    raise ValueError(f"a block has 11 + 3 (degree + 1)^2 rows for a degree of -1 to {MAX_DEGREE}, got {rows}")


def check_array(name: str, array: NDArray, shape: tuple[int, ...], dtype: type = np.float32) -> None:
    """Raise a ValueError that names the array unless it is C-contiguous and of this shape and dtype."""
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name} must be {np.dtype(dtype).name} of shape {shape}, got {got}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous")


def check_blocks(params: NDArray, sh_degree: int, name: str = "params") -> None:
    """Raise a ValueError unless this is a block array that holds spherical harmonics up to `sh_degree`."""
    if not isinstance(params, np.ndarray) or params.ndim != 3 or params.shape[2] != LANES:
        raise ValueError(f"{name} must have shape (blocks, R, 16), got {getattr(params, 'shape', type(params))}")
    check_array(name, params, params.shape)
    held = held_degree(params.shape[1])
    if not -1 <= sh_degree <= held:
        raise ValueError(f"sh_degree must be -1 to {held}, the degree {name} holds, got {sh_degree}")


@cache.kernel("void(f4[:,::1], f4[:,:,::1], i8, f4)")
def _spread(values: np.ndarray, blocks: np.ndarray, row: int, padding: float) -> None:
    """Columns of (N, C) into rows row, ..., row + C - 1."""
    n, columns = values.shape
    for b in range(blocks.shape[0]):
        for i in range(16):
            g = b * 16 + i
            for c in range(columns):
                blocks[b, row + c, i] = values[g, c] if g < n else padding


@cache.kernel("void(f4[:,:,::1], i8, f4[:,::1])")
def _gather(blocks: np.ndarray, row: int, values: np.ndarray) -> None:
    n, columns = values.shape
    for g in range(n):
        for c in range(columns):
            values[g, c] = blocks[g // 16, row + c, g % 16]


def pack(
    means: NDArray[np.float32],
    quats: NDArray[np.float32],
    log_scales: NDArray[np.float32],
    logit_opacities: NDArray[np.float32],
    sh: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Blocks from one array a parameter.

    Args:
        means: (N, 3).
        quats: (N, 4), (w, x, y, z).
        log_scales: (N, 3).
        logit_opacities: (N,).
        sh: (N, (degree + 1)^2, 3), or None for blocks without colours.

    Returns:
        (blocks, R, 16), aligned to cache lines; the padding is never visible.

    Raises:
        ValueError: A shape does not fit.
    """
    means = np.ascontiguousarray(means, np.float32)
    if means.ndim != 2 or means.shape[1] != 3:
        raise ValueError(f"means must have shape (N, 3), got {means.shape}")
    n = len(means)
    parts = [("means", means, 3, 0.0), ("quats", quats, 4, 0.5), ("log_scales", log_scales, 3, 0.0)]
    parts.append(("logit_opacities", np.asarray(logit_opacities).reshape(-1, 1), 1, float(PADDING_LOGIT)))
    if sh is not None:
        if sh.ndim != 3 or sh.shape[2] != 3:
            raise ValueError(f"sh must have shape (N, (degree + 1)^2, 3), got {sh.shape}")
        held_degree(GEOMETRY_ROWS + 3 * sh.shape[1])
        parts.append(("sh", np.asarray(sh).reshape(len(sh), 3 * sh.shape[1]), 3 * sh.shape[1], 0.0))
    blocks = aligned_empty((block_count(n), sum(part[2] for part in parts), LANES))
    row = 0
    for name, values, columns, padding in parts:
        if values.shape != (n, columns):
            raise ValueError(f"{name} must have {columns} numbers for each of {n} Gaussians, got shape {values.shape}")
        _spread(np.ascontiguousarray(values, np.float32), blocks, row, np.float32(padding))
        row += columns
    return blocks


def unpack(blocks: NDArray[np.float32], count: int) -> dict[str, NDArray[np.float32]]:
    """One array a parameter from blocks; also for gradients and moments, which have the same layout.

    Args:
        blocks: (blocks, R, 16).
        count: N, the number of Gaussians without the padding.

    Returns:
        means (N, 3), quats (N, 4), log_scales (N, 3), logit_opacities (N,), and sh (N, K, 3) if there are colours.

    Raises:
        ValueError: `blocks` is not a block array, or holds fewer than `count` Gaussians.
    """
    check_blocks(blocks, -1, "blocks")
    if not 0 <= count <= blocks.shape[0] * LANES:
        raise ValueError(f"count must be 0 to {blocks.shape[0] * LANES}, got {count}")
    coefficients = (blocks.shape[1] - GEOMETRY_ROWS) // 3
    arrays = {}
    row = 0
    for name, columns in (
        ("means", 3),
        ("quats", 4),
        ("log_scales", 3),
        ("logit_opacities", 1),
        ("sh", coefficients * 3),
    ):
        values = np.empty((count, columns), np.float32)
        _gather(blocks, row, values)
        arrays[name] = values
        row += columns
    arrays["logit_opacities"] = arrays["logit_opacities"].reshape(count)
    sh = arrays.pop("sh")
    if coefficients:
        arrays["sh"] = sh.reshape(count, coefficients, 3)
    return arrays


def permute(blocks: NDArray[np.float32], order: NDArray[np.int64]) -> NDArray[np.float32]:
    """The Gaussians order[0], order[1], ... as new blocks; `order` may repeat or leave out Gaussians.

    Lanes past len(order) in the last block are padding, as `pack` makes it.
    """
    check_array("blocks", blocks, blocks.shape)
    count = len(order)
    result = aligned_zeros((block_count(count), *blocks.shape[1:]))
    source = np.ascontiguousarray(order, np.int64)
    if count and (source.min() < 0 or source.max() >= blocks.shape[0] * LANES):
        raise ValueError(f"order must hold indices from 0 to {blocks.shape[0] * LANES - 1}")
    _permute(blocks, source, result)
    return result


@cache.kernel("void(f4[:,:,::1], i8[::1], f4[:,:,::1])")
def _permute(blocks: np.ndarray, order: np.ndarray, result: np.ndarray) -> None:
    for g in range(order.shape[0]):
        source = order[g]
        for row in range(blocks.shape[1]):
            result[g // 16, row, g % 16] = blocks[source // 16, row, source % 16]


@cache.inline
def _spread_bits(value: int) -> int:
    """Insert two zero bits after each of the low 21 bits."""
    value = (value | (value << 32)) & 0x1F00000000FFFF
    value = (value | (value << 16)) & 0x1F0000FF0000FF
    value = (value | (value << 8)) & 0x100F00F00F00F00F
    value = (value | (value << 4)) & 0x10C30C30C30C30C3
    return (value | (value << 2)) & 0x1249249249249249


@cache.kernel("void(f4[:,::1], f8[::1], f8, i8[::1])")
def _morton_codes(means: np.ndarray, low: np.ndarray, scale: float, codes: np.ndarray) -> None:
    for g in range(means.shape[0]):
        code = 0
        for axis in range(3):
            cell = min(max((np.float64(means[g, axis]) - low[axis]) * scale, 0.0), 2097151.0)
            code |= _spread_bits(np.int64(cell)) << axis
        codes[g] = code


def morton_order(means: NDArray[np.float32]) -> NDArray[np.int64]:
    """The order of points along a Z-shaped space-filling curve (Morton 1966), 21 bits an axis.

    Neighbours along the curve are neighbours in space, so the Gaussians of a block are visible together. The grid spans
    the points between the 0.1% and 99.9% quantiles: a few far floaters must not squeeze all others into one cell.

    Args:
        means: (N, 3), finite.

    Returns:
        (N,) permutation; points of one cell keep their order.
    """
    means = np.ascontiguousarray(means, np.float32)
    if means.ndim != 2 or means.shape[1] != 3:
        raise ValueError(f"means must have shape (N, 3), got {means.shape}")
    if len(means) == 0:
        return np.empty(0, np.int64)
    low, high = np.quantile(means, [0.001, 0.999], axis=0)
    extent = float((high - low).max())
    codes = np.empty(len(means), np.int64)
    _morton_codes(means, low.astype(np.float64), 2097151.0 / extent if extent > 0 else 0.0, codes)
    return np.argsort(codes, kind="stable")
