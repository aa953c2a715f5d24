"""`studio interpolate`: from one sample to another through the latents, beside the plain blend of the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from studio.cli.arguments import NonNegativeInt, PositiveFloat, PositiveInt
from studio.cli.console import out, shown
from studio.cli.run_arguments import parse_for_run
from studio.errors import StudioError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Interpolate:
    """Walk from one sample to another through the latents of a generator.

    Each pair gives two rows: the walk, and below it the blend of its two ends pixel by pixel, which is no picture of
    anything in between.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or one above it, whose newest run is taken."""
    between: tuple[Path, ...] = ()
    """Two picture files; default: random latents."""
    frames: PositiveInt = 8
    """Samples from one end to the other, both included."""
    rows: PositiveInt = 4
    """Pairs of random latents."""
    seed: NonNegativeInt = 0
    """Equal seeds give equal walks."""
    cond: str | None = None
    """Class number or name, or caption, of all samples."""
    output: Path | None = None
    """*.png, or *.mp4, *.gif or a folder for a film; default: in the run's folder samples/."""
    fps: PositiveFloat = 15.0
    """Pictures of a film a second."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def main(argv: Sequence[str], started: float) -> int:
    """Walk, and say where the picture is."""
    command = parse_for_run(Interpolate, argv, prog="studio interpolate", capability="interpolate")
    request = command.request
    if len(request.between) not in (0, 2):
        raise StudioError(f"--between: takes two pictures, got {len(request.between)}.", fix="Name two files.")
    if request.frames < 2:
        raise StudioError("--frames: a walk has two ends.", fix="Give 2 or more.")
    import torch

    from studio.cli.conditions import read_conditions
    from studio.cli.run_data import picture_shape, read_pictures
    from studio.devices import apply_threads
    from studio.export.pictures import caption, grid, save_picture
    from studio.export.video import VideoWriter
    from studio.training.loaded import open_run
    from studio.training.previews import scatter, sheet_of

    apply_threads()
    run = open_run(command.folder.path, device=request.device)
    generator = run.generator
    asked = () if request.cond is None else (request.cond,)
    condition = read_conditions(asked, generator.data_info, request.frames).values
    ends: tuple[torch.Tensor | None, ...] = (None, None)
    if request.between:
        picture_shape(run)
        ends = tuple(read_pictures(run, request.between).to(generator.device))
    noise = torch.Generator().manual_seed(request.seed)
    walks = [
        generator.interpolate(request.frames, ends[0], ends[1], condition, noise).detach().cpu().float()  # type: ignore[operator]
        for _ in range(1 if request.between else request.rows)
    ]
    target = (request.output or run.path / "samples" / f"interpolation_seed{request.seed}.png").expanduser()
    if walks[0].ndim == 2:
        if target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise StudioError(f"{target}: walks between points are drawn as .png.", fix="Choose that ending.")
        points = torch.cat(walks)[:, :2]
        save_picture(target, caption(scatter(points, points[:0], frame=points), f"{len(walks)} walks"))
    elif target.suffix.lower() in (".png", ".jpg", ".jpeg"):
        rows = [row for walk in walks for row in (*sheet_of(walk), *sheet_of(_blend(walk)))]
        labels = ["latent", *[""] * (request.frames - 1), "pixels", *[""] * (request.frames - 1)] * len(walks)
        save_picture(target, grid(rows, captions=labels, columns=request.frames))
    else:
        with VideoWriter(target, fps=request.fps) as video:
            blends = [_blend(walk) for walk in walks]
            # There and back again, so that it can loop.
            order = [*range(request.frames), *range(request.frames - 2, 0, -1)]
            for i in order:
                shown_now = torch.stack([part[i] for pair in zip(walks, blends, strict=True) for part in pair])
                labels = ["latent", "pixels"] * len(walks)
                video.write(grid(sheet_of(shown_now), captions=labels, columns=2 if len(walks) < 3 else 4))
    out().print(shown(target), markup=False)
    return 0


def _blend(walk: Tensor) -> Tensor:
    """(1 - t) first + t last, as many frames."""
    import torch

    t = torch.linspace(0, 1, len(walk)).view(-1, *[1] * (walk.ndim - 1))
    return (1 - t) * walk[:1] + t * walk[-1:]
