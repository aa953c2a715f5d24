"""`studio edit`: change a given picture with a trained generator, without training it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from studio.cli.arguments import NonNegativeInt, PositiveInt
from studio.cli.console import out, shown
from studio.cli.run_arguments import parse_for_run
from studio.errors import StudioError


@dataclass
class Edit:
    """Change a picture: the modes are the plugin's own; --mode list shows them.

    The result stands right of the picture (and its mask), or alone in a file of its own with --alone.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or one above it, whose newest run is taken."""
    picture: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="PICTURE")] = None
    """The picture file; brought to the size of the run's data."""
    mode: str = "list"
    """What to do, such as inpaint."""
    mask: Path | None = None
    """Picture of the same view: white where it shall be painted anew."""
    cond: str | None = None
    """Class number or name, or caption, of the result."""
    n: PositiveInt = 1
    """Results, each from noise of its own."""
    seed: NonNegativeInt = 0
    """Equal seeds give equal results."""
    alone: bool = False
    """Save nothing but the results."""
    output: Path | None = None
    """*.png or *.jpg; default: in the run's folder samples/."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def main(argv: Sequence[str], started: float) -> int:
    """Edit, and say where the result is."""
    command = parse_for_run(Edit, argv, prog="studio edit", positionals=2, capability="edit", sampling=True)
    request = command.request
    import torch

    from studio.cli.conditions import read_conditions
    from studio.cli.run_data import picture_shape, read_pictures
    from studio.datasets.pictures import read_picture
    from studio.devices import apply_threads
    from studio.export.pictures import grid, save_picture
    from studio.training.loaded import open_run
    from studio.training.previews import sheet_of

    apply_threads()
    run = open_run(command.folder.path, device=request.device)
    generator = run.generator
    modes: dict[str, str] = dict(generator.edit_modes)  # type: ignore[arg-type]
    if request.mode == "list":
        for name, about in modes.items():
            out().print(f"{name:16} {about}", markup=False)
        return 0
    if request.mode not in modes:
        raise StudioError(f"--mode: '{run.config.plugin}' has no '{request.mode}'.", fix=f"It has {', '.join(modes)}.")
    if request.picture is None:
        raise StudioError("Name the picture: studio edit RUN PICTURE --mode MODE.")
    _, height, width = picture_shape(run)
    picture = read_pictures(run, [request.picture]).expand(request.n, -1, -1, -1)
    mask = None
    if request.mask is not None:
        mask = (read_picture(request.mask.expanduser(), (1, height, width)) >= 0.5).float().expand(request.n, 1, -1, -1)
    asked = () if request.cond is None else (request.cond,)
    condition = read_conditions(asked, generator.data_info, request.n).values
    noise = torch.Generator().manual_seed(request.seed)
    device = generator.device
    with torch.no_grad():
        edited = generator.edit(  # type: ignore[operator]
            picture.to(device),
            request.mode,
            mask=None if mask is None else mask.to(device),
            condition=condition,
            generator=noise,
            **command.options,
        ).cpu()
    target = (request.output or run.path / "samples" / f"{request.picture.stem}_{request.mode}.png").expanduser()
    results = sheet_of(edited)
    if request.alone:
        save_picture(target, grid(results))
    else:
        before = [sheet_of(picture[:1])[0]] + ([] if mask is None else [sheet_of(mask[:1])[0]])
        labels = ["picture", "mask"][: len(before)] + [request.mode] * len(results)
        save_picture(target, grid([*before, *results], captions=labels, columns=min(len(before) + len(results), 8)))
    out().print(shown(target), markup=False)
    return 0
