"""SuperSplat's compressed PLY: 16 bytes a Gaussian, in chunks of 256 with their own ranges.

Element `chunk`: the least and greatest position, logarithm of the scale and (in newer files) base colour of its
Gaussians, float32. Element `vertex`: four uint32 a Gaussian: position and scale as 11, 10 and 11 bits of the chunk's
range, the three smallest parts of the quaternion as 10 bits behind 2 that name the largest, colour and opacity as 8.
Element `sh`, if any: one byte a coefficient in [-4, 4], in the order of `f_rest_*`.
"""

from __future__ import annotations

import math
import os

import numpy as np
import torch

from studio.errors import StudioError
from studio.export.gaussian_ply import is_marked, mark_comments
from studio.export.gaussians import SH_C0, GaussianCloud
from studio.export.splat_packing import (
    check_finite,
    check_memory,
    checked,
    join_largest,
    logits_of_bytes,
    opacity_bytes,
    spatial_order,
    split_largest,
    unit_quaternions,
)
from studio.files import atomic_write
from studio.reading.ply import PlyHeader, read_ply_element, read_ply_header

MAX_COMPRESSED_DEGREE = 3
_CHUNK = 256
_PACKED = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
_POSITION_RANGE = ("min_x", "min_y", "min_z", "max_x", "max_y", "max_z")
_SCALE_RANGE = ("min_scale_x", "min_scale_y", "min_scale_z", "max_scale_x", "max_scale_y", "max_scale_z")
_COLOR_RANGE = ("min_r", "min_g", "min_b", "max_r", "max_g", "max_b")
_SH_RANGE = 8.0
"""Width of the range of the coefficients above degree 0, around 0."""
_LARGEST_LOG_SCALE = 20.0
"""Logarithms of scales are clamped to this size: infinite ones have no place in a range."""
_DEGREE_OF = {9: 1, 24: 2, 45: 3}


def is_compressed_ply(header: PlyHeader) -> bool:
    """Whether the header is of a compressed PLY, not of a plain one."""
    vertex = header.element("vertex")
    return vertex is not None and _PACKED[0] in vertex.names


def read_compressed_ply(path: str | os.PathLike[str]) -> GaussianCloud:
    """Read SuperSplat's compressed PLY.

    Fully transparent and fully opaque Gaussians get the opacity half a step from the end, whose logit is finite.

    Raises:
        StudioError: Unreadable, another kind of PLY, truncated, fewer chunks than Gaussians need, or ranges that are
            not numbers.
    """
    header = read_ply_header(path)
    chunks, packed, coefficients = _tables(header)
    count = len(packed)
    degree = 0 if coefficients is None else _DEGREE_OF[len(coefficients.dtype.names or ())]
    check_memory(path, count, degree)

    def within(names: tuple[str, ...], parts: np.ndarray) -> np.ndarray:
        """Parts (n, 3) in [0, 1] of each chunk's range."""
        table = np.stack([chunks[name].astype(np.float32) for name in names], axis=1)
        check_finite(header.path, f"{names[0]}..{names[-1]}", table, "chunks")
        low, high = (np.repeat(side, _CHUNK, axis=0)[:count] for side in (table[:, :3], table[:, 3:]))
        return low * (1 - parts) + high * parts

    color = packed["packed_color"]
    rgb = np.stack([color >> shift & 0xFF for shift in (24, 16, 8)], axis=1).astype(np.float32) / np.float32(255)
    if _COLOR_RANGE[0] in (chunks.dtype.names or ()):
        rgb = within(_COLOR_RANGE, rgb)
    rotation = packed["packed_rotation"]
    rest = np.stack([rotation >> shift & 0x3FF for shift in (20, 10, 0)], axis=1).astype(np.float32)
    # In float64, as damaged ranges go to the end of float32.
    sh = torch.from_numpy((rgb[:, None] - np.float64(0.5)) / SH_C0).float()
    if coefficients is not None:
        table = np.stack([coefficients[name] for name in coefficients.dtype.names or ()], axis=1)
        rest_of_sh = torch.from_numpy(_decode_sh(table)).view(count, 3, (degree + 1) ** 2 - 1)
        sh = torch.cat([sh, rest_of_sh.transpose(1, 2)], dim=1)
    cloud = GaussianCloud(
        means=torch.from_numpy(within(_POSITION_RANGE, _unpack_11_10_11(packed["packed_position"]))),
        quats=torch.from_numpy(join_largest(rotation >> 30, (rest / np.float32(0x3FF) - 0.5) * math.sqrt(2))),
        log_scales=torch.from_numpy(within(_SCALE_RANGE, _unpack_11_10_11(packed["packed_scale"]))),
        logit_opacities=logits_of_bytes(color & 0xFF),
        sh=sh,
        antialiased=is_marked(header),
    )
    return checked(header.path, cloud)


