"""What is in a scene, for people and for programs; `studio data info` shows it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from studio.scene.decode import has_alpha
from studio.scene.scene import SPLITS, Frame, Scene


@dataclass(frozen=True)
class Range:
    """Least and largest value."""

    min: float
    max: float


@dataclass(frozen=True)
class SceneSummary:
    """Figures of a scene; `to_dict` gives plain data for JSON. Lengths are in units of the loaded, normalised scene."""

    name: str
    root: str
    format: str
    photos: dict[str, int]
    """Photos by split (train, val, test)."""
    sizes: dict[str, int]
    """"<width>x<height>" -> photos, the most frequent first."""
    camera_models: dict[str, int]
    """Model -> photos."""
    focal_pixels: Range
    """Horizontal focal length in pixels at the photos' size on disk (orthographic: pixels per unit)."""
    field_of_view_degrees: Range | None
    """Horizontal field of view of the undistorted camera; None where no camera is a perspective or fisheye one."""
    distorted: int
    """Photos whose camera has distortion."""
    largest_distortion: float
    """Largest absolute coefficient."""
    alpha: int
    """Photos with an alpha channel (by their headers)."""
    masks: int
    """Photos with a mask."""
    points: int
    bounds: list[list[float]] | None
    """Min and max corner of the content, where known."""
    camera_box: list[list[float]]
    """Min and max corner of the camera positions."""
    camera_extent: float
    """See `Scene.camera_extent`."""
    depth_range: Range | None
    """Nearest and farthest stated depth."""
    scene_from_input: list[list[float]]
    """4x4 similarity that normalised the scene."""
    input_scale: float
    """How long one unit of the scene is in the frame of the input files."""
    notes: list[str]
    """What the reader noticed: missing photos, submodels, splits."""

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers."""
        return asdict(self)


def summarize(scene: Scene) -> SceneSummary:
    """Collect the figures of a loaded scene; looks into the headers of the photos for alpha channels.

    Raises:
        ValueError: The scene has no frames.
    """
    if not scene.frames:
        raise ValueError("cannot summarize a scene without frames")
    cameras = [frame.camera for frame in scene.frames]
    coefficients = [float(c.distortion.abs().max()) for c in cameras if c.distortion is not None]
    views = [angle for frame in scene.frames if (angle := _field_of_view(frame)) is not None]
    depths = [frame.depth_range for frame in scene.frames if frame.depth_range is not None]
    centres = torch.stack([c.camera_to_world[:3, 3] for c in cameras])
    focal = [float(c.fx) for c in cameras]
    sizes = Counter(f"{int(c.width)}x{int(c.height)}" for c in cameras)
    scale = float(torch.linalg.det(scene.scene_from_input[:3, :3].double()).abs()) ** (1 / 3)
    return SceneSummary(
        name=scene.name,
        root=str(scene.root),
        format=scene.format,
        photos={split: len(scene.split(split)) for split in SPLITS},
        sizes=dict(sizes.most_common()),
        camera_models=dict(Counter(c.model for c in cameras).most_common()),
        focal_pixels=Range(min(focal), max(focal)),
        field_of_view_degrees=Range(min(views), max(views)) if views else None,
        distorted=sum(c > 0 for c in coefficients),
        largest_distortion=max(coefficients, default=0.0),
        alpha=sum(has_alpha(frame.image_path) for frame in scene.frames),
        masks=sum(frame.mask_path is not None for frame in scene.frames),
        points=0 if scene.points is None else len(scene.points),
        bounds=None if scene.bounds is None else scene.bounds.tolist(),
        camera_box=[centres.amin(dim=0).tolist(), centres.amax(dim=0).tolist()],
        camera_extent=scene.camera_extent,
        depth_range=Range(min(d[0] for d in depths), max(d[1] for d in depths)) if depths else None,
        scene_from_input=scene.scene_from_input.tolist(),
        input_scale=1 / scale,
        notes=list(scene.notes),
    )


def render_summary(summary: SceneSummary) -> RenderableType:
    """The summary as a table for a rich console."""
    table = Table(
        title=Text(f"{summary.name} ({summary.format})", style="bold"),
        show_header=False,
        title_justify="left",
        box=None,
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    rows = [
        ("folder", summary.root),
        (
            "photos",
            _counts({k: n for k, n in summary.photos.items() if n}) + f" ({sum(summary.photos.values())} in all)",
        ),
        ("sizes", _counts(summary.sizes, at_most=6)),
        ("camera models", _counts(summary.camera_models)),
        ("focal length", f"{_range(summary.focal_pixels)} pixels"),
        (
            "field of view",
            "" if summary.field_of_view_degrees is None else f"{_range(summary.field_of_view_degrees)} degrees across",
        ),
        (
            "distortion",
            f"{summary.distorted} photos, coefficients up to {summary.largest_distortion:.3g}"
            if summary.distorted
            else "none",
        ),
        ("alpha, masks", f"{summary.alpha} photos with alpha, {summary.masks} with a mask"),
        ("points", f"{summary.points:,}" if summary.points else "none"),
        ("bounds", _box(summary.bounds) if summary.bounds else "unknown"),
        ("cameras within", _box(summary.camera_box)),
        ("camera extent", f"{summary.camera_extent:.4g}"),
        ("stated depths", _range(summary.depth_range) if summary.depth_range else ""),
        ("scale", f"1 unit of the scene is {summary.input_scale:.4g} in the input files"),
    ]
    for name, value in rows:
        if value:
            # Text, because square brackets in file names would be taken for markup.
            table.add_row(name, Text(value))
    notes = [f"note: {note}" for note in summary.notes]
    return Group(table, *(Text(note) for note in notes))


def _field_of_view(frame: Frame) -> float | None:
    """Degrees across the picture, without distortion."""
    camera = frame.camera
    edges = [float(camera.cx / camera.fx), float((camera.width - camera.cx) / camera.fx)]
    if camera.model in ("pinhole", "opencv"):
        return math.degrees(sum(math.atan(edge) for edge in edges))
    return math.degrees(sum(edges)) if camera.model == "fisheye" else None


def _counts(counts: dict[str, int], at_most: int = 99) -> str:
    shown = [f"{n} {name}" for name, n in list(counts.items())[:at_most]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _range(value: Range) -> str:
    low, high = f"{value.min:.4g}", f"{value.max:.4g}"
    return low if low == high else f"{low} to {high}"


def _box(box: list[list[float]]) -> str:
    return " to ".join("(" + ", ".join(f"{v:.3g}" for v in corner) + ")" for corner in box)
