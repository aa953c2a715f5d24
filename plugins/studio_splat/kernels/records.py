"""The record of a projected splat: one cache line of sixteen floats, which all stages of the rasteriser read."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TILE = 8
"""Side of a tile in pixels."""

RECORD = 16
"""Floats of a record: x, y, A, B, C, log2 opacity, r, g, b, depth, half extents, then what binning adds, one free."""

SHEAR, REST, SLOPE = 12, 13, 14
"""Where binning writes √−A B / 2A, C − B² / 4A and √−A, computed in double; the other entries are the projection's."""

LOG2_ALPHA_MIN = float(np.float32(-math.log2(255.0)))
"""log2 of the smallest alpha that is drawn, 1/255."""


def check_records(records: NDArray[np.float32]) -> None:
    """Raise ValueError unless `records` is a C-contiguous writable float32 array of shape (N, 16)."""
    if records.ndim != 2 or records.shape[1] != RECORD or records.dtype != np.float32:
        raise ValueError(f"records: expected float32 of shape (N, {RECORD}), got {records.dtype} {records.shape}")
    if not (records.flags.c_contiguous and records.flags.writeable):
        raise ValueError("records: expected a C-contiguous, writable array")
