"""Where the first Gaussians come from: the scene's points, the visual hull of its masks, or chance."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

from studio.errors import StudioError
from studio.scene import Photo, PhotoStore, Scene

_MOST_RANDOM = 10_000
"""Gaussians drawn at random for opaque photos, which tell no place: nearly all are in a wrong one, and each covers much
of every photo."""
SH_C0 = 0.28209479177387814
"""Value of the constant spherical harmonic, 1 / (2 sqrt(pi))."""


def gaussians_from_points(
    xyz: Float[Tensor, "n 3"],
    rgb: Float[Tensor, "n 3"],
    *,
    sh_degree: int,
    opacity: float = 0.1,
    scale: float = 1.0,
) -> dict[str, Tensor]:
    """Round Gaussians at points, as large as the distance to the three nearest others, root mean square.

    Kerbl 2023 (section 5.1) says the mean distance; this is what its code does.

    Args:
        rgb: sRGB in [0, 1].
        scale: Factor on the size.

    Returns:
        Parameters before activation: means, quats, scales (log), opacities (logit), sh0 (n, 1, 3), shN (n, k - 1, 3).
    """
    n = len(xyz)
    distances, _ = cKDTree(xyz.double().numpy()).query(xyz.double().numpy(), k=min(4, n))
    distances = np.atleast_2d(distances).reshape(n, -1)[:, 1:]
    square = (distances**2).mean(axis=1) if distances.size else np.full(n, 0.1**2)
    # Coincident points have no distance; the floor is that of Kerbl's code.
    size = torch.from_numpy(np.sqrt(np.maximum(square, 1e-7))).float() * scale
    return {
        "means": xyz.float().clone(),
        "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(n, 1),
        "scales": size.log()[:, None].repeat(1, 3),
        "opacities": torch.full((n,), math.log(opacity / (1 - opacity))),
        "sh0": ((rgb.float() - 0.5) / SH_C0)[:, None, :],
        "shN": torch.zeros(n, (sh_degree + 1) ** 2 - 1, 3),
    }


def initial_points(
    kind: str, scene: Scene, photos: PhotoStore, count: int, generator: torch.Generator
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Points and colours to start from.

    Args:
        kind: 'points' (the scene's own), 'hull' (where all photos' alpha agrees), 'random', or 'auto': the first of
            these that the scene has data for.
        count: Random points to draw, and the most that a hull may have.

    Raises:
        StudioError: The scene has no points, or its photos no alpha or no common hull, though they were asked for; or a
            point is NaN or infinite.
    """
    if kind == "auto":
        if scene.points is not None and len(scene.points) >= 100:
            kind = "points"
        else:
            kind = "hull" if photos.get(0).image.shape[-1] == 4 else "random"
    if kind == "points":
        if scene.points is None or len(scene.points) == 0:
            raise StudioError(f"{scene.root}: the scene has no points to start from.", fix="Use --initial random.")
        bad = ~scene.points.xyz.isfinite().all(dim=1)
        if bool(bad.any()):
            raise StudioError(
                f"{scene.root}: point {int(bad.nonzero()[0, 0])} of the scene is NaN or infinite "
                f"({int(bad.sum()):,} of {len(bad):,} are).",
                fix="Remove these points from the file, or use --initial random.",
            )
        return _thinned(scene.points.xyz, scene.points.rgb, count, generator)
    if kind == "hull":
        if photos.get(0).image.shape[-1] != 4:
            raise StudioError(f"{scene.root}: the photos have no alpha to carve a hull.", fix="Use --initial random.")
        points, colors = visual_hull(scene, photos)
        if len(points) >= 100:
            return _thinned(points, colors, count, generator)
        raise StudioError(f"{scene.root}: the photos' alpha leaves no visual hull.", fix="Use --initial random.")
    low, high = _content_box(scene)
    if photos.get(0).image.shape[-1] != 4:
        count = min(count, _MOST_RANDOM)
    points = low + (high - low) * torch.rand(count, 3, generator=generator)
    return points, torch.rand(count, 3, generator=generator)


