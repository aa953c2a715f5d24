"""Renders of a Field from many cameras, as raw material for its geometry: points, colours of points, volumes.

Depth is z-depth in scene units throughout; v views, p points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.plugin.base import Field

_OPAQUE = 0.5
"""Opacity from which on a pixel shows a surface."""
_AGREEMENT = 0.01
"""Relative difference of two depths of one surface."""


@dataclass(frozen=True, eq=False)
class View:
    """What a Field shows to one pinhole camera; on the CPU."""

    camera: Cameras
    """Batch shape ()."""
    rgb: Float[Tensor, "h w 3"]
    depth: Float[Tensor, "h w"]
    """Of the surface: the median depth where the Field knows it, else the expected one."""
    solid: Bool[Tensor, "h w"]
    """Where there is a surface; elsewhere one sees through everything."""

    def look_up(self, points: Float[Tensor, "p 3"]) -> tuple[Tensor, Tensor, Bool[Tensor, " p"]]:
        """Row-major index of the pixel that shows each point, the point's depth, and whether it is in the picture."""
        width, height = self.camera.size
        pixel, depth = self.camera.project(points)
        inside = (depth > 0) & (pixel >= 0).all(-1) & (pixel[:, 0] < width) & (pixel[:, 1] < height)
        column, row = (pixel.floor().long().clamp(min=0)).unbind(-1)
        return row.clamp(max=height - 1) * width + column.clamp(max=width - 1), depth, inside


def as_pinhole(cameras: Cameras) -> Cameras:
    """The same views without their lenses' distortion.

    Raises:
        StudioError: A camera that no pinhole can stand for.
    """
    if cameras.model == "pinhole":
        return cameras
    if cameras.model not in ("opencv", "fisheye"):
        raise StudioError(
            f"The cameras of this run are {cameras.model}; geometry is taken from perspective views.",
            fix="Train on perspective photos.",
        )
    return replace(cameras, model="pinhole", distortion=None)


@torch.no_grad()
def render_views(
    field: Field,
    cameras: Cameras,
    *,
    count: int = 60,
    largest_side: int = 512,
    background: Float[Tensor, " 3"] | None = None,
    on_view: Callable[[], object] = lambda: None,
) -> list[View]:
    """Render a Field from some of a batch of cameras, evenly chosen.

    Args:
        cameras: Shape (n,), of one size.
        count: Most views.
        largest_side: Pixels; larger cameras are scaled down.
        background: Behind the scene; see `Field.render`.
        on_view: Called after each.

    Raises:
        StudioError: The Field renders no depth and opacity, or the cameras are no perspective ones.
    """
    for name in ("rgb", "depth", "opacity"):
        if name not in field.output_names:
            raise StudioError(f"This plugin does not render '{name}', which its geometry is taken from.")
    depth_name = "median_depth" if "median_depth" in field.output_names else "depth"
    cameras = as_pinhole(cameras)
    cameras = cameras.rescale(min(largest_side / max(cameras.size), 1.0))
    chosen = torch.linspace(0, len(cameras) - 1, min(count, len(cameras))).round().long().unique()
    views = []
    behind = None if background is None else background.to(field.device)
    for camera in cameras[chosen]:
        drawn = field.render(camera.to(field.device), ("rgb", depth_name, "opacity"), background=behind)
        depth, opacity = drawn[depth_name][..., 0].cpu(), drawn["opacity"][..., 0].cpu()
        solid = (opacity > _OPAQUE) & depth.isfinite() & (depth > 0)
        views.append(View(camera.to("cpu"), drawn["rgb"].cpu(), depth, solid))
        on_view()
    if not any(bool(view.solid.any()) for view in views):
        raise StudioError(
            f"Nothing in {len(views)} renders is opaque: there is no surface to export.",
            fix="Train the run further, and look at `studio render RUN --outputs rgb opacity`.",
        )
    return views


