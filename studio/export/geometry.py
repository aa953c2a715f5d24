"""Meshes and coloured points of any Field: from its density where it has one, else from the depth that it renders."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras import Cameras, Similarity
from studio.errors import StudioError
from studio.export.mesh import Mesh, mesh_ending, write_mesh
from studio.export.pointcloud import write_point_cloud
from studio.export.tsdf import fuse_depth, require_open3d
from studio.export.views import View, colors_of, render_views, surface_points
from studio.export.volume import (
    VoxelGrid,
    density_volume,
    marching_cubes,
    occupancy_volume,
    require_marching_cubes,
)
from studio.plugin.abilities import HasDensity
from studio.plugin.base import Field
from studio.scene import Scene
from studio.scene.normalize import focus_point

GEOMETRY_FORMATS = {
    "mesh": "surface as coloured triangles (.ply, .obj, .glb, .stl): marching cubes (closed) or fused depth (as seen)",
    "pointcloud": "coloured points on the surfaces that several renders agree on, as PLY",
}
"""Formats that every Field has, whatever its plugin exports itself."""

Method = Literal["marching-cubes", "tsdf"]

_SOLID_SHARE = 0.01
"""Of the diagonal of the exported box: matter that takes half of the light over this distance counts as solid."""
_REACH = 0.75
"""Of the nearest camera's distance from what the cameras look at: half the side of the box exported by default, where
the cameras stand among the content."""


@dataclass(frozen=True)
class GeometryOptions:
    """What a user chooses about a mesh or point cloud."""

    method: Method = "marching-cubes"
    """marching-cubes: a closed surface, of the density where the Field has one, else of what rendered depth leaves
    solid; tsdf: rendered depth fused by Open3D, open where nothing was seen."""
    resolution: int = 256
    """Voxels along the longest side of the box."""
    threshold: float | None = None
    """Density of the surface per unit of the input; None: where 1% of the box's diagonal takes half of the light."""
    crop: tuple[float, float, float, float, float, float] | None = None
    """Lower and upper corner of the box to export, in the input cameras' frame."""
    views: int = 40
    """Training cameras that are rendered."""
    points: int = 500_000
    """Most points of a point cloud."""
    least_part: float = 0.01
    """Connected parts of a mesh with a smaller share of the faces of the largest are dropped."""


@dataclass(frozen=True, eq=False)
class _Workspace:
    """The box to export, in a frame in which it is axis-aligned."""

    box: Float[Tensor, "2 3"]
    local_from_scene: Similarity
    input_from_local: Similarity

    def view(self, view: View) -> View:
        moved = view.camera.transformed(self.local_from_scene)
        return replace(view, camera=moved, depth=view.depth * self.local_from_scene.scale)


def export_geometry(
    field: Field,
    format: str,
    path: Path,
    *,
    scene: Scene,
    cameras: Cameras,
    background: Float[Tensor, " 3"] | None = None,
    options: GeometryOptions | None = None,
    tell: Callable[[str], object] = lambda text: None,
    on_view: Callable[[], object] = lambda: None,
) -> None:
    """Write a mesh or coloured points in the frame of the input cameras.

    Args:
        format: One of `GEOMETRY_FORMATS`.
        path: The file.
        scene: Gives bounds and the transform to undo.
        cameras: Training cameras, shape (n,), of one size.
        background: Behind the scene; see `Field.render`.
        options: How.
        tell: Told what was decided, in one line each.
        on_view: Called after each rendered view.

    Raises:
        StudioError: No surface is there (an untrained run), the scene has no bounds and no crop is given, or a bad
            option.
        MissingDependencyError: The extra `mesh` is not installed.
    """
    options = options or GeometryOptions()
    _check(options)
    if format not in GEOMETRY_FORMATS:
        raise ValueError(f"format must be one of {', '.join(GEOMETRY_FORMATS)}, got {format!r}")

    def look() -> list[View]:
        return render_views(field, cameras, count=options.views, background=background, on_view=on_view)

    if format == "pointcloud":
        _write_points(path, look, scene, options)
        return
    # Before any work.
    mesh_ending(path)
    (require_open3d if options.method == "tsdf" else require_marching_cubes)()
    place = _workspace(scene, cameras, options, tell)
    mesh = None
    if options.method == "marching-cubes" and isinstance(field, HasDensity):
        # Before the views, as it tells an untrained run at once.
        mesh = _density_mesh(field.density, field.device, place, options, tell)
    views = [place.view(view) for view in look()]
    if mesh is None:
        mesh = _depth_mesh(views, place, options)
    mesh = _finish(mesh, views, place, options)
    write_mesh(path, mesh.transformed(place.input_from_local))
    tell(f"{len(mesh.vertices):,} vertices, {len(mesh.faces):,} triangles")


