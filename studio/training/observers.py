"""What watches a training run: the figures on disk, the progress line, the previews."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from studio.errors import StudioError
from studio.files import writing
from studio.training.loop import Observer, Trainer, TrainingResult
from studio.training.randomness import undisturbed
from studio.training.running import mark_running

_log = logging.getLogger(__name__)
_TRAINING_PER_PREVIEW = 9.0
"""Seconds of training for each second of previews; some models take long to sample."""


class MetricsWriter(Observer):
    """Figures to ``metrics.jsonl`` (a line a log step) and to TensorBoard events."""

    def __init__(self, tensorboard: bool = True) -> None:
        self._tensorboard = tensorboard
        self._events: Any = None
        self._file: IO[bytes] | None = None

    def on_start(self, trainer: Trainer) -> None:
        path = trainer.run.metrics_file
        with writing(path):
            # Unbuffered: a line is on its way to the disk when it is written, and none is left over for closing.
            self._file = path.open("ab", buffering=0)
        mark_running(self._file)

    def on_log(self, trainer: Trainer, step: int, figures: Mapping[str, float]) -> None:
        row = {"step": step - 1, "seconds": round(trainer.elapsed, 3), **figures, **_numbers(trainer.plugin.status())}
        self._write_row(trainer.run.metrics_file, json.dumps(row) + "\n")
        if self._tensorboard:
            self._write_events(trainer, row)

    def on_end(self, trainer: Trainer, result: TrainingResult) -> None:
        self._close()

    def on_failure(self, trainer: Trainer, error: BaseException) -> None:
        self._close()

    def _write_row(self, path: Path, line: str) -> None:
        """A whole line or none: half of one would hide what a resumed run writes behind it."""
        assert self._file is not None
        data = line.encode()
        before = self._file.seek(0, os.SEEK_END)
        with writing(path):
            try:
                if self._file.write(data) < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(before)
                raise

    def _write_events(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        folder = trainer.run.path / "events"
        try:
            if self._events is None:
                # Imported at the first line of figures, not before: it takes a good part of a second.
                from torch.utils.tensorboard import SummaryWriter

                # Of a resumed run, what the killed one wrote beyond its last checkpoint is not shown twice.
                self._events = SummaryWriter(str(folder), purge_step=row["step"])
            for name, value in row.items():
                if name != "step":
                    self._events.add_scalar(name, value, row["step"])
        except OSError as error:
            # Its writer is a thread of its own, which tells of a full disk at a later line.
            self._tensorboard = False
            _log.warning("%s: no more TensorBoard events (%s); metrics.jsonl has all figures.", folder, error)

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        if self._events is not None:
            with contextlib.suppress(OSError):
                self._events.close()
            self._events = None


class ProgressLine(Observer):
    """A progress bar with speed, time left, loss, PSNR and the plugin's own status.

    On a terminal it is redrawn in place; pipes and log files get a plain line every few seconds.
    """

    plain_seconds = 5.0
    smoothing = 0.8
    """Share of the past in the shown loss and PSNR: a single batch says little. The logs keep the raw figures."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress: Progress | None = None
        self._task: Any = None
        self._seen: tuple[float, int] | None = None
        self._rate = 0.0
        self._printed = 0.0
        self._line = ""
        self.figures: dict[str, float] = {}
        """The figures as shown, smoothed."""

    def on_start(self, trainer: Trainer) -> None:
        self._progress = Progress(
            BarColumn(bar_width=16),
            TextColumn("{task.percentage:>3.0f}%"),
            _Figures(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        # The bar shows the share of the training, which a budget may end before the last step.
        self._task = self._progress.add_task("training", total=1.0, figures="starting")
        self._progress.update(self._task, completed=self._share(trainer))
        self._progress.start()

    def on_log(self, trainer: Trainer, step: int, figures: Mapping[str, float]) -> None:
        assert self._progress is not None
        now = time.perf_counter()
        if self._seen is not None and step > self._seen[1]:
            rate = (step - self._seen[1]) / max(now - self._seen[0], 1e-9)
            self._rate = rate if self._rate == 0 else 0.7 * self._rate + 0.3 * rate
        self._seen = (now, step)
        for name, value in figures.items():
            before = self.figures.get(name, value)
            self.figures[name] = self.smoothing * before + (1 - self.smoothing) * value
        text = self._describe(trainer, step, self.figures)
        self._progress.update(self._task, completed=self._share(trainer), figures=text)
        if not self._console.is_terminal and (step == 1 or now - self._printed >= self.plain_seconds):
            self._printed = now
            self._print_line(text)

    def on_end(self, trainer: Trainer, result: TrainingResult) -> None:
        if self._progress is not None:
            text = self._describe(trainer, result.step, self.figures)
            share = self._share(trainer) if result.reason == "interrupted" else 1.0
            self._progress.update(self._task, completed=share, figures=text)
            if not self._console.is_terminal:
                self._print_line(text)
        self.close()

    def close(self) -> None:
        """Give the terminal back; also where training ended by an error, which `on_end` is not told."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _print_line(self, text: str) -> None:
        if text != self._line:
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)
        self._line = text

    @staticmethod
    def _share(trainer: Trainer) -> float:
        by_step = trainer.step / trainer.settings.total_steps
        budget = trainer.settings.budget_seconds
        return min(max(by_step, trainer.elapsed / budget if budget is not None else 0.0), 1.0)

    def _describe(self, trainer: Trainer, step: int, figures: Mapping[str, float]) -> str:
        parts = [f"step {step:,}/{trainer.settings.total_steps:,}"]
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
    """Pictures in ``previews/`` at growing intervals: the first within seconds, later ones further apart, and always so
    far that no more than a tenth of the time goes into them.

    Args:
        draw: Writes a picture of the plugin's present state to the given path (extension .png).
        first_seconds: When the first one is made, after the start of training.
        factor: Growth of the interval.
        tell: Told once, in one line, when a preview could not be made (a photo is gone, the disk is full); training
            goes on without previews then.
    """

    def __init__(
        self,
        draw: Callable[[Path], None],
        first_seconds: float = 3.0,
        factor: float = 1.8,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._draw = draw
        self._interval = first_seconds
        self._factor = factor
        self._tell = tell
        self._broken = False
        self._due = 0.0

    def on_start(self, trainer: Trainer) -> None:
        self._due = time.perf_counter() + self._interval

    def on_step(self, trainer: Trainer, step: int) -> None:
        if time.perf_counter() >= self._due:
            started = time.perf_counter()
            with trainer.outside():
                self._make(trainer, step)
            ended = time.perf_counter()
            self._interval = max(self._interval * self._factor, _TRAINING_PER_PREVIEW * (ended - started))
            self._due = ended + self._interval

    def on_end(self, trainer: Trainer, result: TrainingResult) -> None:
        # Who interrupts wants to be let go, and a field that is still fog takes its time.
        if result.reason != "interrupted":
            self._make(trainer, result.step)

    def _make(self, trainer: Trainer, step: int) -> None:
        if self._broken:
            return
        training = trainer.plugin.training
        try:
            with undisturbed(), torch.no_grad():
                trainer.plugin.eval()
                self._draw(trainer.run.previews / f"step_{step:08d}.png")
        except (StudioError, OSError) as error:
            self._broken = True
            self._tell(f"note: no more previews: {error}")
        finally:
            trainer.plugin.train(training)


def _numbers(status: Mapping[str, int | float | str]) -> dict[str, float]:
    return {name: value for name, value in status.items() if not isinstance(value, str)}
