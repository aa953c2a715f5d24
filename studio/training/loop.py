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
from studio.files import remove_leftovers
from studio.kernels import compile_time
from studio.plugin.base import Plugin, TrainingContext
from studio.training.checkpoint import load_state, save_state
from studio.training.randomness import random_state, restore_random_state, seed_everything, stream_seed
from studio.training.run import RunFolder
from studio.training.sources import BatchSource

_PLUGIN = 3


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
    """Training was stopped because the loss became NaN or infinite."""


class Trainer:
    """Trains a plugin on a batch source, in a run folder.

    Args:
        plugin: Initialised, on its device.
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
        # Losses whose value has not been read yet: reading one stalls a GPU, so they are checked in groups.
        self._unchecked: list[tuple[int, Tensor | float]] = []
        seed_everything(settings.seed)
        self.context = TrainingContext(
            total_steps=settings.total_steps,
            seed=settings.seed,
            device=plugin.device,
            generator=torch.Generator().manual_seed(stream_seed(settings.seed, _PLUGIN)),
            budget_seconds=settings.budget_seconds,
            step_cost=plugin.step_cost,
        )
        plugin.setup_training(self.context)
        # Put back when training begins: whatever draws numbers in between (another run, a notebook) changes nothing.
        self._random = random_state()

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
    def save_checkpoint(self) -> None:
        """Write the whole state at the present step and drop old checkpoints."""
        self._check_losses()
        state = {
            "step": self.step,
            "seconds": self.elapsed,
            "start_seconds": self.context.start_seconds,
            "plugin": dict(self.plugin.state_dict()),
            "training": self.plugin.training_state(),
            "source": self.source.state(),
            "generator": self.context.generator.get_state(),
            "random": random_state(),
        }
        save_state(self.run.checkpoint_path(self.step), state)
        self.run.prune_checkpoints(self.settings.keep_checkpoints)
        for observer in self.observers:
            observer.on_checkpoint(self, self.step)

    def restore(self) -> None:
        """Continue from the run's newest checkpoint, as if training had never stopped."""
        remove_leftovers(self.run.checkpoints)
        state = load_state(self.run.latest_checkpoint())
        restore_plugin(self.plugin, state["plugin"])
        self.plugin.load_training_state(state["training"])
        self.source.load_state(state["source"])
        self.context.generator.set_state(state["generator"])
        self._random = state["random"]
        self.step = state["step"]
        self._seconds_before = state["seconds"]
        self.context.start_seconds = state["start_seconds"]
        self.run.rewind_metrics(self.step)

    # ---- training ------------------------------------------------------------------------------------------------
    def train(self) -> TrainingResult:
        """Run until the last step, the end of the budget, or an interrupt; always leaves a checkpoint.

        Raises:
            NonFiniteLossError: A loss was NaN or infinite; the last good checkpoint stays.
        """
        for observer in self.observers:
            observer.on_start(self)
        restore_random_state(self._random)
        self.plugin.train()
        last_save, saved_at = time.perf_counter(), -1
        reason = "finished"
        if self.step == 0:
            self.context.start_seconds = self.elapsed
        with self._interruptible():
            while self.step < self.settings.total_steps:
                self.context.elapsed_seconds = self.elapsed
                if self._stop:
                    reason = "interrupted"
                    break
                if (
                    self.settings.budget_seconds is not None
                    and self.step > 0
                    and self.context.elapsed_seconds >= self.settings.budget_seconds
                ):
                    reason = "budget"
                    break
                self._train_step()
                due = time.perf_counter() - last_save >= self.settings.checkpoint_seconds
                if self.settings.checkpoint_steps is not None:
                    due = self.step % self.settings.checkpoint_steps == 0
                if due:
                    self.save_checkpoint()
                    last_save, saved_at = time.perf_counter(), self.step
            self._check_losses()
            if reason != "interrupted":
                self.plugin.finish_training()
                saved_at = -1
            if saved_at != self.step:
                self.save_checkpoint()
        self._random = random_state()
        self.plugin.eval()
        result = TrainingResult(self.step, self.elapsed, reason, dict(self.figures))
        for observer in self.observers:
            observer.on_end(self, result)
        return result

    def _train_step(self) -> None:
        batch = self.source.next(self.plugin.batch_request(self.step))
        metrics = self.plugin.training_step(batch, self.step)
        if "loss" not in metrics:
            raise TypeError(
                f"{type(self.plugin).__name__}.training_step must return a mapping with 'loss'; got {list(metrics)}"
            )
        loss = metrics["loss"]
        self._unchecked.append((self.step, loss.detach() if isinstance(loss, Tensor) else loss))
        self.step += 1
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
                saved = self.run.list_checkpoints()
                kept = f"The last good checkpoint is {saved[-1]}." if saved else "There was no checkpoint before it."
                raise NonFiniteLossError(
                    f"Training stopped: the loss became {float(loss)} at step {step}. {kept}",
                    fix="Lower the learning rates, or resume from it with another --seed.",
                )
        self._unchecked.clear()

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Turn the first Ctrl-C (or SIGTERM) into an orderly stop after the step; a second one stops at once."""

        def stop(number: int, frame: Any) -> None:
            if self._stop:
                raise KeyboardInterrupt
            self._stop = True

        previous: dict[int, Any] = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                previous[number] = signal.signal(number, stop)
        except ValueError:
            # Not in the main thread (a notebook server, a test): the caller handles interrupts.
            previous.clear()
        try:
            yield
        finally:
            for restored, handler in previous.items():
                signal.signal(restored, handler)


def restore_plugin(plugin: Plugin, state: Mapping[str, Tensor]) -> None:
    """Load a saved ``state_dict`` into a plugin, after letting it make room for other shapes.

    Raises:
        StudioError: Names or shapes do not fit: the checkpoint belongs to another plugin, preset or version.
    """
    plugin.prepare_state({name: tuple(tensor.shape) for name, tensor in state.items()})
    try:
        plugin.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise StudioError(
            f"The checkpoint does not fit the plugin: {problem}.", fix="Use the plugin version that wrote it."
        ) from error
