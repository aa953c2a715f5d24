"""`studio reconstruct`: pictures above what a generator makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from studio.cli.arguments import NonNegativeInt, PositiveInt
from studio.cli.console import out, shown
from studio.cli.run_arguments import parse_for_run
from studio.errors import StudioError

if TYPE_CHECKING:
    from torch import Tensor

_COLUMNS = 8


@dataclass
class Reconstruct:
    """Send samples through the latents of a generator and back: the input above, the output below, its error on top.

    The mean of (output - input)^2 over a sample tells how much of it the latents hold; a sample of another kind than
    the training data stands out by it.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or one above it, whose newest run is taken."""
    pictures: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PICTURE ...]")] = ()
    """Picture files; default: held-out samples of the run's data."""
    n: PositiveInt = 16
    """How many held-out samples."""
    split: Literal["test", "train"] = "test"
    """Which part of the data they are from."""
    cond: tuple[str, ...] = ()
    """Class number or name of the pictures, one or one each; held-out samples bring theirs along."""
    seed: NonNegativeInt = 0
    """Of the latents that are drawn, where the plugin draws any."""
    output: Path | None = None
    """*.png or *.jpg; default: in the run's folder samples/."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def main(argv: Sequence[str], started: float) -> int:
    """Reconstruct, print the errors, and say where the picture is."""
    command = parse_for_run(
        Reconstruct, argv, prog="studio reconstruct", positionals=max(len(argv), 1), capability="reconstruct"
    )
    request = command.request
    import torch

    from studio.cli.conditions import read_conditions
    from studio.cli.run_data import held_out_batch, read_pictures
    from studio.devices import apply_threads
    from studio.export.pictures import caption, grid, save_picture
    from studio.training.loaded import open_run
    from studio.training.previews import scatter, sheet_of

    apply_threads()
    run = open_run(command.folder.path, device=request.device)
    generator = run.generator
    condition: Any = None
    if request.pictures:
        x = read_pictures(run, request.pictures)
        condition = read_conditions(request.cond, generator.data_info, len(x)).values
    else:
        if request.cond:
            raise StudioError("--cond: held-out samples bring their own along.", fix="Leave it out, or name pictures.")
        x, known = held_out_batch(run, request.n, request.split)
        condition = known.tolist() if isinstance(known, torch.Tensor) else known
    noise = torch.Generator().manual_seed(request.seed)
    with torch.no_grad():
        again = generator.reconstruct(x.to(generator.device), condition, noise).cpu().float()  # type: ignore[operator]
    errors = mean_squared_errors(x, again)
    target = (request.output or run.path / "samples" / "reconstruction.png").expanduser()
    if x.ndim == 4:
        rows, labels = [], []
        for start in range(0, len(x), _COLUMNS):
            part = slice(start, min(start + _COLUMNS, len(x)))
            pad = _COLUMNS - (part.stop - part.start) if len(x) > _COLUMNS else 0
            blank = [torch.ones_like(sheet_of(x[:1])[0])] * pad
            rows += [*sheet_of(x[part]), *blank, *sheet_of(again[part]), *blank]
            labels += [""] * (part.stop - part.start + pad)
            labels += [f"{error:.4f}" for error in errors[part].tolist()] + [""] * pad
        save_picture(target, grid(rows, captions=labels, columns=min(_COLUMNS, len(x))))
    elif x.ndim == 2 and x.shape[1] >= 2:
        save_picture(target, caption(scatter(again[:, :2], x[:, :2]), "input grey, output blue"))
    else:
        raise StudioError(f"{run.path}: samples of shape {tuple(x.shape[1:])} cannot be drawn.")
    mean = float(errors.mean())
    psnr = f", PSNR {-10 * torch.log10(errors.clamp(min=1e-12)).mean():.2f} dB" if x.ndim == 4 else ""
    console = out()
    console.print(f"mean squared error of {len(x)} samples: {mean:.5f} (worst {errors.max():.5f}){psnr}", markup=False)
    console.print(shown(target), markup=False)
    return 0


def mean_squared_errors(x: Tensor, again: Tensor) -> Tensor:
    """(n,) mean over all values of each sample."""
    return (again - x).square().flatten(1).mean(dim=1)
