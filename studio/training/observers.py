"""What watches a training run: the figures on disk, the progress line, the previews."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from studio.training.loop import Observer, Trainer, TrainingResult
from studio.training.randomness import undisturbed


class MetricsWriter(Observer):
    """Figures to ``metrics.jsonl`` (a line a log step) and to TensorBoard events."""

    def __init__(self, tensorboard: bool = True) -> None:
        self._tensorboard = tensorboard
        self._events: Any = None
        self._file: IO[str] | None = None

    def on_start(self, trainer: Trainer) -> None:
        self._file = trainer.run.metrics_file.open("a", encoding="utf-8")

    def on_log(self, trainer: Trainer, step: int, figures: Mapping[str, float]) -> None:
        assert self._file is not None
        row = {"step": step - 1, "seconds": round(trainer.elapsed, 3), **figures, **_numbers(trainer.plugin.status())}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._tensorboard:
            self._write_events(trainer, step, row)

    def on_end(self, trainer: Trainer, result: TrainingResult) -> None:
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()

    def _write_events(self, trainer: Trainer, step: int, row: Mapping[str, Any]) -> None:
        if self._events is None:
            # Imported at the first line of figures, not before: it takes a good part of a second.
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(trainer.run.path / "events"))
        for name, value in row.items():
            if name != "step":
                self._events.add_scalar(name, value, step)


class ProgressLine(Observer):
    """A progress bar with speed, time left, loss, PSNR and the plugin's own status."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task: Any = None
        self._seen: tuple[float, int] | None = None
        self._rate = 0.0
        self._printed = 0.0

    def on_start(self, trainer: Trainer) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TimeElapsedColumn(),
            _Figures(),
            console=self._console,
            # Pipes and log files get plain lines from `_print_line` instead of a redrawn bar.
            disable=not self._console.is_terminal,
        )
        self._task = self._progress.add_task(
            "training", total=trainer.settings.total_steps, completed=trainer.step, figures="starting"
        )
        self._progress.start()

    def on_log(self, trainer: Trainer, step: int, figures: Mapping[str, float]) -> None:
        assert self._progress is not None
        now = time.perf_counter()
        if self._seen is not None and step > self._seen[1]:
            rate = (step - self._seen[1]) / max(now - self._seen[0], 1e-9)
            self._rate = rate if self._rate == 0 else 0.7 * self._rate + 0.3 * rate
        self._seen = (now, step)
        text = self._describe(trainer, step, figures)
        self._progress.update(self._task, completed=step, figures=text)
        if not self._console.is_terminal and (step == 1 or now - self._printed >= 5.0):
            self._printed = now
            self._print_line(trainer, step, text)

    def on_end(self, trainer: Trainer, result: TrainingResult) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=result.step)
            self._progress.stop()
        if not self._console.is_terminal:
            self._print_line(trainer, result.step, self._describe(trainer, result.step, result.figures))

    def _print_line(self, trainer: Trainer, step: int, text: str) -> None:
        self._console.print(f"step {step:,}/{trainer.settings.total_steps:,}  {text}", highlight=False, soft_wrap=True)

    def _describe(self, trainer: Trainer, step: int, figures: Mapping[str, float]) -> str:
        parts = []
        if self._rate > 0:
            left = (trainer.settings.total_steps - step) / self._rate
            if trainer.settings.budget_seconds is not None:
                left = min(left, trainer.settings.budget_seconds - trainer.elapsed)
            minutes, seconds = divmod(int(max(left, 0)), 60)
            parts.append(f"{self._rate:.1f} it/s  ETA {minutes}:{seconds:02d}")
        parts.append(f"loss {figures['loss']:.4f}" if "loss" in figures else "")
        if "psnr" in figures:
            parts.append(f"PSNR {figures['psnr']:.2f} dB")
        parts += [
            f"{value:,} {name}" if isinstance(value, int) else f"{name} {value}"
            for name, value in trainer.plugin.status().items()
        ]
        return "  ".join(filter(None, parts))


class _Figures(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("figures", "")))


class Previews(Observer):
    """Pictures in ``previews/`` at growing intervals: the first within seconds, later ones further apart.

    Args:
        draw: Writes a picture of the plugin's present state to the given path (extension .png).
        first_seconds: When the first one is made, after the start of training.
        factor: Growth of the interval.
    """

    def __init__(self, draw: Callable[[Path], None], first_seconds: float = 3.0, factor: float = 1.8) -> None:
        self._draw = draw
        self._interval = first_seconds
        self._factor = factor
        self._due = 0.0

    def on_start(self, trainer: Trainer) -> None:
        self._due = time.perf_counter() + self._interval

    def on_step(self, trainer: Trainer, step: int) -> None:
        if time.perf_counter() >= self._due:
            self._make(trainer, step)
            self._interval *= self._factor
            self._due = time.perf_counter() + self._interval

    def on_end(self, trainer: Trainer, result: TrainingResult) -> None:
        self._make(trainer, result.step)

    def _make(self, trainer: Trainer, step: int) -> None:
        training = trainer.plugin.training
        with undisturbed(), torch.no_grad():
            trainer.plugin.eval()
            self._draw(trainer.run.previews / f"step_{step:08d}.png")
            trainer.plugin.train(training)


def _numbers(status: Mapping[str, int | float | str]) -> dict[str, float]:
    return {name: value for name, value in status.items() if not isinstance(value, str)}
