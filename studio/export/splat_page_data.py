"""Gaussians as the bytes that a web page embeds: quantised within chunks of neighbours, one plane a byte, compressed.

A chunk is 256 Gaussians that lie close together (Morton order); each has a table of the ranges that its 8- and 16-bit
numbers run over, so that what is far away does not coarsen what is near. The planes hold the same byte of all
Gaussians one after the other, which compresses better than whole records.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from studio.export.gaussians import SH_C0, GaussianCloud
from studio.export.splat_packing import opacity_bytes, spatial_order, split_largest, unit_quaternions

MAX_PAGE_DEGREE = 3
CHUNK = 256
TABLE_COLUMNS = 20
"""Floats a chunk: lowest and then extent of x, y, z and of the logarithms of the scales; of red, green, blue and of the
coefficients of degree 1; lowest and extent of those of degree 2, and of degree 3."""

_LARGEST_RATIO = 12.0
"""Logarithms of the scales reach at most so far below a chunk's largest: what is thinner is as good as flat."""
_LEAST_OPACITY = 1.0
"""Of 255: what is less opaque is never drawn."""


@dataclass(frozen=True)
class PackedGaussians:
    """What the page's script reads."""

    count: int
    sh_degree: int
    """0 to 3."""
    data: bytes
    """zlib of: the table, float32 (chunks, 20); then planes of `count` bytes: x, y and z low and high, 3 of the scales,
    4 of the rotation, red, green, blue, opacity, and 3 for each coefficient above degree 0."""


def pack_gaussians(cloud: GaussianCloud, origin: np.ndarray) -> PackedGaussians:
    """Quantise and compress a cloud. Gaussians that are nowhere opaque enough to be drawn are left out.

    Args:
        cloud: At least one Gaussian, finite but for logits and scales; degree 4 is cut to 3.
        origin: float64 (3); positions are stored relative to it.
    """
    cloud = cloud.truncated(min(cloud.sh_degree, MAX_PAGE_DEGREE))
    visible = (cloud.logit_opacities.detach().double().sigmoid() * 255 >= _LEAST_OPACITY).cpu()
    if bool(visible.any()):
        cloud = cloud.select(visible)
    order = spatial_order(cloud.means)
    fields = {name: values.detach().cpu().double().numpy() for name, values in cloud.tensors().items()}
    means = fields["means"][order] - origin
    colors = 0.5 + SH_C0 * fields["sh"][order, 0]
    rest = fields["sh"][order, 1:].reshape(len(order), -1)

    count, degree = len(order), cloud.sh_degree
    table = np.zeros((-(-count // CHUNK), TABLE_COLUMNS), np.float32)
    planes: list[np.ndarray] = []
    low, extent = _ranges(means)
    table[:, 0:3], table[:, 4:7] = low, extent
    for column in _quantised(means, low, extent, 0xFFFF).T:
        planes += [(column & 0xFF).astype(np.uint8), (column >> 8).astype(np.uint8)]

    scales = _clipped(fields["log_scales"][order])
    low, extent = _ranges(scales, joint=True)
    table[:, 3:4], table[:, 7:8] = low, extent
    planes += [*_quantised(scales, low, extent, 0xFF).astype(np.uint8).T]

    planes += [*_rotation_bytes(unit_quaternions(cloud.quats)[order]).T]

    low, extent = _ranges(colors)
    table[:, 8:11], table[:, 12:15] = low, extent
    planes += [*_quantised(colors, low, extent, 0xFF).astype(np.uint8).T]
    planes.append(opacity_bytes(cloud)[order])

    for band in range(1, degree + 1):
        part = rest[:, 3 * (band * band - 1) : 3 * ((band + 1) ** 2 - 1)]
        low, extent = _ranges(part, joint=True)
        first, second = {1: (11, 15), 2: (16, 17), 3: (18, 19)}[band]
        table[:, first : first + 1], table[:, second : second + 1] = low, extent
        planes += [*_quantised(part, low, extent, 0xFF).astype(np.uint8).T]
    raw = table.astype("<f4").tobytes() + b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes)
    return PackedGaussians(count, degree, zlib.compress(raw, 6))


def _chunked(values: np.ndarray, ufunc: np.ufunc) -> np.ndarray:
    return ufunc.reduceat(values, np.arange(0, len(values), CHUNK), axis=0)


def _ranges(values: np.ndarray, *, joint: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Lowest value and extent of each chunk, float32 (chunks, columns), or (chunks, 1) of all columns together."""
    low, high = _chunked(values, np.minimum), _chunked(values, np.maximum)
    if joint:
        low, high = low.min(axis=1, keepdims=True), high.max(axis=1, keepdims=True)
    rounded = low.astype(np.float32)
    return rounded, (high - rounded).astype(np.float32)


def _quantised(values: np.ndarray, low: np.ndarray, extent: np.ndarray, steps: int) -> np.ndarray:
    """Nearest of steps + 1 levels of each chunk's range, uint32."""
    low, extent = (np.repeat(part, CHUNK, axis=0)[: len(values)].astype(np.float64) for part in (low, extent))
    share = np.divide(values - low, extent, out=np.zeros_like(values), where=extent > 0)
    return np.rint(np.clip(share, 0, 1) * steps).astype(np.uint32)


def _clipped(log_scales: np.ndarray) -> np.ndarray:
    """Without the extremely thin, whose range would coarsen all others of the chunk."""
    highest = _chunked(log_scales, np.maximum).max(axis=1)
    highest = np.where(np.isfinite(highest), highest, 0.0)
    return np.maximum(log_scales, (np.repeat(highest, CHUNK)[: len(log_scales)] - _LARGEST_RATIO)[:, None])


def _rotation_bytes(quats: np.ndarray) -> np.ndarray:
    """uint8 (n, 4), little-endian: 2 bits say which of w, x, y, z is largest, 3 times 10 bits are the others."""
    index, rest = split_largest(quats)
    levels = np.rint((np.clip(rest * math.sqrt(2), -1, 1) + 1) / 2 * 1023).astype(np.uint32)
    packed = index.astype(np.uint32) | levels[:, 0] << 2 | levels[:, 1] << 12 | levels[:, 2] << 22
    return packed.astype("<u4").view(np.uint8).reshape(-1, 4)
