"""The one training loop. It does not know what it trains."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio.errors import StudioError
from studio.files import DiskFullError, remove_leftovers
from studio.kernels import compile_time
from studio.plugin.base import Plugin, TrainingContext
from studio.training.checkpoint import save_state
from studio.training.labels import ENDED
from studio.training.randomness import random_state, restore_random_state, seed_everything, stream_seed
from studio.training.run import RunFolder
from studio.training.sources import BatchSource
from studio.training.state import non_finite, put_back, read_checkpoint, restore_plugin, restore_training

_PLUGIN = 3
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C, a polite kill, and a terminal that was closed."""


@dataclass(frozen=True)
class LoopSettings:
    """How often the loop does what is not training."""

    total_steps: int
    seed: int = 0
    budget_seconds: float | None = None
    """Stop when this much wall-clock time is used, resumed sessions included, compiling CPU kernels and drawing
    previews left out; one step is always done."""
    log_every: int = 20
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints by time (a kill loses at most this much) ..."""
    checkpoint_steps: int | None = None
    """... or steps between checkpoints; exact resume tests use this."""
    keep_checkpoints: int = 2


class Observer:
    """What watches a training run: progress bars, loggers, previews. All methods may be left out.

    An observer that computes with the plugin does so under `studio.training.randomness.undisturbed`, so that watching a
    run never changes it.
    """

    def on_start(self, trainer: Trainer) -> None: ...

    def on_step(self, trainer: Trainer, step: int) -> None:
        """After every step; `step` counts the steps done."""

    def on_log(self, trainer: Trainer, step: int, figures: Mapping[str, float]) -> None:
        """Every `log_every` steps, with the newest figures as plain numbers."""

    def on_checkpoint(self, trainer: Trainer, step: int) -> None: ...

    def on_end(self, trainer: Trainer, result: TrainingResult) -> None: ...

    def on_failure(self, trainer: Trainer, error: BaseException) -> None:
        """Instead of `on_end` where an error ended the training; open files are closed here."""


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended."""

    step: int
    """Steps done in all."""
    seconds: float
    """Wall-clock seconds, earlier sessions included."""
    reason: str
    """'finished', 'budget' or 'interrupted'."""
    figures: dict[str, float]
    """The last logged figures."""


class NonFiniteLossError(StudioError):
    """Training was stopped because the loss, a parameter or an optimiser's state became NaN or infinite."""


class RunFolderGoneError(StudioError):
    """The run folder was deleted or moved away while training wrote into it."""


