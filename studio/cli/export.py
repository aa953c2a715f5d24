"""`studio export`: a trained scene in a format of other programs, in the frame of the input cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from studio.cli.arguments import parse
from studio.cli.console import err, out, shown
from studio.errors import StudioError

_ENDINGS = {"pointcloud": "ply", "mesh": "ply"}
"""Of formats whose name is not an ending itself."""


@dataclass
class Export:
    """Write a trained scene in a format of other programs. It lies where the input cameras are."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or one above it, whose newest run is taken. The photos are not needed."""
    format: str | None = None
    """One of the plugin's formats; default: by the ending of --output, else the plugin's first. `--format list` shows
    them."""
    output: Path | None = None
    """File to write; default: in the run's folder exports/."""


def main(argv: Sequence[str], started: float) -> int:
    """Export and say where it is."""
    request = parse(Export, argv, prog="studio export", positionals=1)
    from studio.training.loaded import open_run

    run = open_run(request.run, device="cpu")
    field = run.field
    formats = field.export_formats
    if not formats:
        raise StudioError(f"{run.path}: the plugin '{run.config.plugin}' exports nothing.")
    if request.format == "list":
        for name, about in formats.items():
            out().print(f"{name:12} {about}", markup=False)
        return 0
    chosen = _choose(request.format, request.output, formats)
    target = request.output
    if target is None:
        ending = _ENDINGS.get(chosen, chosen)
        stem = run.scene.name if ending == chosen else f"{run.scene.name}_{chosen}"
        target = run.path / "exports" / f"{stem}.{ending}"
    target = target.expanduser()
    field.export(chosen, target, input_from_scene=run.scene.input_from_scene)
    err().print(f"{chosen}: {formats[chosen]}", markup=False)
    out().print(shown(target), markup=False)
    return 0


def _choose(name: str | None, output: Path | None, formats: Mapping[str, str]) -> str:
    if name is None:
        by_ending = output.suffix.lstrip(".").lower() if output is not None else ""
        return by_ending if by_ending in formats else next(iter(formats))
    if name not in formats:
        raise StudioError(f"--format: the plugin does not export '{name}'.", fix=f"It exports {', '.join(formats)}.")
    return name
