"""Binary glTF with one mesh of one primitive: the container that Gaussians and triangles share.

https://registry.khronos.org/glTF/specs/2.0/glTF-2.0.html
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from studio.errors import StudioError
from studio.files import atomic_write

POINTS, TRIANGLES = 0, 4
_FLOAT, _UNSIGNED_SHORT, _UNSIGNED_INT = 5126, 5123, 5125
_VERTEX_DATA, _INDEX_DATA = 34962, 34963
_LARGEST_FILE = 0xFFFFFFFF


@dataclass(frozen=True)
class GlbAttribute:
    """A column of vertex data."""

    name: str
    values: np.ndarray
    """(n) or (n, c), float32, or uint16 for parts of 65,535; each row has a multiple of 4 bytes."""


def linear_rgb(encoded: np.ndarray) -> np.ndarray:
    """Linear parts in [0, 1] of sRGB ones (IEC 61966-2-1): glTF's vertex colours are linear."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def write_glb(
    path: str | os.PathLike[str],
    attributes: Sequence[GlbAttribute],
    *,
    mode: int,
    indices: np.ndarray | None = None,
    primitive: Mapping[str, Any] | None = None,
    document: Mapping[str, Any] | None = None,
    fix: str = "Reduce it.",
) -> None:
    """Write one node with one primitive.

    Args:
        path: Appears whole or not at all.
        attributes: Vertex data, 'POSITION' among them.
        mode: `POINTS` or `TRIANGLES`.
        indices: uint32 (m), of the vertices of triangles.
        primitive: More properties of the primitive.
        document: More properties of the document.
        fix: What to do about a file that would be too large.

    Raises:
        StudioError: The file cannot be written, or would be above 4 GiB.
    """
    blocks = [attribute.values for attribute in attributes]
    accessors = [_accessor(number, attribute) for number, attribute in enumerate(attributes)]
    shape: dict[str, Any] = {"attributes": {attribute.name: number for number, attribute in enumerate(attributes)}}
    if indices is not None:
        shape["indices"] = len(blocks)
        accessors.append(
            {"bufferView": len(blocks), "componentType": _UNSIGNED_INT, "count": len(indices), "type": "SCALAR"}
        )
        blocks.append(indices)
    views, offset = [], 0
    for number, block in enumerate(blocks):
        target = _VERTEX_DATA if number < len(attributes) else _INDEX_DATA
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": block.nbytes, "target": target})
        offset += block.nbytes
    content = {
        "asset": {"version": "2.0", "generator": "neural-studio"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{**shape, "mode": mode, **(primitive or {})}]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": offset}],
        **(document or {}),
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode("ascii")
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + offset
    if total > _LARGEST_FILE:
        raise StudioError(f"{path}: would have {total:,} bytes; a .glb file has at most {_LARGEST_FILE:,}.", fix=fix)
    with atomic_write(path) as file:
        file.write(struct.pack("<4sII", b"glTF", 2, total))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", offset, b"BIN\0"))
        for block in blocks:
            file.write(block.tobytes())


def glb_floats(values: np.ndarray) -> np.ndarray:
    """As vertex data are stored."""
    return np.ascontiguousarray(values, dtype="<f4")


def _accessor(number: int, attribute: GlbAttribute) -> dict[str, Any]:
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
