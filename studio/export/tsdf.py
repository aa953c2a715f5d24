"""Surfaces fused from depth pictures with Open3D: open where nothing was seen, coloured as seen."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch

from studio.errors import MissingDependencyError, StudioError
from studio.export.mesh import Mesh
from studio.export.views import View

_BAND = 4.0
"""Voxels in front of and behind a surface that its views write to."""
_BLOCK, _BLOCKS = 16, 4_000
"""Voxels along the side of a block, and blocks that there is room for at first."""
_LEAST_VIEWS = 1.0
"""Views that must have seen a voxel."""


def fuse_depth(views: Sequence[View], voxel: float, *, on_view: Callable[[], object] = lambda: None) -> Mesh:
    """A mesh from a truncated signed distance function (Curless and Levoy 1996) in a sparse volume.

    Args:
        views: Of one scene; their pixels without a surface say nothing.
        voxel: Side of a voxel, scene units.

    Raises:
        MissingDependencyError: Open3D is not installed.
        StudioError: The views make no surface.
    """
    require_open3d()
    # Its type stubs do not know that numpy arrays and plain tuples are taken.
    open3d: Any = importlib.import_module("open3d")
    core, float32 = open3d.core, open3d.core.float32
    # Open3D's older sparse volume, ScalableTSDFVolume, gives empty meshes in version 0.20; this is its successor.
    volume = open3d.t.geometry.VoxelBlockGrid(
        attr_names=("tsdf", "weight", "color"),
        attr_dtypes=(float32, float32, float32),
        attr_channels=(1, 1, 3),
        voxel_size=voxel,
        block_resolution=_BLOCK,
        block_count=_BLOCKS,
    )
    for view in views:
        camera = view.camera
        # A depth of 0 is none.
        depth = torch.where(view.solid, view.depth, torch.zeros_like(view.depth)).float().contiguous()
        if not bool(view.solid.any()):
            continue
        lens = camera.intrinsics.double().clone()
        # Open3D's pixel centres are at whole numbers.
        lens[:2, 2] -= 0.5
        pose = core.Tensor(camera.world_to_camera.double().contiguous().numpy())
        intrinsics = core.Tensor(lens.numpy())
        picture = open3d.t.geometry.Image(core.Tensor(depth.numpy()))
        color = open3d.t.geometry.Image(core.Tensor(view.rgb.clamp(0, 1).float().contiguous().numpy()))
        furthest = float(depth.max()) + voxel
        touched = volume.compute_unique_block_coordinates(picture, intrinsics, pose, 1.0, furthest, _BAND)
        volume.integrate(touched, picture, color, intrinsics, intrinsics, pose, 1.0, furthest, _BAND)
        on_view()
    found = volume.extract_triangle_mesh(weight_threshold=_LEAST_VIEWS)
    if "indices" not in found.triangle or len(found.triangle.indices) == 0:
        raise StudioError("The depth pictures make no surface.", fix="Give a larger --resolution, or train further.")
    return Mesh(
        torch.from_numpy(found.vertex.positions.numpy().copy()),
        torch.from_numpy(found.triangle.indices.numpy().astype("int64")),
        torch.from_numpy(found.vertex.colors.numpy().copy()).clamp(0, 1),
    )


def require_open3d() -> None:
    """Raise MissingDependencyError unless Open3D is there."""
    if importlib.util.find_spec("open3d") is None:
        raise MissingDependencyError("open3d", "mesh", purpose="Fusing depth (--method tsdf)")