class Trainer:
    """Trains a plugin on a batch source, in a run folder.

    Args:
        plugin: On its device; initialised from the data, unless `restore` fills it.
        source: Where its batches come from.
        run: Where checkpoints and metrics go.
        settings: Steps, seed and intervals.
        observers: Progress, logs, previews; called in this order.
        clock_start: ``time.perf_counter()`` value at which the budget began; now when None.
    """

    def __init__(
        self,
        plugin: Plugin,
        source: BatchSource,
        run: RunFolder,
        settings: LoopSettings,
        observers: Sequence[Observer] = (),
        clock_start: float | None = None,
    ) -> None:
        self.plugin = plugin
        self.source = source
        self.run = run
        self.settings = settings
        self.observers = list(observers)
        self.step = 0
        self.figures: dict[str, float] = {}
        self._clock_start = time.perf_counter() if clock_start is None else clock_start
        self._seconds_before = 0.0
        self._stop = False
        self._ready = False
        self._whole = True
        self.ended = ""
        """Why training ended, 'finished' or 'budget', once the plugin has been finished; else empty."""
        # Losses whose value has not been read yet: reading one stalls a GPU, so they are checked in groups.
        self._unchecked: list[tuple[int, Tensor | float]] = []
        self.context = TrainingContext(
            total_steps=settings.total_steps,
            seed=settings.seed,
            device=plugin.device,
            generator=torch.Generator().manual_seed(stream_seed(settings.seed, _PLUGIN)),
            budget_seconds=settings.budget_seconds,
            step_cost=plugin.step_cost,
        )

    def set_up(self) -> None:
        """Have the plugin make its optimisers, for the weights that it has now; `restore` and `train` see to it.

        The order of a plugin's life is the same everywhere: its weights are there, from the data or from a checkpoint,
        before `Plugin.setup_training` looks at them.
        """
        if self._ready:
            return
        seed_everything(self.settings.seed)
        self.plugin.setup_training(self.context)
        # Put back when training begins: whatever draws numbers in between (another run, a notebook) changes nothing.
        self._random = random_state()
        self._ready = True

    @property
    def elapsed(self) -> float:
        """Wall-clock seconds of training, earlier sessions included, without those spent on compiling CPU kernels."""
        spent = time.perf_counter() - self._clock_start - compile_time.seconds_since(self._clock_start)
        return self._seconds_before + spent

    @property
    def stopping(self) -> bool:
        """Whether an interrupt asks for an orderly end; an observer that holds the training must let it go then."""
        return self._stop

    def leave_out(self, seconds: float) -> None:
        """Do not count some seconds as training, such as those that an observer held it for: a budget is not used up by
        a pause."""
        self._seconds_before -= seconds

    @contextlib.contextmanager
    def outside(self) -> Iterator[None]:
        """What happens inside is no training: no budget pays for it."""
        before = self.elapsed
        try:
            yield
        finally:
            self.leave_out(self.elapsed - before)

    # ---- state ---------------------------------------------------------------------------------------------------
    def save_checkpoint(self, ended: str = "") -> None:
        """Write the whole state at the present step and drop old checkpoints.

        Args:
            ended: Why training ended, where the plugin has been finished.

        Raises:
            NonFiniteLossError: Something in the state is not finite; the checkpoints before it stay.
            RunFolderGoneError: There is no run folder to write to.
            StudioError: The disk is full.
        """
        self._check_losses()
        self._check_folder()
        training = self.plugin.training_state()
        if (name := non_finite(self.plugin, training)) is not None:
            raise self._not_finite(f"'{name}' is no longer finite after step {self.step - 1}")
        state = {
            "step": self.step,
            "seconds": self.elapsed,
            "start_seconds": self.context.start_seconds,
            "ended": ended,
            "plugin": dict(self.plugin.state_dict()),
            "training": training,
            "source": self.source.state(),
            "generator": self.context.generator.get_state(),
            "random": random_state(),
        }
        path, labels = self.run.checkpoint_path(self.step), {ENDED: ended}
        try:
            save_state(path, state, labels)
        except DiskFullError:
            # The newest checkpoint stays; the older ones make room.
            if not self.run.prune_checkpoints(1):
                raise
            save_state(path, state, labels)
        self.ended = ended
        self.run.prune_checkpoints(self.settings.keep_checkpoints)
        for observer in self.observers:
            observer.on_checkpoint(self, self.step)

    def restore(self) -> None:
        """Continue from the run's newest checkpoint, as if training had never stopped.

        Raises:
            StudioError: The checkpoint is damaged or does not fit; names file, field and the earlier one.
        """
        remove_leftovers(self.run.checkpoints)
        saved = read_checkpoint(self.run.latest_checkpoint())
        restore_plugin(self.plugin, saved.plugin, saved.path)
        self.set_up()
        restore_training(self.plugin, saved)
        put_back(saved, "source", lambda: self.source.load_state(saved.source))
        put_back(saved, "generator", lambda: self.context.generator.set_state(saved.generator))
        # Tried here, where the file can be named; put back again when training begins.
        put_back(saved, "random", lambda: restore_random_state(saved.random))
        self._random = saved.random
        self.step = saved.step
        self.ended = saved.ended
        self._seconds_before = saved.seconds
        self.context.start_seconds = saved.start_seconds
        self.run.rewind_metrics(self.step)

    # ---- training ------------------------------------------------------------------------------------------------
    def train(self) -> TrainingResult:
        """Run until the last step, the end of the budget, or an interrupt; always leaves a checkpoint.

        A run that is at its end already, but was killed before it was finished, is finished.

        Raises:
            NonFiniteLossError: A loss, a parameter or a moment was NaN or infinite; the last good checkpoint stays.
            RunFolderGoneError: The run folder is gone.
            StudioError: The disk is full, or the data can no longer be read. What can still be saved is.
        """
        self.set_up()
        self._saved_at = -1
        self._whole = True
        try:
            for observer in self.observers:
                observer.on_start(self)
            restore_random_state(self._random)
            self.plugin.train()
            if self.step == 0:
                self.context.start_seconds = self.elapsed
            with self._interruptible():
                reason = self._run()
            self._random = random_state()
            self.plugin.eval()
            result = TrainingResult(self.step, self.elapsed, reason, dict(self.figures))
            for observer in self.observers:
                observer.on_end(self, result)
        except BaseException as error:
            for observer in self.observers:
                with contextlib.suppress(Exception):
                    observer.on_failure(self, error)
            self._save_what_is_left(error)
            raise
        return result

    def _run(self) -> str:
        """All steps that are left, and the end of the training; returns why it ended."""
        last_save = time.perf_counter()
        reason = "finished"
        while self.step < self.settings.total_steps:
            self.context.elapsed_seconds = self.elapsed
            if self._stop:
                reason = "interrupted"
                break
            budget = self.settings.budget_seconds
            if budget is not None and self.step > 0 and self.context.elapsed_seconds >= budget:
                reason = "budget"
                break
            self._train_step()
            due = time.perf_counter() - last_save >= self.settings.checkpoint_seconds
            if self.settings.checkpoint_steps is not None:
                due = self.step % self.settings.checkpoint_steps == 0
            # The last state is saved when it is finished, and only then.
            if due and self.step < self.settings.total_steps:
                self.save_checkpoint()
                last_save, self._saved_at = time.perf_counter(), self.step
        self._check_losses()
        if reason != "interrupted":
            self._whole = False
            self.plugin.finish_training()
            self.save_checkpoint(reason)
            self._saved_at = self.step
        elif self._saved_at != self.step:
            self.save_checkpoint()
            self._saved_at = self.step
        return reason

    def _save_what_is_left(self, error: BaseException) -> None:
        """After an error that did not come out of a step, such as a full disk: keep the steps since the last save."""
        if isinstance(error, (NonFiniteLossError, RunFolderGoneError)) or not isinstance(error, (StudioError, OSError)):
            return
        if self._whole and self.step not in (0, self._saved_at):
            # Where the disk is full for this, too, the first error says so.
            with contextlib.suppress(Exception):
                self.save_checkpoint()
        if isinstance(error, StudioError) and self.step > 0:
            saved = self.run.list_checkpoints()
            error.add_fix(f"Saved: {saved[-1].name}, of {self.step:,} steps done." if saved else "Nothing was saved.")

    def _train_step(self) -> None:
        self._whole = False
        batch = self.source.next(self.plugin.batch_request(self.step))
        metrics = self.plugin.training_step(batch, self.step)
        if "loss" not in metrics:
            raise TypeError(
                f"{type(self.plugin).__name__}.training_step must return a mapping with 'loss'; got {list(metrics)}"
            )
        loss = metrics["loss"]
        self._unchecked.append((self.step, loss.detach() if isinstance(loss, Tensor) else loss))
        self.step += 1
        self._whole = True
        self._check_folder()
        log = self.step % self.settings.log_every == 0 or self.step in (1, self.settings.total_steps)
        if log:
            self._check_losses()
            self.figures = {name: float(value) for name, value in metrics.items()}
        for observer in self.observers:
            if log:
                observer.on_log(self, self.step, self.figures)
            observer.on_step(self, self.step)

    def _check_losses(self) -> None:
        for step, loss in self._unchecked:
            if not math.isfinite(float(loss)):
                self._unchecked.clear()
                raise self._not_finite(f"the loss became {float(loss)} at step {step}")
        self._unchecked.clear()

    def _not_finite(self, what: str) -> NonFiniteLossError:
        saved = self.run.list_checkpoints()
        kept = f"The last good checkpoint is {saved[-1]}." if saved else "There was no checkpoint before it."
        return NonFiniteLossError(
            f"Training stopped: {what}. {kept}",
            fix="Lower the learning rates, or resume from it with another --seed."
            if saved
            else "Lower the learning rates.",
        )

    def _check_folder(self) -> None:
        """Nothing may be written where the folder was deleted: half a run would come into being."""
        if not self.run.checkpoints.is_dir():
            raise RunFolderGoneError(
                f"{self.run.path}: the run folder was deleted or moved in training (after step {self.step:,}).",
                fix="Train it again; nothing was saved elsewhere.",
            )

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Turn the first Ctrl-C, SIGTERM or SIGHUP into an orderly stop after the step; a second one stops at once.

        A signal that is ignored stays ignored, as SIGHUP is under nohup.
        """

        def stop(number: int, frame: Any) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        previous: dict[int, Any] = {}
        try:
            for name in _SIGNALS:
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    previous[number] = signal.signal(number, stop)
        except ValueError:
            # Not in the main thread (a notebook server, a test): the caller handles interrupts.
            previous.clear()
        try:
            yield
        finally:
            for restored, handler in previous.items():
                signal.signal(restored, handler)
