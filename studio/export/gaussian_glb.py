"""Gaussian splats as binary glTF with the extension KHR_gaussian_splatting, lossless up to degree 3.

Viewers that do not know the extension show the centres as coloured points.
https://github.com/KhronosGroup/glTF/tree/main/extensions/2.0/Khronos/KHR_gaussian_splatting (release candidate, 2026).
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from studio.errors import StudioError
from studio.export.gaussians import GaussianCloud
from studio.export.splat_packing import unit_quaternions
from studio.files import atomic_write

MAX_GLB_DEGREE = 3
_EXTENSION = "KHR_gaussian_splatting"
_FLOAT, _UNSIGNED_SHORT = 5126, 5123
_POINTS, _VERTEX_DATA = 0, 34962
_LARGEST_FILE = 0xFFFFFFFF


@dataclass(frozen=True)
class _Attribute:
    name: str
    values: np.ndarray
    """(n) or (n, c), float32, or uint16 for parts of 65,535."""


def write_gaussian_glb(path: str | os.PathLike[str], cloud: GaussianCloud) -> None:
    """Write one node with one point primitive, in the frame of the cloud: nothing is turned to glTF's +Y up, as no
    one knows which way is up in a capture.

    Degree 4 is cut to 3, the highest of the extension. Infinite logits and logarithms become what they stand for.

    Raises:
        StudioError: The file cannot be written, no Gaussians are left, or the file would be above 4 GiB.
    """
    if len(cloud) == 0:
        raise StudioError(f"{path}: glTF has no empty meshes, and no Gaussian is left.", fix="Keep at least one.")
    attributes = list(_attributes(cloud.truncated(MAX_GLB_DEGREE)))
    views, accessors, offset = [], [], 0
    for number, attribute in enumerate(attributes):
        size = attribute.values.nbytes
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": size, "target": _VERTEX_DATA})
        accessors.append(_accessor(number, attribute))
        offset += size
    document = {
        "asset": {"version": "2.0", "generator": "neural-studio"},
        "extensionsUsed": [_EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [
            {
                "primitives": [
                    {
                        "attributes": {attribute.name: number for number, attribute in enumerate(attributes)},
                        "mode": _POINTS,
                        "extensions": {_EXTENSION: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
                    }
                ]
            }
        ],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
    }
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode("ascii")
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + offset
    if total > _LARGEST_FILE:
        raise StudioError(
            f"{path}: would have {total:,} bytes; a .glb file has at most {_LARGEST_FILE:,}.",
            fix="Reduce it with --max-gaussians or --sh-degree.",
        )
    with atomic_write(path) as file:
        file.write(struct.pack("<4sII", b"glTF", 2, total))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", offset, b"BIN\0"))
        for attribute in attributes:
            file.write(attribute.values.tobytes())


def _attributes(cloud: GaussianCloud) -> Iterator[_Attribute]:
    # Each row has a multiple of 4 bytes, as vertex data must.
    opacities = cloud.logit_opacities.detach().cpu().double().sigmoid().numpy()
    # glTF's fallback colours are linear, those of the Gaussians sRGB.
    encoded = cloud.base_colors.detach().cpu().double().numpy()
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    fallback = np.concatenate([linear, opacities[:, None]], axis=1)
    yield _Attribute("POSITION", _floats(cloud.means.detach().cpu().numpy()))
    yield _Attribute("COLOR_0", np.round(fallback * 65535).astype("<u2"))
    yield _Attribute(f"{_EXTENSION}:ROTATION", _floats(np.roll(unit_quaternions(cloud.quats), -1, axis=1)))
    yield _Attribute(f"{_EXTENSION}:SCALE", _floats(cloud.log_scales.detach().cpu().double().exp().numpy()))
    yield _Attribute(f"{_EXTENSION}:OPACITY", _floats(opacities))
    sh = cloud.sh.detach().cpu().numpy()
    for degree in range(cloud.sh_degree + 1):
        for order in range(2 * degree + 1):
            yield _Attribute(f"{_EXTENSION}:SH_DEGREE_{degree}_COEF_{order}", _floats(sh[:, degree * degree + order]))


def _floats(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype="<f4")


def _accessor(number: int, attribute: _Attribute) -> dict[str, Any]:
    values = attribute.values
    width = 1 if values.ndim == 1 else values.shape[1]
    accessor: dict[str, Any] = {
        "bufferView": number,
        "componentType": _FLOAT if values.dtype.kind == "f" else _UNSIGNED_SHORT,
        "count": len(values),
        "type": "SCALAR" if width == 1 else f"VEC{width}",
    }
    if values.dtype.kind == "u":
        accessor["normalized"] = True
    if attribute.name == "POSITION":
        accessor["min"] = [float(value) for value in values.min(axis=0)]
        accessor["max"] = [float(value) for value in values.max(axis=0)]
    return accessor