def surface_points(
    views: Sequence[View], *, count: int | None = None, witnesses: int = 2, seed: int = 0
) -> tuple[Float[Tensor, "p 3"], Float[Tensor, "p 3"]]:
    """Coloured points on the surfaces that views show, in the scene's frame.

    A point must be confirmed by other views: as many as `witnesses` (where there are so many) show a surface there,
    and more do so than see through the place.

    Args:
        views: Of one scene.
        count: At most so many points, chosen at random.
        witnesses: Views besides the point's own.
        seed: Of the choice.

    Returns:
        Positions and sRGB colours.

    Raises:
        StudioError: No point is confirmed.
    """
    points, colors = [], []
    for view in views:
        at = view.solid & ~_depth_edges(view)
        row, column = at.nonzero(as_tuple=True)
        pixels = torch.stack([column, row], dim=-1).float() + 0.5
        points.append(view.camera.unproject(pixels, view.depth[at]))
        colors.append(view.rgb[at])
    xyz, rgb = torch.cat(points), torch.cat(colors)
    if count is not None and len(xyz) > 3 * count:
        # Confirming costs a projection into each view; a few times as many as are wanted will do.
        chosen = torch.randperm(len(xyz), generator=torch.Generator().manual_seed(seed))[: 3 * count]
        xyz, rgb = xyz[chosen], rgb[chosen]
    agreed, crossed = confirmations(xyz, views)
    # Its own view is one of them.
    kept = (agreed > min(witnesses, len(views) - 1)) & (agreed > crossed)
    if not bool(kept.any()):
        raise StudioError(
            "No two renders show a surface at the same place: the scene's geometry is not there yet.",
            fix="Train the run further.",
        )
    xyz, rgb = xyz[kept], rgb[kept]
    if count is not None and len(xyz) > count:
        chosen = torch.randperm(len(xyz), generator=torch.Generator().manual_seed(seed + 1))[:count]
        xyz, rgb = xyz[chosen], rgb[chosen]
    return xyz, rgb


def confirmations(points: Float[Tensor, "p 3"], views: Sequence[View]) -> tuple[Tensor, Tensor]:
    """How many views show a surface at each point, and how many see through it (p), (p)."""
    agreed = torch.zeros(len(points), dtype=torch.int64)
    crossed = torch.zeros_like(agreed)
    for view in views:
        index, depth, inside = view.look_up(points)
        surface, solid = view.depth.flatten()[index], view.solid.flatten()[index]
        agreed += inside & solid & ((surface - depth).abs() <= _AGREEMENT * depth)
        crossed += inside & (~solid | (surface > (1 + 2 * _AGREEMENT) * depth))
    return agreed, crossed


def colors_of(points: Float[Tensor, "p 3"], views: Sequence[View], *, tolerance: float) -> Float[Tensor, "p 3"]:
    """The colour of surface points: the mean of the views that show them, nearer ones counting more.

    Points that no view shows get the colour of the nearest that has one.

    Args:
        points: On a surface, in the scene's frame.
        tolerance: How far behind a view's surface a point may lie and still be what it shows, scene units.
    """
    total, weight = torch.zeros(len(points), 3), torch.zeros(len(points))
    for view in views:
        index, depth, inside = view.look_up(points)
        visible = inside & view.solid.flatten()[index] & (depth <= view.depth.flatten()[index] + tolerance)
        share = torch.where(visible, 1 / depth.clamp(min=1e-6).square(), torch.zeros_like(depth))
        total += share[:, None] * view.rgb.reshape(-1, 3)[index]
        weight += share
    known = weight > 0
    colors = torch.where(known[:, None], total / weight.clamp(min=1e-30)[:, None], torch.full((3,), 0.5))
    if bool(known.any()) and not bool(known.all()):
        from scipy.spatial import cKDTree

        _, nearest = cKDTree(points[known].numpy()).query(points[~known].numpy())
        colors[~known] = colors[known][torch.from_numpy(nearest)]
    return colors


def _depth_edges(view: View) -> Bool[Tensor, "h w"]:
    """Pixels at a jump of the depth, whose own depth is a mixture."""
    padded = torch.nn.functional.pad(view.depth[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    height, width = view.depth.shape
    edges = torch.zeros(height, width, dtype=torch.bool)
    # Across a plane depths change evenly: both sides differ alike. At a jump the second difference is large.
    for first, second in (
        (padded[:-2, 1:-1], padded[2:, 1:-1]),
        (padded[1:-1, :-2], padded[1:-1, 2:]),
    ):
        edges |= (first + second - 2 * view.depth).abs() > _AGREEMENT * view.depth
    return edges
