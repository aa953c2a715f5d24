"""`studio eval` of a generator: quality, variety and speed side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from studio.cli.arguments import NonNegativeInt, OptionalPositiveInt, PositiveInt
from studio.cli.console import err, out, print_json, shown
from studio.cli.evaluate import save_report
from studio.cli.run_arguments import parse_for_run
from studio.errors import StudioError

if TYPE_CHECKING:
    from torch import Tensor

    from studio.datasets import Dataset

_SHOWN, _DESCRIBED, _DESCRIBED_WIDTH = 64, 16, 256


@dataclass
class EvaluateGenerator:
    """Measure a trained generator on held-out data.

    Pictures: samples a second, FID and KID over the features of a classifier that the studio trains once on the data
    set, precision, recall, density and coverage, and for conditional models whether samples show what was asked for.
    Points: distances between the sets. Text: nats a token and a character of held-out text. Captions: which attributes
    are right, and BLEU. Writes eval.json, and what was drawn to eval/, into the run folder.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or one above it, whose newest run is taken."""
    n: PositiveInt = 1000
    """Samples; FID depends on their number."""
    seed: NonNegativeInt = 0
    """Equal seeds give equal samples."""
    batch: OptionalPositiveInt = None
    """Samples drawn at once; default: by their size."""
    caption_run: Path | None = None
    """Run of a captioning plugin: reads samples back that were asked for by captions."""
    json: bool = False
    """Print the report as JSON, and nothing else on standard output."""
    pictures: bool = True
    """Save some of what was drawn."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def evaluate_generator(argv: Sequence[str]) -> int:
    """Evaluate, print, and save into the run folder."""
    command = parse_for_run(EvaluateGenerator, argv, prog="studio eval", sampling=True)
    request = command.request
    if request.n < 10:
        raise StudioError(f"--n: {request.n} samples say nothing about a distribution.", fix="Give 1000 or so.")
    from studio.cli.run_data import open_run_data
    from studio.devices import apply_threads
    from studio.devices.report import cache_folder
    from studio.registry import find_plugin
    from studio.training.assess import AssessOptions, assess
    from studio.training.loaded import open_run

    apply_threads()

    def tell(text: str) -> None:
        if not request.json:
            err().print(text, markup=False)

    run = open_run(command.folder.path, device=request.device)
    spec = find_plugin(run.config.plugin).spec
    assert spec is not None
    train, test = open_run_data(run, "train"), open_run_data(run, "test")
    captioner: Any = None
    if request.caption_run is not None:
        captioner = parse_for_run(
            EvaluateGenerator, [str(request.caption_run)], prog="studio eval", capability="caption"
        ).folder
        captioner = open_run(captioner.path, device=request.device)
    options = AssessOptions(
        samples=request.n,
        seed=request.seed,
        batch=request.batch,
        sampling=command.options,
        cache=cache_folder(),
        caption_generator=None if captioner is None else captioner.generator,
        caption_name="" if captioner is None else str(captioner.path),
    )
    report, drawn = assess(run.generator, train, test, options, capabilities=spec.all_capabilities(), tell=tell)
    document = {
        "run": str(run.path.absolute()),
        "plugin": run.config.plugin,
        "preset": run.config.preset,
        "step": run.step,
        "data": train.name,
        **report.to_dict(),
    }
    save_report(run.run.eval_file, document)
    picture = _save_drawn(run.path / "eval", drawn, test) if request.pictures else None
    if request.json:
        print_json(document)
        return 0
    console = out()
    console.print(report.table(title=f"{run.config.plugin} on {train.name}, step {run.step:,}"), soft_wrap=False)
    weak = (
        [name for name, share in report.per_class.items() if share < 0.5] if "class_accuracy" in report.figures else []
    )
    if weak:
        console.print(f"recognised in less than half of their samples: {', '.join(weak)}", markup=False)
    console.print(f"figures: {shown(run.run.eval_file)}", markup=False)
    if picture is not None:
        console.print(f"drawn:   {shown(picture)}", markup=False)
    return 0


def _save_drawn(folder: Path, drawn: Tensor | list[str], test: Dataset) -> Path:
    """Some of the samples, evenly taken: a grid, a plot over held-out points, or lines of text."""
    from studio.export.pictures import caption, grid, save_picture
    from studio.files import atomic_write
    from studio.training.assess import evenly
    from studio.training.previews import scatter, sheet_of

    if isinstance(drawn, list) and len(test.sample_shape) == 3:
        x, _ = test.batch(evenly(len(test), len(drawn))[:_DESCRIBED])
        target = folder / "captions.png"
        save_picture(target, grid(sheet_of(x, _DESCRIBED_WIDTH), captions=drawn[:_DESCRIBED], columns=4))
    elif isinstance(drawn, list):
        target = folder / "samples.txt"
        with atomic_write(target, "w") as file:
            file.write("\n".join(drawn) + "\n")
    elif drawn.ndim == 4:
        target = folder / "samples.png"
        save_picture(target, grid(sheet_of(drawn[evenly(len(drawn), _SHOWN)])))
    else:
        target = folder / "samples.png"
        real, _ = test.batch(range(len(test)))
        save_picture(target, caption(scatter(drawn[:, :2], real[:, :2]), "held out grey, samples blue"))
    return target
