"""`studio render`: novel views of a trained scene, as a video or as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from studio.cli.arguments import (
    OptionalDegrees,
    OptionalPositiveFloat,
    OptionalPositiveInt,
    PositiveFloat,
    parse,
)
from studio.cli.console import err, out, progress, shown
from studio.errors import StudioError

if TYPE_CHECKING:
    from studio.cli.render_path import RenderPath
    from studio.training.loaded import LoadedRun


@dataclass
class Render:
    """Render novel views of a trained scene along a camera path.

    Several outputs stand side by side in a video, and have a folder each as pictures.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or one above it, whose newest run is taken. The photos are not needed."""
    path: str = "orbit"
    """orbit, spiral, interpolate (through the training cameras), train, val, test (the photos' own cameras), a
    nerfstudio camera path FILE.json in the frame of the input cameras, or a path of another package (see `studio
    plugins`)."""
    output: Path | None = None
    """*.mp4, *.gif, or a folder for pictures; default: in the run's folder renders/."""
    outputs: tuple[str, ...] = ("rgb",)
    """What to render: rgb, depth, opacity, normals, or whatever else the plugin offers."""
    frames: OptionalPositiveInt = None
    """Number of pictures; default: seconds times fps. For train, val and test: at most so many photos."""
    seconds: OptionalPositiveFloat = None
    """Length of the video; default 4."""
    fps: OptionalPositiveFloat = None
    """Pictures a second; default 30, or what the file says, or 4 for photos' own cameras."""
    width: OptionalPositiveInt = None
    """Width in pixels; default: as in training. With --height: the middle of the view at that aspect."""
    height: OptionalPositiveInt = None
    """Height in pixels."""
    scale: PositiveFloat = 1.0
    """Times the size in training; without --width and --height."""
    radius: PositiveFloat = 1.0
    """Distance of an orbit, times the photos' mean distance; size of a spiral, times the spread of the photos."""
    elevation: OptionalDegrees = None
    """Elevation of an orbit in degrees above the horizon, -90 to 90; default: the photos' mean."""
    colormap: str = "turbo"
    """Colours of depth: any of matplotlib's colour maps, such as turbo, viridis, magma."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def main(argv: Sequence[str], started: float) -> int:
    """Render and say where it is."""
    request = parse(Render, argv, prog="studio render", positionals=1)
    if not request.outputs:
        raise StudioError("--outputs: name at least one output.", fix="For example --outputs rgb depth.")
    notes = err()

    def tell(text: str) -> None:
        notes.print(text, markup=False)

    from studio.cli.render_path import PathOptions, make_path
    from studio.devices import apply_threads
    from studio.training.loaded import open_run

    apply_threads()
    run = open_run(request.run, device=request.device)
    field = run.field
    unknown = [name for name in request.outputs if name not in field.output_names]
    if unknown:
        raise StudioError(
            f"--outputs: '{run.config.plugin}' does not render '{unknown[0]}'.",
            fix=f"It renders {', '.join(field.output_names)}.",
        )
    options = PathOptions(
        path=request.path,
        frames=request.frames,
        seconds=request.seconds,
        fps=request.fps,
        width=request.width,
        height=request.height,
        scale=request.scale,
        radius=request.radius,
        elevation_degrees=request.elevation,
    )
    path = make_path(run, options, tell)
    outputs = tuple(dict.fromkeys(request.outputs))
    where = request.output.expanduser() if request.output else _default_output(run, path, outputs)
    width, height = path.cameras.size
    tell(f"rendering {len(path.cameras)} views of {width}x{height} from {shown(run.path)} at step {run.step:,}")
    render_to(run, path, outputs, where, color_map=request.colormap)
    out().print(shown(where), markup=False)
    return 0


def render_to(run: LoadedRun, path: RenderPath, outputs: Sequence[str], where: Path, *, color_map: str) -> None:
    """Render along a path into a video, or into a folder (with several outputs, a folder for each in it)."""
    from studio.cli.render_pictures import Pictures
    from studio.export.pictures import side_by_side
    from studio.export.video import VideoWriter

    pictures = Pictures(run, path.cameras, outputs, color_map=color_map)
    with ExitStack() as stack:
        as_folders = where.suffix == "" and len(outputs) > 1
        targets = [where / name for name in outputs] if as_folders else [where]
        writers = [stack.enter_context(VideoWriter(target, fps=path.fps)) for target in targets]
        advance = stack.enter_context(progress("rendering", len(path.cameras)))
        for drawn in pictures:
            if as_folders:
                for writer, picture in zip(writers, drawn, strict=True):
                    writer.write(picture)
            else:
                writers[0].write(drawn[0] if len(drawn) == 1 else side_by_side(drawn))
            advance()


def _default_output(run: LoadedRun, path: RenderPath, outputs: Sequence[str]) -> Path:
    name = path.name if tuple(outputs) == ("rgb",) else f"{path.name}_{'_'.join(outputs)}"
    return run.path / "renders" / (f"{name}.mp4" if path.is_motion else name)
