"""`studio export`: a trained scene in a format of other programs, in the frame of the input cameras."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from studio.cli.arguments import OptionalPositiveFloat, OptionalPositiveInt, PositiveInt, parse
from studio.cli.console import err, out, progress, shown
from studio.errors import StudioError
from studio.extensions import list_extensions, load_extension

if TYPE_CHECKING:
    from studio.export.exporter import Exporter
    from studio.export.gaussians import GaussianCloud
    from studio.export.splat_page import PageView
    from studio.training.loaded import LoadedRun

Box = tuple[float, float, float, float, float, float]

_ENDINGS = {"pointcloud": "ply", "mesh": "ply"}
"""Of formats whose name is not an ending itself."""


@dataclass
class Export:
    """Write a trained scene in a format of other programs. It lies where the input cameras are.

    Every scene can be written as a mesh and as a point cloud, Gaussians in every splat format, besides what a plugin
    exports itself. A splat file of any program is converted in the same way.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|FILE")]
    """Run folder, or one above it, whose newest run is taken; the photos are not needed. Or a splat file: .ply (also
    compressed), .spz, .splat, .sog, or a folder with the meta.json of SOG."""
    format: str | None = None
    """ply, compressed-ply, splat, spz, glb or html (a web page that shows them) of Gaussians; mesh, pointcloud, or one
    of the plugin's formats or of another package; default: by the ending of --output, else the plugin's first.
    `--format list` shows them."""
    output: Path | None = None
    """File to write; default: in the run's folder exports/, or beside the file. Meshes: .ply, .obj, .glb, .stl."""
    method: Literal["marching-cubes", "tsdf"] = "marching-cubes"
    """Of a mesh: marching-cubes, closed everywhere, of the density or else of what rendered depth leaves solid; tsdf,
    rendered depth fused by Open3D, open where nothing was seen."""
    resolution: PositiveInt = 256
    """Voxels of a mesh along the longest side of its box."""
    threshold: OptionalPositiveFloat = None
    """Density of the surface of a mesh, per unit of the input; default: where 1% of the box's diagonal takes half of
    the light."""
    crop: tuple[float, ...] = ()
    """Box to keep: X0 Y0 Z0 X1 Y1 Z1 in the frame of the input cameras; default: all Gaussians and points; of a mesh
    the scene's bounds, or the part that the cameras look at where they stand within."""
    min_opacity: float | None = None
    """Leave out Gaussians of less opacity, 0 to 1."""
    sh_degree: int | None = None
    """Highest degree of the Gaussians' spherical harmonics, 0 to 4; 0 is colour that looks alike from all sides."""
    max_gaussians: OptionalPositiveInt = None
    """Most Gaussians: those of the largest opacity times area stay."""
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
    from studio.export.splat_formats import is_splat_path, splat_format_of

    if is_splat_path(request.run):
        return _convert(request)
    if splat_format_of(request.run) is not None and not request.run.expanduser().exists():
        raise StudioError(f"{request.run}: there is no such file.", fix="Name a splat file, or the folder of a run.")
    from studio.export.geometry import GEOMETRY_FORMATS
    from studio.export.splat_formats import SPLAT_ENDINGS, SPLAT_FORMATS, HasGaussians
    from studio.training.loaded import open_run

    run = open_run(request.run, device="cpu")
    field = run.field
    splats = SPLAT_FORMATS if isinstance(field, HasGaussians) else {}
    # The plugin's own come first, and win over the engine's of the same name, except for files of Gaussians, which the
    # engine writes all alike.
    formats = {**GEOMETRY_FORMATS, **field.export_formats, **splats}
    formats = {name: formats[name] for name in (*field.export_formats, *splats, *GEOMETRY_FORMATS)}
    others = {entry.name: entry for entry in list_extensions("exporter") if entry.name not in formats}
    formats |= {name: entry.summary for name, entry in others.items() if entry.status == "ok"}
    if request.format == "list":
        return _list(formats)
    exporter: Exporter | None = None
    if request.format in others:
        exporter = load_extension("exporter", request.format)
    chosen = exporter.name if exporter else _choose(request.format, request.output, formats, run.config.plugin)
    target = request.output
    if target is None:
        ending = exporter.ending if exporter else (_ENDINGS | SPLAT_ENDINGS).get(chosen, chosen)
        stem = f"{run.scene.name}_{chosen}" if chosen in _ENDINGS else run.scene.name
        target = run.path / "exports" / f"{stem}.{ending}"
    target = target.expanduser()
    if chosen not in splats:
        _refuse_splat_options(request, chosen)
    if chosen in splats:
        assert isinstance(field, HasGaussians)
        cloud = field.cloud().transformed(run.scene.input_from_scene)
        eps2d = run.config.config.get("eps2d")
        view = _first_view(run) if chosen == "html" else None
        _export_splats(cloud, chosen, target, request, view=view, eps2d=None if eps2d is None else float(eps2d))
    elif exporter is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        exporter.export(run, target)
    elif chosen in field.export_formats:
        field.export(chosen, target, input_from_scene=run.scene.input_from_scene)
    else:
        _export_geometry(run, chosen, target, request)
    err().print(f"{chosen}: {formats[chosen]}", markup=False)
    out().print(shown(target), markup=False)
    return 0


