"""`studio export`: a trained scene in a format of other programs, in the frame of the input cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from studio.cli.arguments import OptionalPositiveFloat, PositiveInt, parse
from studio.cli.console import err, out, progress, shown
from studio.errors import StudioError

if TYPE_CHECKING:
    from studio.training.loaded import LoadedRun

_ENDINGS = {"pointcloud": "ply", "mesh": "ply"}
"""Of formats whose name is not an ending itself."""


@dataclass
class Export:
    """Write a trained scene in a format of other programs. It lies where the input cameras are.

    Every scene can be written as a mesh and as a point cloud, besides what its plugin exports itself.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or one above it, whose newest run is taken. The photos are not needed."""
    format: str | None = None
    """mesh, pointcloud, or one of the plugin's formats; default: by the ending of --output, else the plugin's first.
    `--format list` shows them."""
    output: Path | None = None
    """File to write; default: in the run's folder exports/. Meshes: .ply, .obj, .glb, .stl."""
    method: Literal["marching-cubes", "tsdf"] = "marching-cubes"
    """Of a mesh: marching-cubes, closed everywhere, of the density or else of what rendered depth leaves solid; tsdf,
    rendered depth fused by Open3D, open where nothing was seen."""
    resolution: PositiveInt = 256
    """Voxels of a mesh along the longest side of its box."""
    threshold: OptionalPositiveFloat = None
    """Density of the surface of a mesh, per unit of the input; default: where 1% of the box's diagonal takes half of
    the light."""
    crop: tuple[float, ...] = ()
    """Box of a mesh or point cloud: X0 Y0 Z0 X1 Y1 Z1 in the frame of the input cameras; default: the scene's bounds,
    or the part that the cameras look at where they stand within."""
    views: PositiveInt = 40
    """Training cameras that are rendered for a mesh or point cloud."""
    points: PositiveInt = 500_000
    """Most points of a point cloud."""
    device: str = "auto"
    """Where a mesh or point cloud is computed: auto, cpu, cuda, cuda:N or mps."""


def main(argv: Sequence[str], started: float) -> int:
    """Export and say where it is."""
    request = parse(Export, argv, prog="studio export", positionals=1)
    if len(request.crop) not in (0, 6):
        raise StudioError(
            f"--crop: takes 6 numbers, got {len(request.crop)}.", fix="Give two corners: X0 Y0 Z0 X1 Y1 Z1."
        )
    from studio.export.geometry import GEOMETRY_FORMATS
    from studio.training.loaded import open_run

    run = open_run(request.run, device="cpu")
    field = run.field
    # The plugin's own come first, and win over the engine's of the same name.
    formats = {**field.export_formats, **{k: v for k, v in GEOMETRY_FORMATS.items() if k not in field.export_formats}}
    if request.format == "list":
        for name, about in formats.items():
            out().print(f"{name:12} {about}", markup=False)
        return 0
    chosen = _choose(request.format, request.output, formats, run.config.plugin)
    target = request.output
    if target is None:
        ending = _ENDINGS.get(chosen, chosen)
        stem = run.scene.name if ending == chosen else f"{run.scene.name}_{chosen}"
        target = run.path / "exports" / f"{stem}.{ending}"
    target = target.expanduser()
    if chosen in field.export_formats:
        field.export(chosen, target, input_from_scene=run.scene.input_from_scene)
    else:
        _export_geometry(run, chosen, target, request)
    err().print(f"{chosen}: {formats[chosen]}", markup=False)
    out().print(shown(target), markup=False)
    return 0


def _export_geometry(run: LoadedRun, format: str, target: Path, request: Export) -> None:
    from studio.devices import apply_threads, select
    from studio.export.geometry import GeometryOptions, export_geometry
    from studio.registry import find_plugin

    apply_threads()
    spec = find_plugin(run.config.plugin).spec
    assert spec is not None
    run.plugin.to(select(request.device, supported=spec.devices, owner=run.config.plugin).torch_device)
    cameras = run.cameras("train")
    crop = request.crop
    options = GeometryOptions(
        method=request.method,
        resolution=request.resolution,
        threshold=request.threshold,
        crop=(crop[0], crop[1], crop[2], crop[3], crop[4], crop[5]) if crop else None,
        views=request.views,
        points=request.points,
    )
    with progress("rendering", min(request.views, len(cameras))) as advance:
        export_geometry(
            run.field,
            format,
            target,
            scene=run.scene,
            cameras=cameras,
            background=run.background,
            options=options,
            tell=lambda text: err().print(text, markup=False),
            on_view=advance,
        )


def _choose(name: str | None, output: Path | None, formats: Mapping[str, str], plugin: str) -> str:
    if name is None:
        by_ending = output.suffix.lstrip(".").lower() if output is not None else ""
        if by_ending in formats:
            return by_ending
        # Endings that only the engine's meshes have.
        return "mesh" if by_ending in ("obj", "glb", "stl") else next(iter(formats))
    if name not in formats:
        raise StudioError(f"--format: '{plugin}' does not export '{name}'.", fix=f"It exports {', '.join(formats)}.")
    return name
