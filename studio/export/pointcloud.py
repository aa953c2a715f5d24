"""Coloured point clouds as PLY."""

from __future__ import annotations

import os

import numpy as np
from jaxtyping import Float
from torch import Tensor

from studio.files import atomic_write


def write_point_cloud(
    path: str | os.PathLike[str], xyz: Float[Tensor, "n 3"], rgb: Float[Tensor, "n 3"] | None = None
) -> None:
    """Write points as binary PLY (float32 positions, 8-bit colours) that MeshLab, CloudCompare and Open3D read.

    Args:
        path: Appears whole or not at all.
        xyz: In the frame the file shall have; undo a scene's normalisation first.
        rgb: In [0, 1]; None leaves colours out.

    Raises:
        ValueError: Shapes do not fit.
        StudioError: The file cannot be written.
    """
    import trimesh

    if xyz.ndim != 2 or xyz.shape[1] != 3 or (rgb is not None and rgb.shape != xyz.shape):
        shapes = f"{tuple(xyz.shape)} and {None if rgb is None else tuple(rgb.shape)}"
        raise ValueError(f"xyz and rgb must both be (N, 3), got {shapes}")
    colors = None
    if rgb is not None:
        colors = (rgb.detach().cpu().clamp(0, 1) * 255).round().numpy().astype(np.uint8)
    cloud = trimesh.PointCloud(xyz.detach().cpu().numpy(), colors=colors)
    with atomic_write(path) as file:
        file.write(cloud.export(file_type="ply"))