def write_compressed_ply(path: str | os.PathLike[str], cloud: GaussianCloud) -> None:
    """Write SuperSplat's compressed PLY. Neighbours share a chunk, so that ranges are small: the order changes.

    Lossy: positions have 10 or 11 bits within the range of a chunk, colours and opacities 8, coefficients above
    degree 0 steps of 1/32 in [-4, 4]. Degree 4 is cut to 3.

    Raises:
        StudioError: The file cannot be written.
    """
    cloud = cloud.select(torch.from_numpy(spatial_order(cloud.means))).truncated(MAX_COMPRESSED_DEGREE)
    count = len(cloud)
    colors = 0.5 + SH_C0 * cloud.sh[:, 0].detach().cpu().double().numpy()
    log_scales = cloud.log_scales.detach().cpu().double().clamp(-_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE).numpy()
    ranges, parts = [], []
    for values in (cloud.means.detach().cpu().double().numpy(), log_scales, colors):
        low, high, part = _within_chunks(values)
        ranges += [low, high]
        parts.append(part)
    index, rest = split_largest(unit_quaternions(cloud.quats))
    rest_bits = _steps(rest / math.sqrt(2) + 0.5, 10)
    color_bits = _steps(parts[2], 8)
    packed = np.empty((count, 4), "<u4")
    packed[:, 0] = _pack_11_10_11(parts[0])
    packed[:, 1] = index.astype(np.uint32) << 30 | rest_bits[:, 0] << 20 | rest_bits[:, 1] << 10 | rest_bits[:, 2]
    packed[:, 2] = _pack_11_10_11(parts[1])
    packed[:, 3] = color_bits[:, 0] << 24 | color_bits[:, 1] << 16 | color_bits[:, 2] << 8 | opacity_bytes(cloud)
    rest_count = 3 * (cloud.sh.shape[1] - 1)
    header = ["ply", "format binary_little_endian 1.0", *mark_comments(cloud), f"element chunk {len(ranges[0])}"]
    header += [f"property float {name}" for name in (*_POSITION_RANGE, *_SCALE_RANGE, *_COLOR_RANGE)]
    header += [f"element vertex {count}", *(f"property uint {name}" for name in _PACKED)]
    if rest_count:
        header += [f"element sh {count}", *(f"property uchar f_rest_{i}" for i in range(rest_count))]
    with atomic_write(path) as file:
        file.write("\n".join([*header, "end_header", ""]).encode("ascii"))
        file.write(np.concatenate(ranges, axis=1).astype("<f4").tobytes())
        file.write(packed.tobytes())
        if rest_count:
            file.write(_encode_sh(cloud.sh[:, 1:].transpose(1, 2).flatten(1).detach().cpu().numpy()).tobytes())


