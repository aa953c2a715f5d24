"""Coloured point clouds in PLY files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from studio.errors import StudioError
from studio.scene import PointCloud


def read_ply(path: Path) -> PointCloud:
    """Read the vertices of a PLY file (text or binary); without colours they are mid-grey.

    Raises:
        StudioError: The file is missing, damaged, or holds no points.
    """
    # Imported here: it takes most of a second, and few scenes have such a file.
    import trimesh

    try:
        loaded = trimesh.load(path, file_type="ply", process=False)
    except Exception as error:  # the loader raises whatever its parsing trips over
        raise StudioError(
            f"{path}: the point cloud cannot be read ({type(error).__name__}: {error}).",
            fix="Replace the file or remove ply_file_path.",
        ) from error
    xyz = np.asarray(getattr(loaded, "vertices", ()), dtype=np.float64).reshape(-1, 3)
    finite = np.isfinite(xyz).all(axis=1)
    if not finite.any():
        raise StudioError(f"{path}: the point cloud holds no points.", fix="Replace the file or remove ply_file_path.")
    rgb: npt.NDArray[np.float32] = np.full(xyz.shape, 0.5, dtype=np.float32)
    visual = getattr(loaded, "visual", None)
    colors = np.asarray(getattr(visual, "vertex_colors", ()))
    if getattr(visual, "kind", None) == "vertex" and colors.shape[:1] == xyz.shape[:1]:
        rgb = (colors[:, :3] / 255).astype(np.float32)
    return PointCloud(torch.from_numpy(xyz[finite]), torch.from_numpy(rgb[finite]))
