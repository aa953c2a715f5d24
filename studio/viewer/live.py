"""Watching a training: live pictures between its steps, pause, figures and curves."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import viser
import viser.uplot

from studio.training.loop import Observer, Trainer, TrainingResult
from studio.training.randomness import undisturbed
from studio.training.start import Prepared
from studio.viewer.access import Access
from studio.viewer.app import Viewer
from studio.viewer.controls import put
from studio.viewer.subject import subject_of_training
from studio.viewer.turns import TrainingTurns

_PANEL_SECONDS = 1.0
_PICTURE_SECONDS = 2.0
_PICTURE_SHARE = 0.05
"""Most of the time that goes into pictures of a camera that stands still."""
_CURVE_POINTS = 400


class Curve:
    """A figure over the steps, thinned out so that it never has more than 400 points."""

    def __init__(self, most: int = _CURVE_POINTS) -> None:
        self._most = most
        self._every = 1
        self._count = 0
        self.steps: list[float] = []
        self.values: list[float] = []

    def add(self, step: int, value: float) -> None:
        """Append, or leave out where it would be more than is shown."""
        self._count += 1
        if (self._count - 1) % self._every:
            return
        self.steps.append(float(step))
        self.values.append(value)
        if len(self.steps) > self._most:
            self.steps, self.values = self.steps[::2], self.values[::2]
            self._every *= 2


class TrainingViewer(Observer):
    """A viewer that observes the training whose scene it shows.

    Args:
        prepared: Of a field, before it is trained.
        access: Where to listen, for whom.
        port: The first port to try.
    """

    def __init__(self, prepared: Prepared, access: Access, port: int) -> None:
        self._plugin = prepared.plugin
        self._turns = TrainingTurns(around=self._watching)
        self._viewer = Viewer(access, port)
        self._curves: dict[str, Curve] = {}
        self._plots: dict[str, viser.GuiUplotHandle] = {}
        self._seen: tuple[float, int] | None = None
        self._rate = 0.0
        self._panel_due = self._picture_due = 0.0
        self._stage = self._viewer.show(subject_of_training(prepared), self._turns, self._header)
        self._viewer.on_compile = self._compiling

    @property
    def url(self) -> str:
        """The address to open in a browser."""
        return self._viewer.url

    @property
    def port(self) -> int:
        return self._viewer.server.get_port()

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Drawing changes nothing about the training."""
        training = self._plugin.training
        with undisturbed(), torch.no_grad():
            self._plugin.eval()
            try:
                yield
            finally:
                self._plugin.train(training)

    def _header(self, gui: viser.GuiApi) -> None:
        self._status = gui.add_markdown("waiting for the first step")
        self._bar = gui.add_progress_bar(0.0)
        self._pause = gui.add_button("Pause training", icon=viser.Icon.PLAYER_PAUSE)
        self._pause.on_click(lambda event: self._toggle())
        self._curve_folder = gui.add_folder("Curves", expand_by_default=False)

    def _compiling(self, text: str) -> None:
        self._status.content = text

    def _toggle(self) -> None:
        paused = not self._turns.paused
        self._turns.pause(paused)
        self._pause.label = "Go on training" if paused else "Pause training"
        self._pause.icon = viser.Icon.PLAYER_PLAY if paused else viser.Icon.PLAYER_PAUSE
        self._pause.color = "green" if paused else None

    # ---- observing -----------------------------------------------------------------------------------------------
    def on_step(self, trainer: Trainer, step: int) -> None:
        now = time.perf_counter()
        if now >= self._picture_due:
            self._stage.refresh()
            shown = self._stage.last_shown
            spent = shown.seconds if shown is not None else 0.0
            self._picture_due = now + max(_PICTURE_SECONDS, spent / _PICTURE_SHARE)
        held = self._turns.between_steps(lambda: trainer.stopping)
        if held:
            trainer.leave_out(held)
            # A pause says nothing about the speed.
            self._seen = None

    def on_log(self, trainer: Trainer, step: int, figures: Mapping[str, float]) -> None:
        now = time.perf_counter()
        if self._seen is not None and step > self._seen[1]:
            rate = (step - self._seen[1]) / max(now - self._seen[0], 1e-9)
            self._rate = rate if self._rate == 0 else 0.7 * self._rate + 0.3 * rate
        self._seen = (now, step)
        status = trainer.plugin.status()
        numbers = {**figures, **{name: float(v) for name, v in status.items() if not isinstance(v, str)}}
        for name, value in numbers.items():
            self._curves.setdefault(name, Curve()).add(step, value)
        if now >= self._panel_due:
            self._panel_due = now + _PANEL_SECONDS
            self._show(trainer, step, figures, status)

    def on_end(self, trainer: Trainer, result: TrainingResult) -> None:
        self._show(trainer, result.step, result.figures, trainer.plugin.status())
        self._status.content += f"  \n**{result.reason}**"
        self._pause.visible = False
        self._turns.end_training()
        if self._stage.drawer is not None:
            self._stage.drawer.live = False
        self._stage.refresh()

    def _show(
        self, trainer: Trainer, step: int, figures: Mapping[str, float], status: Mapping[str, int | float | str]
    ) -> None:
        facts = [f"step {step:,} of {trainer.settings.total_steps:,}"]
        if self._rate > 0:
            facts.append(f"{self._rate:.1f} it/s")
        if "psnr" in figures:
            facts.append(f"PSNR {figures['psnr']:.2f} dB")
        if "loss" in figures:
            facts.append(f"loss {figures['loss']:.4f}")
        facts += [f"{v:,} {name}" if isinstance(v, int) else f"{name} {v}" for name, v in status.items()]
        self._status.content = " · ".join(facts)
        put(self._bar, 100 * min(step / trainer.settings.total_steps, 1.0))
        # What people look at first comes first.
        for name, curve in sorted(self._curves.items(), key=lambda item: (item[0] != "psnr", item[0] != "loss")):
            if len(curve.steps) < 2:
                continue
            data = (np.array(curve.steps), np.array(curve.values))
            if name in self._plots:
                self._plots[name].data = data
            else:
                self._plots[name] = self._plot(name, data)

    def _plot(self, name: str, data: tuple[Any, Any]) -> viser.GuiUplotHandle:
        with self._curve_folder:
            return self._viewer.server.gui.add_uplot(
                data,
                (viser.uplot.Series(label="step"), viser.uplot.Series(label=name, stroke="#3884d6", width=2)),
                title=name,
                scales={"x": viser.uplot.Scale(time=False, auto=True), "y": viser.uplot.Scale(auto=True)},
                legend=viser.uplot.Legend(show=False),
                aspect=2.2,
            )

    def close(self) -> None:
        """Close the page."""
        self._viewer.close()
