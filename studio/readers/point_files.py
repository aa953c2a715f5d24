"""Coloured point clouds in PLY files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from studio.errors import StudioError
from studio.reading.limits import LARGEST_LENGTH
from studio.reading.ply import read_ply_header, read_ply_vertices
from studio.scene import PointCloud

_FIX = "Replace the file or remove ply_file_path."
_Y00 = 0.5 / math.sqrt(math.pi)
"""The constant spherical harmonic; a Gaussian's base colour is 0.5 + _Y00 * f_dc."""

_HARMONICS = ("f_dc_0", "f_dc_1", "f_dc_2")
_COLORS = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))


def read_ply(path: Path) -> PointCloud:
    """Read the vertices of a PLY file (text or binary); without colours they are mid-grey.

    Colours may be red, r or diffuse_red and so on, or the constant harmonics of Gaussians (f_dc_0 and so on). Whole
    numbers as colours are 255ths (65535ths with 16 bits), others lie in [0, 1]. Vertices that are not finite are left
    out.

    Raises:
        StudioError: The file is missing, damaged, or holds no points.
    """
    table = read_ply_vertices(read_ply_header(path))
    names = table.dtype.names or ()
    if lacking := [name for name in ("x", "y", "z") if name not in names]:
        raise StudioError(f"{path}: its vertices have no property '{lacking[0]}'.", fix=_FIX)
    xyz = np.stack([table[name].astype(np.float64) for name in ("x", "y", "z")], axis=1)
    usable = (np.abs(xyz) <= LARGEST_LENGTH).all(axis=1)
    if not usable.any():
        raise StudioError(f"{path}: the point cloud holds no points.", fix=_FIX)
    rgb: npt.NDArray[np.float32] = np.full(xyz.shape, 0.5, dtype=np.float32)
    if set(_HARMONICS) <= set(names):  # Gaussians as points
        with np.errstate(over="ignore", invalid="ignore"):
            rgb = np.stack([_unit(0.5 + _Y00 * table[name].astype(np.float64)) for name in _HARMONICS], axis=1)
    for channels in _COLORS:
        if set(channels) <= set(names):
            rgb = np.stack([_unit(table[name]) for name in channels], axis=1)
    return PointCloud(torch.from_numpy(xyz[usable]), torch.from_numpy(rgb[usable]))


def _unit(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Colours in [0, 1]."""
    scale = 1.0 if values.dtype.kind == "f" else 65535.0 if values.dtype.itemsize == 2 else 255.0
    with np.errstate(over="ignore", invalid="ignore"):
        return np.clip(np.nan_to_num(values.astype(np.float64)) / scale, 0.0, 1.0).astype(np.float32)