def _thinned(xyz: Tensor, rgb: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if len(xyz) <= count:
        return xyz, rgb
    chosen = torch.randperm(len(xyz), generator=generator)[:count].sort().values
    return xyz[chosen], rgb[chosen]


def _content_box(scene: Scene) -> tuple[Tensor, Tensor]:
    """The box of interest: the scene's bounds, else its points', else a box that the cameras look into."""
    if scene.bounds is not None:
        return scene.bounds[0].float(), scene.bounds[1].float()
    if scene.points is not None and len(scene.points):
        box = scene.points.bounds()
        return box[0], box[1]
    centers = torch.stack([f.camera.camera_to_world[:3, 3] for f in scene.frames]).float()
    middle = centers.mean(dim=0)
    return middle - 1.5 * scene.camera_extent, middle + 1.5 * scene.camera_extent


def visual_hull(
    scene: Scene, photos: PhotoStore, resolution: int = 96, max_views: int = 60
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Surface cells of the visual hull (Laurentini 1994): the box's cells that no photo's alpha rules out.

    A cell stays if at least one view has it in the picture, and all that do are more than half opaque there. Its colour
    is the median over those views. The box is narrowed to the hull once, so that the second pass
    spends its cells on the object.
    """
    low, high = _content_box(scene)
    every = max(1, -(-len(photos) // max_views))
    views = [photos.get(i) for i in range(0, len(photos), every)]
    inside, _ = _carve(views, low, high, resolution // 2)
    if not len(inside):
        return torch.zeros(0, 3), torch.zeros(0, 3)
    margin = (high - low) / (resolution // 2)
    low, high = inside.amin(dim=0) - margin, inside.amax(dim=0) + margin
    inside, cells = _carve(views, low, high, resolution)
    occupied = torch.zeros(resolution**3, dtype=torch.bool)
    occupied[cells] = True
    points = inside[_surface(occupied.view(resolution, resolution, resolution)).flatten()[cells]]
    return points, _median_colors(views, points)


def _carve(
    views: list[Photo], low: Tensor, high: Tensor, resolution: int
) -> tuple[Float[Tensor, "n 3"], Int[Tensor, " n"]]:
    """Centres of the occupied cells of a box, and their indices among all resolution^3."""
    axes = [torch.linspace(0, 1, 2 * resolution + 1)[1::2] * (high[a] - low[a]) + low[a] for a in range(3)]
    centers = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    cells = torch.arange(len(centers))
    ever_seen = torch.zeros(len(centers), dtype=torch.bool)
    for photo in views:
        pixels, seen = _pixels(photo, centers)
        left = (~seen | (photo.image[..., 3].flatten()[pixels] > 127)).nonzero()[:, 0]
        centers, cells, ever_seen = centers[left], cells[left], (ever_seen | seen)[left]
    return centers[ever_seen], cells[ever_seen]


def _median_colors(views: list[Photo], points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Median over the views that have a point in the picture, one channel at a time."""
    samples = []
    for photo in views:
        pixels, seen = _pixels(photo, points)
        color = photo.image[..., :3].reshape(-1, 3)[pixels].float() / 255
        color[~seen] = float("nan")
        samples.append(color)
    return torch.stack(samples, dim=-1).nanmedian(dim=-1).values


def _pixels(photo: Photo, points: Tensor) -> tuple[Tensor, Tensor]:
    """Flat index of the pixel that each point falls into, and whether it falls into the photo at all."""
    xy, depth = photo.camera.project(points)
    width, height = photo.camera.size
    column, row = xy[:, 0].floor().long(), xy[:, 1].floor().long()
    seen = (depth > 0) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)), seen


def _surface(occupied: Tensor) -> Tensor:
    """Occupied cells with an empty one among their six neighbours."""
    padded = torch.nn.functional.pad(occupied, (1, 1, 1, 1, 1, 1))
    buried = torch.ones_like(occupied)
    for axis in range(3):
        for shift in (0, 2):
            index = [slice(1, -1)] * 3
            index[axis] = slice(shift, shift + occupied.shape[axis])
            buried &= padded[tuple(index)]
    return occupied & ~buried