def _tables(header: PlyHeader) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The chunks, the vertices and the coefficients, if any, whose numbers of rows fit each other."""
    wanted = {"chunk": (*_POSITION_RANGE, *_SCALE_RANGE), "vertex": _PACKED}
    for element_name, names in wanted.items():
        element = header.element(element_name)
        missing = next((name for name in names if element is None or name not in element.names), None)
        if missing is not None:
            raise StudioError(
                f"{header.path}: the {element_name} property '{missing}' of a compressed PLY is missing.",
                fix="Export it again, for example from SuperSplat.",
            )
    chunks, packed = read_ply_element(header, "chunk"), read_ply_element(header, "vertex")
    for name in _PACKED:
        if packed.dtype[name].kind != "u" or packed.dtype[name].itemsize != 4:
            raise StudioError(f"{header.path}: the vertex property '{name}' must be a uint.", fix="Export it again.")
    has_colors = [name for name in _COLOR_RANGE if name in (chunks.dtype.names or ())]
    if len(has_colors) not in (0, len(_COLOR_RANGE)):
        raise StudioError(
            f"{header.path}: the element 'chunk' has only {', '.join(has_colors)} of its range of colours.",
            fix="Export it again, for example from SuperSplat.",
        )
    needed = -(-len(packed) // _CHUNK)
    if len(chunks) != needed:
        raise StudioError(
            f"{header.path}: has {len(chunks):,} chunks; {len(packed):,} Gaussians have {needed:,}.",
            fix="The file is damaged: fetch or export it again.",
        )
    if header.element("sh") is None:
        return chunks, packed, None
    coefficients = read_ply_element(header, "sh")
    names = coefficients.dtype.names or ()
    if (
        len(coefficients) != len(packed)
        or len(names) not in _DEGREE_OF
        or set(names) != {f"f_rest_{i}" for i in range(len(names))}
        or any(coefficients.dtype[name] != np.uint8 for name in names)
    ):
        raise StudioError(
            f"{header.path}: the element 'sh' must have 9, 24 or 45 properties f_rest_* of type uchar for each of "
            f"{len(packed):,} Gaussians; it has {len(names)} for {len(coefficients):,}.",
            fix="The file is damaged: fetch or export it again.",
        )
    return chunks, packed, coefficients[[f"f_rest_{i}" for i in range(len(names))]]


def _within_chunks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least and greatest values (chunks, 3) in float32, and where in between the values (n, 3) are, in [0, 1]."""
    starts = np.arange(0, len(values), _CHUNK)
    if len(values) == 0:
        return np.zeros((0, 3)), np.zeros((0, 3)), values
    low = np.minimum.reduceat(values, starts).astype(np.float32).astype(np.float64)
    high = np.maximum.reduceat(values, starts).astype(np.float32).astype(np.float64)
    first, width = (np.repeat(side, _CHUNK, axis=0)[: len(values)] for side in (low, high - low))
    parts = np.divide(values - first, width, out=np.zeros_like(first), where=width > 0)
    return low, high, parts


def _steps(parts: np.ndarray, bits: int) -> np.ndarray:
    """Numbers in [0, 1] as whole steps of so many bits."""
    last = (1 << bits) - 1
    return np.clip(np.floor(parts * last + 0.5), 0, last).astype(np.uint32)


def _pack_11_10_11(parts: np.ndarray) -> np.ndarray:
    return _steps(parts[:, 0], 11) << 21 | _steps(parts[:, 1], 10) << 11 | _steps(parts[:, 2], 11)


def _unpack_11_10_11(packed: np.ndarray) -> np.ndarray:
    steps = np.stack([packed >> 21 & 0x7FF, packed >> 11 & 0x3FF, packed & 0x7FF], axis=1)
    return steps.astype(np.float32) / np.array([0x7FF, 0x3FF, 0x7FF], np.float32)


def _encode_sh(values: np.ndarray) -> np.ndarray:
    return np.clip(np.floor((values / _SH_RANGE + 0.5) * 256), 0, 255).astype(np.uint8)


def _decode_sh(steps: np.ndarray) -> np.ndarray:
    """The middle of each step; the first and last stand for the ends of the range."""
    parts = (steps.astype(np.float32) + np.float32(0.5)) / 256
    parts = np.where(steps == 0, 0, np.where(steps == 255, 1, parts)).astype(np.float32)
    return (parts - np.float32(0.5)) * np.float32(_SH_RANGE)