def _list(formats: Mapping[str, str]) -> int:
    width = max(12, *map(len, formats))
    for name, about in formats.items():
        out().print(f"{name:{width}} {about}", markup=False)
    return 0


def _convert(request: Export) -> int:
    """A splat file into another one."""
    from studio.export.splat_formats import SPLAT_ENDINGS, SPLAT_FORMATS, read_gaussians, splat_format_of

    if request.format == "list":
        return _list(SPLAT_FORMATS)
    chosen = request.format or (None if request.output is None else splat_format_of(request.output))
    if chosen not in SPLAT_FORMATS:
        wanted = f"'{request.format}' is no splat format" if request.format else "the format to write is not named"
        raise StudioError(
            f"--format: {wanted}.", fix=f"A splat file can become {', '.join(SPLAT_FORMATS)}; a run also a mesh."
        )
    source = request.run.expanduser()
    if request.output is not None:
        target = request.output.expanduser()
        if target.exists() and target.samefile(source):
            raise StudioError(f"{target}: is the file to convert.", fix="Give another name with --output.")
    else:
        stem = re.sub(r"(\.compressed)?\.[^.]+$", "", source.name) if source.is_file() else source.name
        target = source.with_name(f"{stem}.{SPLAT_ENDINGS.get(chosen, chosen)}")
        if target.exists():
            # It may be what the file was made from.
            raise StudioError(f"{target}: is there already.", fix="Name the file to write with --output.")
    _export_splats(read_gaussians(source), chosen, target, request)
    err().print(f"{chosen}: {SPLAT_FORMATS[chosen]}", markup=False)
    out().print(shown(target), markup=False)
    return 0


def _export_splats(
    cloud: GaussianCloud,
    format: str,
    target: Path,
    request: Export,
    *,
    view: PageView | None = None,
    eps2d: float | None = None,
) -> None:
    from studio.export.splat_formats import looks_different, write_gaussians
    from studio.export.splat_packing import checked
    from studio.export.splat_page import write_splat_page
    from studio.export.splat_selection import SplatSelection

    selection = SplatSelection(_box(request), request.min_opacity, request.sh_degree, request.max_gaussians)
    for note in cloud.notes:
        err().print(f"note: {note}", markup=False)
    before = len(cloud)
    cloud = selection.apply(cloud)
    if view is not None:
        write_splat_page(target, checked(target, cloud), view)
    else:
        write_gaussians(target, cloud, format)
    of = f" of {before:,}" if len(cloud) < before else ""
    err().print(f"{len(cloud):,}{of} Gaussians of degree {cloud.sh_degree}", markup=False)
    if why := looks_different(cloud, format, eps2d):
        err().print(f"note: {why}", markup=False)


def _first_view(run: LoadedRun) -> PageView | None:
    """How a page shows a run at first: from where an orbit starts, or from the middle one of photos of one side."""
    import torch

    from studio.cameras import Similarity, orbit_of
    from studio.export.splat_page import PageView
    from studio.scene.normalize import scene_vertical

    photos = run.cameras("train")
    if photos.model != "pinhole":
        return None
    to_input = Similarity.from_matrix(run.scene.input_from_scene)
    up = scene_vertical(run.scene)
    camera = orbit_of(photos, 1, up=up)[0]
    settings = run.config.config
    preset = f" ({run.config.preset})" if run.config.preset else ""
    return PageView(
        camera.to(dtype=torch.float64).transformed(to_input),
        to_input.rotation @ up,
        background=run.field.scene_info.background or (0.0, 0.0, 0.0),
        # What plugins of Gaussians call how these are drawn.
        eps2d=float(settings.get("eps2d", 0.3)),
        antialiased=bool(settings.get("antialiased", False)),
        near=float(settings.get("near", 0.01)) * to_input.scale,
        title=f"{run.scene.name}: {run.config.plugin}{preset}",
    )


def _refuse_splat_options(request: Export, format: str) -> None:
    for name in ("min_opacity", "sh_degree", "max_gaussians"):
        if getattr(request, name) is not None:
            raise StudioError(f"--{name.replace('_', '-')}: is of Gaussians, '{format}' has none.", fix="Leave it out.")


def _box(request: Export) -> Box | None:
    crop = request.crop
    return (crop[0], crop[1], crop[2], crop[3], crop[4], crop[5]) if crop else None


def _export_geometry(run: LoadedRun, format: str, target: Path, request: Export) -> None:
    from studio.devices import apply_threads, select
    from studio.export.geometry import GeometryOptions, export_geometry
    from studio.registry import find_plugin

    apply_threads()
    spec = find_plugin(run.config.plugin).spec
    assert spec is not None
    run.plugin.to(select(request.device, supported=spec.devices, owner=run.config.plugin).torch_device)
    cameras = run.cameras("train")
    options = GeometryOptions(
        method=request.method,
        resolution=request.resolution,
        threshold=request.threshold,
        crop=_box(request),
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
        if output is not None and output.name.lower().endswith(".compressed.ply") and "compressed-ply" in formats:
            return "compressed-ply"
        if by_ending in formats:
            return by_ending
        # Endings that only the engine's meshes have.
        return "mesh" if by_ending in ("obj", "glb", "stl") else next(iter(formats))
    if name not in formats:
        raise StudioError(f"--format: '{plugin}' does not export '{name}'.", fix=f"It exports {', '.join(formats)}.")
    return name
