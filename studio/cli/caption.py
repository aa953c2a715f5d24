"""`studio caption`: what a trained plugin says about pictures, or about novel views of a trained scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from studio.cli.arguments import NonNegativeInt, PositiveInt
from studio.cli.console import err, out, print_json, shown
from studio.cli.run_arguments import parse_for_run
from studio.errors import StudioError

if TYPE_CHECKING:
    from torch import Tensor

    from studio.training.loaded import LoadedRun

_CELL = 256


@dataclass
class Caption:
    """Describe pictures, or views of a trained scene along a camera path."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run of a captioning plugin, or a folder above it, whose newest run is taken."""
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PICTURE ...]")] = ()
    """Picture files."""
    field: Path | None = None
    """Run of a scene, whose rendered views are described instead."""
    path: str = "orbit"
    """With --field: orbit, spiral, interpolate, train, val, test, or a camera path FILE.json."""
    frames: PositiveInt = 8
    """With --field: how many views."""
    seed: NonNegativeInt = 0
    """Where the plugin draws words by lot."""
    output: Path | None = None
    """*.png or *.jpg: a contact sheet of the pictures under their captions. Default with --field: in the run's folder
    samples/; else none."""
    json: bool = False
    """Print JSON, and nothing else on standard output."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def main(argv: Sequence[str], started: float) -> int:
    """Describe, print, and save the sheet."""
    command = parse_for_run(
        Caption, argv, prog="studio caption", positionals=max(len(argv), 1), capability="caption", sampling=True
    )
    request = command.request
    if bool(request.pictures) == (request.field is not None):
        raise StudioError("Name pictures, or a scene with --field, and not both.", fix="studio caption RUN PICTURE")
    import torch

    from studio.cli.run_data import picture_shape, read_pictures
    from studio.devices import apply_threads
    from studio.export.pictures import grid, save_picture
    from studio.training.captions import fit_view
    from studio.training.loaded import open_run

    apply_threads()
    run = open_run(command.folder.path, device=request.device)
    shape = picture_shape(run)
    target = request.output
    if request.field is not None:
        scene = open_run(request.field, device=request.device)
        views = _render(scene, request)
        names = [f"view {i}" for i in range(len(views))]
        pictures = torch.stack([fit_view(view, shape) for view in views])
        target = target or run.path / "samples" / f"captions_{scene.scene.name}_{Path(request.path).stem}.png"
    else:
        pictures = read_pictures(run, request.pictures)
        names = [str(path) for path in request.pictures]
        views = [_full_picture(path) for path in request.pictures] if target is not None else []
    noise = torch.Generator().manual_seed(request.seed)
    with torch.no_grad():
        captions = run.generator.caption(pictures.to(run.generator.device), noise, **command.options)  # type: ignore[operator]
    if target is not None:
        target = target.expanduser()
        save_picture(target, grid(views, captions=captions, cell_width=_CELL, columns=min(len(views), 4)))
    if request.json:
        print_json([{"picture": name, "caption": caption} for name, caption in zip(names, captions, strict=True)])
        return 0
    for name, text in zip(names, captions, strict=True):
        out().print(f"{name}: {text}", markup=False)
    if target is not None:
        err().print(f"sheet: {shown(target)}", markup=False)
    return 0


def _render(scene: LoadedRun, request: Caption) -> list[Tensor]:
    from studio.cli.render_path import PathOptions, make_path

    def tell(text: str) -> None:
        err().print(text, markup=False)

    path = make_path(scene, PathOptions(path=request.path, frames=request.frames), tell)
    return [drawn["rgb"] for drawn in scene.render(path.cameras[: request.frames])]


def _full_picture(path: Path) -> Tensor:
    import torch

    from studio.scene.decode import decode_photo

    return torch.from_numpy(decode_photo(path.expanduser())[..., :3]).float() / 255
