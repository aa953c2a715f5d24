"""`studio train`: train a plugin, or go on with a run."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.cli.arguments import format_duration
from studio.cli.console import out, shown
from studio.cli.train_arguments import ResumeRequest, RunOptions, TrainRequest, read_train_arguments
from studio.errors import StudioError
from studio.registry import find_plugin

if TYPE_CHECKING:
    from rich.console import Console

    from studio.training.loop import TrainingResult
    from studio.training.observers import ProgressLine
    from studio.training.start import Prepared, TrainOptions
    from studio.viewer.live import TrainingViewer

INTERRUPTED = 130


def main(argv: Sequence[str], started: float) -> int:
    """Train; the budget counts from `started`."""
    request = read_train_arguments(argv)
    console = out()
    if isinstance(request, TrainRequest):
        if request.run.viewer and request.kind != "field":
            raise StudioError(
                f"--viewer: shows scenes, and '{request.plugin}' is a generator.",
                fix="Leave it out; `studio view RUN` samples from a run.",
            )
        if request.run.timelapse is not None and request.kind != "field":
            raise StudioError(
                f"--timelapse: films scenes, and '{request.plugin}' is a generator.",
                fix="Leave it out; the film of its previews is made anyway.",
            )
        preset = f" (preset {request.run.preset})" if request.run.preset else ""
        console.print(f"[bold]{request.plugin}[/]{preset} on ", end="")
        console.print(request.data, markup=False)
    # Only now, behind all that can be said without it: importing torch takes seconds.
    from studio.cli.compiling import compile_messages
    from studio.devices import apply_threads
    from studio.training.forecast import BudgetForecast
    from studio.training.observers import Previews, ProgressLine
    from studio.training.previews import preview_painter
    from studio.training.start import prepare, prepare_resume

    apply_threads()
    line = ProgressLine(console)

    def announce(text: str) -> None:
        console.print(text, markup=False)

    with compile_messages(announce):
        if isinstance(request, ResumeRequest):
            prepared = prepare_resume(
                request.path,
                _options(request.run, request),
                steps=request.steps,
                observers=[line],
                clock_start=started,
                announce=announce,
            )
            step = prepared.trainer.step
            announce(
                f"resuming {shown(prepared.run.path)} at step {step:,} of {prepared.trainer.settings.total_steps:,}"
            )
        else:
            prepared = prepare(
                request.plugin,
                request.data,
                request.settings,
                _options(request.run, request),
                preset=request.run.preset,
                observers=[line],
                clock_start=started,
                announce=announce,
            )
            announce(f"run: {shown(prepared.run.path)}")
        if request.run.previews:
            prepared.trainer.observers.append(Previews(preview_painter(prepared), tell=announce))
        if prepared.config.kind == "field":
            prepared.trainer.observers.append(BudgetForecast(announce, prepared.config.data.downscale))
        if request.run.timelapse is not None:
            _add_timelapse(prepared, request.run.timelapse, announce)
        with _viewer(prepared, request.run) as viewer:
            code = _train(request, prepared, line, console)
            if viewer is not None and code == 0 and console.is_terminal:
                _keep_open(viewer, console)
    return code


def _train(request: TrainRequest | ResumeRequest, prepared: Prepared, line: ProgressLine, console: Console) -> int:
    def announce(text: str) -> None:
        console.print(text, markup=False)

    try:
        result = prepared.train()
    except KeyboardInterrupt:
        line.close()
        _say_how_to_resume(console, prepared)
        return INTERRUPTED
    finally:
        line.close()
    if result.reason == "interrupted":
        announce(f"stopped at step {result.step:,}, all saved")
        _say_how_to_resume(console, prepared)
        return INTERRUPTED
    if request.run.previews:
        _save_film(prepared, announce)
    _say_result(console, prepared, result, line.figures)
    return 0


@contextmanager
def _viewer(prepared: Prepared, run: RunOptions) -> Iterator[TrainingViewer | None]:
    """The page of a training that is watched; closed in any case."""
    if not run.viewer or prepared.scene is None:
        yield None
        return
    from studio.cli.view import announce
    from studio.viewer.access import Access
    from studio.viewer.live import TrainingViewer

    viewer = TrainingViewer(prepared, Access.make(run.viewer_host, None), run.viewer_port)
    prepared.trainer.observers.append(viewer)
    announce(viewer.url, viewer.port, run.viewer_port)
    try:
        yield viewer
    finally:
        viewer.close()


def _keep_open(viewer: TrainingViewer, console: Console) -> None:
    console.print(f"The viewer stays open at {viewer.url}; Ctrl-C ends it.", style="dim", markup=False)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def _add_timelapse(prepared: Prepared, view: str, tell: Callable[[str], None]) -> None:
    from studio.cli.train_timelapse import timelapse_camera
    from studio.training.timelapse import Timelapse

    if prepared.scene is None:
        raise StudioError("--timelapse: films scenes, and this run is of a generator.", fix="Leave it out.")
    try:
        camera = timelapse_camera(prepared.loaded(), view, tell)
    except StudioError:
        # Found out too late for nothing to be left behind; a resumed run keeps what it has.
        if not prepared.run.list_checkpoints():
            shutil.rmtree(prepared.run.path)
        raise
    prepared.trainer.observers.append(Timelapse(camera, tell=tell))


def _save_film(prepared: Prepared, tell: Callable[[str], None]) -> None:
    from studio.training.previews import save_film

    try:
        save_film(prepared.run)
    except StudioError as error:
        tell(f"note: no film of the previews: {error}")


def _options(run: RunOptions, request: TrainRequest | ResumeRequest) -> TrainOptions:
    from studio.training.start import TrainOptions

    data: dict[str, Any] = {}
    if isinstance(request, TrainRequest):
        data = {"reader": request.dataset.reader()}
    if isinstance(request, TrainRequest) and request.kind == "field":
        data = {
            "downscale": request.scene.downscale,
            "background": request.scene.background,
            "cache_gb": request.scene.cache_gb,
            "reader": request.scene.reader(),
        }
    return TrainOptions(
        output=run.output.expanduser(),
        seed=run.seed,
        device=run.device,
        budget_seconds=run.budget,
        tensorboard=run.tensorboard,
        log_every=run.log_every,
        checkpoint_seconds=run.checkpoint_seconds,
        checkpoint_steps=run.checkpoint_steps,
        accept_changes=run.accept_changes,
        **data,
    )


def _say_how_to_resume(console: Console, prepared: Prepared) -> None:
    if prepared.run.list_checkpoints():
        console.print("resume with:")
        console.print(f"  studio train --resume {shown(prepared.run.path)}", style="cyan", markup=False)
    else:
        console.print("stopped before the first checkpoint; nothing to resume")


def _say_result(console: Console, prepared: Prepared, result: TrainingResult, figures: Mapping[str, float]) -> None:
    facts = [f"{result.step:,} step{'s' if result.step != 1 else ''} in {format_duration(result.seconds)}"]
    if result.reason == "budget":
        facts[0] += " (the budget is used up)"
    if "psnr" in figures:
        facts.append(f"PSNR {figures['psnr']:.2f} dB on training photos")
    facts += [f"{value:,} {name}" for name, value in prepared.plugin.status().items() if isinstance(value, int)]
    console.print(f"[bold green]done[/]: {', '.join(facts)}")
    run = shown(prepared.run.path)
    console.print(f"run:     {run}", markup=False)
    if preview := _last_preview(prepared.run.previews):
        console.print(f"preview: {shown(preview)}", markup=False)
    console.print("next:")
    commands = [*_next_of_generator(prepared, run), f"studio train --resume {run} --steps {2 * result.step}"]
    if prepared.scene is not None:
        commands = [f"studio render {run} --path orbit", f"studio eval {run}"]
        if prepared.loaded().field.export_formats:
            commands.append(f"studio export {run}")
    for command in commands:
        console.print(f"  {command}", style="cyan", markup=False)


def _next_of_generator(prepared: Prepared, run: str) -> list[str]:
    entry = find_plugin(prepared.config.plugin)
    if prepared.config.kind != "generator" or entry.spec is None:
        return []
    if "caption" in entry.spec.capabilities:
        return [f"studio caption {run} PICTURE", f"studio eval {run}"]
    return [f"studio sample {run}", f"studio eval {run}"]


def _last_preview(folder: Path) -> Path | None:
    found = sorted(folder.glob("step_*"))
    return found[-1] if found else None