def _write_points(path: Path, look: Callable[[], list[View]], scene: Scene, options: GeometryOptions) -> None:
    xyz, rgb = surface_points(look(), count=options.points if options.crop is None else None)
    xyz = Similarity.from_matrix(scene.input_from_scene).points(xyz)
    if options.crop is not None:
        low, high = torch.tensor(options.crop).reshape(2, 3)
        chosen = ((xyz >= low) & (xyz <= high)).all(dim=-1).nonzero()[:, 0]
        if len(chosen) == 0:
            raise StudioError("--crop: no point of a surface lies in this box.", fix="Give a larger box.")
        if len(chosen) > options.points:
            order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(0))
            chosen = chosen[order[: options.points]]
        xyz, rgb = xyz[chosen], rgb[chosen]
    write_point_cloud(path, xyz, rgb)


def _density_mesh(
    density: Callable[[Float[Tensor, "m 3"]], Float[Tensor, " m"]],
    device: torch.device,
    place: _Workspace,
    options: GeometryOptions,
    tell: Callable[[str], object],
) -> Mesh:
    scale = place.local_from_scene.scale
    diagonal = float((place.box[1] - place.box[0]).norm())
    if options.threshold is not None:
        # From per unit of the input to per unit of this frame.
        threshold = options.threshold * place.input_from_local.scale
    else:
        threshold = math.log(2) / (_SOLID_SHARE * diagonal)
    back = place.local_from_scene.inverse()
    grid = VoxelGrid.of_box(place.box, options.resolution)
    tell(f"asking for the density at {len(grid):,} points")
    volume = density_volume(lambda points: density(back.points(points)) / scale, grid, threshold, device=device)
    return marching_cubes(volume, grid)


def _depth_mesh(views: list[View], place: _Workspace, options: GeometryOptions) -> Mesh:
    grid = VoxelGrid.of_box(place.box, options.resolution)
    if options.method == "tsdf":
        mesh = fuse_depth(views, grid.side).cropped(place.box)
        if len(mesh.faces) == 0:
            raise StudioError("No surface lies in the box of the export.", fix="Give another --crop.")
        return mesh
    return marching_cubes(occupancy_volume(views, grid), grid)


def _finish(mesh: Mesh, views: list[View], place: _Workspace, options: GeometryOptions) -> Mesh:
    mesh = mesh.without_fragments(options.least_part)
    if mesh.colors is not None:
        return mesh
    voxel = float((place.box[1] - place.box[0]).max()) / options.resolution
    return replace(mesh, colors=colors_of(mesh.vertices, views, tolerance=3 * voxel))


def _workspace(scene: Scene, cameras: Cameras, options: GeometryOptions, tell: Callable[[str], object]) -> _Workspace:
    input_from_scene = Similarity.from_matrix(scene.input_from_scene)
    if options.crop is not None:
        # In the frame of the input, where the box is axis-aligned.
        box = torch.tensor(options.crop).reshape(2, 3)
        return _Workspace(box, input_from_scene, Similarity.identity())
    if scene.bounds is None:
        raise StudioError(
            f"{scene.root}: the scene has no bounds, so that there is no box to take a mesh from.",
            fix="Give one in the frame of the input with --crop X0 Y0 Z0 X1 Y1 Z1.",
        )
    box = _content_box(scene.bounds.float(), cameras, tell)
    return _Workspace(box, Similarity.identity(), input_from_scene)


def _content_box(bounds: Float[Tensor, "2 3"], cameras: Cameras, tell: Callable[[str], object]) -> Float[Tensor, "2 3"]:
    """The bounds; where cameras stand within them, only the part that they look at."""
    origins = cameras.origins
    if not bool(((origins > bounds[0]) & (origins < bounds[1])).all(dim=-1).any()):
        return bounds
    focus = focus_point(cameras.camera_to_world.double())
    if focus is None:
        return bounds
    reach = _REACH * float((origins.double() - focus).norm(dim=-1).min())
    box = torch.stack([torch.maximum(bounds[0], focus - reach), torch.minimum(bounds[1], focus + reach)]).float()
    if not bool((box[1] > box[0]).all()):
        return bounds
    tell("the cameras stand within the scene: exporting what they look at (--crop gives another box)")
    return box


def _check(options: GeometryOptions) -> None:
    if not 8 <= options.resolution <= 2048:
        raise StudioError(f"--resolution: {options.resolution} is not between 8 and 2048.", fix="256 is usual.")
    if options.threshold is not None and not (options.threshold > 0 and math.isfinite(options.threshold)):
        raise StudioError(f"--threshold: {options.threshold:g} is no density above 0.", fix="Leave it out to try.")
    if options.crop is not None:
        low, high = options.crop[:3], options.crop[3:]
        if not all(a < b for a, b in zip(low, high, strict=True)):
            raise StudioError(
                f"--crop: the box from {low} to {high} has no volume.",
                fix="Give the lower corner first: X0 Y0 Z0 X1 Y1 Z1.",
            )
