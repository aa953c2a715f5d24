"""`studio eval`: honest figures of a trained run on what it has not seen, with the protocol they hold for."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from studio.cli.arguments import parse
from studio.cli.console import err, out, print_json, progress, shown
from studio.errors import StudioError

if TYPE_CHECKING:
    from torch import Tensor

    from studio.metrics import EvaluationReport, Lpips, PhotoMetric, PhotoScore
    from studio.scene import Photo
    from studio.training.loaded import LoadedRun


@dataclass
class Evaluate:
    """Measure a trained scene: PSNR, SSIM, and LPIPS when its weights are there, for each photo and in the mean.

    Writes eval.json and, in the folder eval/, pictures of photo, render and error into the run folder. Generators are
    measured by other figures and have other options: studio eval RUN --help.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or one above it, whose newest run is taken."""
    split: str | None = None
    """train, val or test; default: test, else val where photos are held out."""
    json: bool = False
    """Print the report as JSON, and nothing else on standard output."""
    pictures: bool = True
    """Save the comparison pictures."""
    lpips: Literal["vgg", "alex", "no"] = "vgg"
    """Backbone of LPIPS; no leaves it out."""
    lpips_weights: Path | None = None
    """File or folder of LPIPS weights; default: found by itself where there are any. Nothing is downloaded."""
    metrics: tuple[str, ...] = ()
    """Metrics of other packages to measure as well; `studio plugins` lists them."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def main(argv: Sequence[str], started: float) -> int:
    """Evaluate, print, and save into the run folder."""
    from studio.cli.run_arguments import find_run

    found = find_run(Evaluate, argv, 1)
    if found is not None and found.read_config().kind == "generator":
        from studio.cli.evaluate_generator import evaluate_generator

        return evaluate_generator(argv)
    request = parse(Evaluate, argv, prog="studio eval", positionals=1)
    if request.split is not None and request.split not in ("train", "val", "test"):
        raise StudioError(f"--split: there is no split '{request.split}'.", fix="Use train, val or test.")
    from studio.devices import apply_threads
    from studio.training.loaded import open_run

    apply_threads()
    run = open_run(request.run, device=request.device)
    model, name = _lpips(request)
    metrics = _metrics(request)
    split = request.split or run.scene.evaluation_split
    if split == "train" and request.split is None:
        err().print("note: no photos are held out, so these are the photos it was trained on")
    report, folder = _measure(run, split, model, name, metrics, request.pictures)
    document = {
        "run": str(run.path.absolute()),
        "plugin": run.config.plugin,
        "preset": run.config.preset,
        "step": run.step,
        **report.to_dict(),
    }
    save_report(run.run.eval_file, document)
    if request.json:
        print_json(document)
        return 0
    console = out()
    console.print(report.table(title=f"{run.config.plugin} on {run.scene.name}, step {run.step:,}"), soft_wrap=False)
    console.print(f"figures:  {shown(run.run.eval_file)}", markup=False)
    if folder is not None:
        console.print(f"pictures: {shown(folder)}", markup=False)
    return 0


def save_report(path: Path, document: dict[str, Any]) -> None:
    """Strict JSON, whole or not at all."""
    from studio.files import atomic_write

    with atomic_write(path, "w") as handle:
        json_module.dump(document, handle, indent=2, ensure_ascii=False, allow_nan=False)
        handle.write("\n")


def _measure(
    run: LoadedRun,
    split: str,
    model: Lpips | None,
    name: str,
    metrics: Sequence[tuple[PhotoMetric, str]],
    pictures: bool,
) -> tuple[EvaluationReport, Path | None]:
    folder = run.path / "eval" if pictures else None
    count = len(run.scene.split(split))  # type: ignore[arg-type]
    with progress("evaluating", count) as advance:
        save = None if folder is None else comparison_saver(run, folder)

        def on_photo(photo: Photo, render: Tensor, score: PhotoScore) -> None:
            if save is not None:
                save(photo, render, score)
            advance(f"PSNR {score.psnr:.2f} dB")

        report = run.evaluate(split, lpips=model, lpips_name=name, metrics=metrics, on_photo=on_photo)
    return report, folder


def comparison_saver(run: LoadedRun, folder: Path) -> Callable[[Photo, Tensor, PhotoScore], None]:
    """Saves photo, render and error of each photo as FOLDER/<name of the photo>.png."""
    import torch

    from studio.export.colormaps import comparison
    from studio.export.pictures import save_picture

    background = run.background if run.background is not None else torch.zeros(3)
    taken: set[str] = set()

    def save(photo: Photo, render: Any, score: PhotoScore) -> None:
        # Names hold folders; two photos may differ in the ending alone.
        stem = photo.frame.name.replace("/", "_").replace("\\", "_")
        stem = stem if Path(stem).stem in taken else Path(stem).stem
        taken.add(stem)
        picture = comparison(photo.composited(background), render, title=f"PSNR {score.psnr:.2f} dB", mask=photo.mask)
        save_picture(folder / f"{stem}.png", picture)

    return save


def _lpips(request: Evaluate) -> tuple[Lpips | None, str]:
    """The metric, and how the protocol names it or why it is missing."""
    from studio.metrics import find_lpips, load_lpips

    if request.lpips == "no":
        return None, "not asked for"
    if request.lpips_weights is not None:
        return load_lpips(request.lpips, request.lpips_weights.expanduser()), request.lpips
    model, reason = find_lpips(request.lpips)
    if model is None:
        if not request.json:
            err().print(f"note: {reason}", markup=False)
        return None, "unavailable (no weights on this computer)"
    return model, reason


def _metrics(request: Evaluate) -> list[tuple[PhotoMetric, str]]:
    """Those that were asked for, each with the distribution it is of."""
    if not request.metrics:
        return []
    from studio.extensions import list_extensions, load_extension

    asked = dict.fromkeys(request.metrics)
    found = [(load_extension("metric", name), name) for name in asked]
    owners = {entry.name: f"{entry.distribution} {entry.version}" for entry in list_extensions("metric")}
    return [(metric, owners[name]) for metric, name in found]
