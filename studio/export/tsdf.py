"""Surfaces fused from depth pictures with Open3D: open where nothing was seen, coloured as seen."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import numpy as np
import torch

from studio.errors import MissingDependencyError, StudioError
from studio.export.mesh import Mesh
from studio.export.pictures import to_uint8
from studio.export.views import View

_BAND = 4.0
"""Voxels in front of and behind a surface that its views write to."""


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
    import open3d

    volume = open3d.pipelines.integration.ScalableTSDFVolume(
        voxel_length=voxel,
        sdf_trunc=_BAND * voxel,
        color_type=open3d.pipelines.integration.TSDFVolumeColorType.RGB8,
    )
    for view in views:
        camera = view.camera
        width, height = camera.size
        # A depth of 0 is none.
        depth = torch.where(view.solid, view.depth, torch.zeros_like(view.depth))
        picture = open3d.geometry.RGBDImage.create_from_color_and_depth(
            open3d.geometry.Image(to_uint8(view.rgb)),  # type: ignore[call-overload]
            open3d.geometry.Image(depth.contiguous().numpy()),  # type: ignore[call-overload]
            depth_scale=1.0,
            depth_trunc=float(depth.max()) + voxel,
            convert_rgb_to_intensity=False,
        )
        # Open3D's pixel centres are at whole numbers.
        lens = open3d.camera.PinholeCameraIntrinsic(
            width, height, float(camera.fx), float(camera.fy), float(camera.cx) - 0.5, float(camera.cy) - 0.5
        )
        volume.integrate(picture, lens, camera.world_to_camera.double().numpy())
        on_view()
    found = volume.extract_triangle_mesh()
    if len(found.triangles) == 0:
        raise StudioError("The depth pictures make no surface.", fix="Give a larger --resolution, or train further.")
    return Mesh(
        torch.from_numpy(np.asarray(found.vertices, dtype=np.float32)),
        torch.from_numpy(np.asarray(found.triangles, dtype=np.int64)),
        torch.from_numpy(np.asarray(found.vertex_colors, dtype=np.float32)),
    )


def require_open3d() -> None:
    """Raise MissingDependencyError unless Open3D is there."""
    if importlib.util.find_spec("open3d") is None:
        raise MissingDependencyError("open3d", "mesh", purpose="Fusing depth (--method tsdf)")
