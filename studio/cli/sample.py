"""`studio sample`: draw from a trained generator."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from studio.cli.arguments import NonNegativeInt, OptionalPositiveInt, PositiveFloat
from studio.cli.console import err, out, progress, shown
from studio.cli.run_arguments import parse_for_run, require
from studio.errors import StudioError

if TYPE_CHECKING:
    from torch import Tensor

    from studio.cli.conditions import Conditions
    from studio.training.loaded import LoadedRun

_PICTURES, _POINTS, _TEXTS, _FILM = 64, 2000, 1, 16


@dataclass
class Sample:
    """Draw samples of a trained generator: pictures, points, or text.

    Texts are printed, as they grow where the plugin can, unless --output names a file.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or one above it, whose newest run is taken."""
    n: OptionalPositiveInt = None
    """How many; default: 64 pictures, 2,000 points, one text."""
    seed: NonNegativeInt = 0
    """Equal seeds give equal samples."""
    cond: tuple[str, ...] = ()
    """What to show: class numbers or names, or captions in quotes, each for its share of the samples; all: every
    class."""
    prompt: str | None = None
    """Text: how the samples begin."""
    output: Path | None = None
    """*.png or *.jpg: a grid; a folder: single pictures; *.npz: arrays; *.txt: texts. Default: in the run's folder
    samples/."""
    film: Path | None = None
    """Show instead how the samples come into being: *.mp4, *.gif or a folder."""
    predicted: bool = False
    """With --film: at each step what the model expects the sample to become."""
    fps: PositiveFloat = 20.0
    """Pictures of the film a second."""
    batch: OptionalPositiveInt = None
    """Samples drawn at once; default: by their size."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def main(argv: Sequence[str], started: float) -> int:
    """Sample, and say where the samples are."""
    command = parse_for_run(Sample, argv, prog="studio sample", sampling=True)
    request = command.request
    if request.film is not None:
        require(command.folder, command.folder.read_config(), "trajectory")
    from studio.cli.conditions import Conditions, read_conditions
    from studio.devices import apply_threads
    from studio.training.loaded import open_run

    apply_threads()
    run = open_run(command.folder.path, device=request.device)
    info = run.generator.data_info
    is_text = info.sample_shape == ()
    if request.prompt is not None:
        if not is_text:
            raise StudioError("--prompt is for text; this run draws something else.", fix='Give --cond "a text".')
        if request.cond:
            raise StudioError("--prompt and --cond cannot both be given.", fix="Leave --cond out.")
    count = request.n or _default_count(info.sample_shape, request)
    if is_text and request.cond:
        raise StudioError(f"--cond {request.cond[0]}: this run writes text.", fix='Give --prompt "how it begins".')
    if request.prompt is not None:
        conditions = Conditions([request.prompt] * count, None)
    else:
        conditions = read_conditions(request.cond, info, count)
    if request.film is not None:
        _film(run, request, conditions, count, command.options)
        return 0
    if is_text and request.output is None and count == 1 and _can(run, "stream"):
        _stream(run, request, command.options)
        return 0
    samples = _draw(run, request, conditions, count, command.options)
    if isinstance(samples, list) and request.output is None:
        out().print("\n----\n".join(samples), markup=False)
        return 0
    from studio.cli.sample_files import save_samples

    target = request.output.expanduser() if request.output else _default_output(run, request, samples)
    save_samples(target, samples, conditions.labels, conditions.classes)
    out().print(shown(target), markup=False)
    return 0


def _default_count(shape: tuple[int, ...], request: Sample) -> int:
    if request.film is not None:
        return _FILM if len(shape) == 3 else _POINTS
    return _PICTURES if len(shape) == 3 else _TEXTS if shape == () else _POINTS


def _can(run: LoadedRun, capability: str) -> bool:
    from studio.registry import find_plugin

    spec = find_plugin(run.config.plugin).spec
    return spec is not None and capability in spec.all_capabilities()


def _draw(
    run: LoadedRun, request: Sample, conditions: Conditions, count: int, options: dict[str, Any]
) -> Tensor | list[str]:
    from studio.training.sampling import default_batch, draw_samples

    size = request.batch or default_batch(run.generator)
    with progress("sampling", -(-count // size)) as advance:
        return draw_samples(
            run.generator,
            count,
            conditions.values,
            seed=request.seed,
            batch=size,
            options=options,
            on_batch=lambda drawn: advance(),
        )


def _stream(run: LoadedRun, request: Sample, options: dict[str, Any]) -> None:
    import torch

    noise = torch.Generator().manual_seed(request.seed)
    for piece in run.generator.stream(request.prompt or "", generator=noise, **options):  # type: ignore[operator]
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _film(run: LoadedRun, request: Sample, conditions: Conditions, count: int, options: dict[str, Any]) -> None:
    import torch

    from studio.export.pictures import grid
    from studio.export.video import VideoWriter
    from studio.training.previews import labelled_grid, scatter, sheet_of

    assert request.film is not None
    noise = torch.Generator().manual_seed(request.seed)
    extra = {"predicted": True} if request.predicted else {}
    err().print(f"drawing {count} samples step by step", markup=False)
    frames = run.generator.trajectory(count, conditions.values, noise, **options, **extra).cpu().float()  # type: ignore[operator]
    target = request.film.expanduser()
    with VideoWriter(target, fps=request.fps) as video:
        # The result stands for a second.
        for frame in [*frames, *[frames[-1]] * int(request.fps)]:
            if frame.ndim == 4:
                video.write(labelled_grid(frame, conditions.labels) if conditions.labels else grid(sheet_of(frame)))
            else:
                video.write(scatter(frame[:, :2], frame[:0, :2], frame=frames[-1, :, :2]))
    out().print(shown(target), markup=False)


def _default_output(run: LoadedRun, request: Sample, samples: Tensor | list[str]) -> Path:
    what = "_".join("".join(c if c.isalnum() else "-" for c in text)[:40] for text in request.cond[:3])
    return run.path / "samples" / f"{what + '_' if what else ''}seed{request.seed}.png"
