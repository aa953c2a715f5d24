"""What a budget buys, told once the first steps have been measured."""

from __future__ import annotations

from collections.abc import Callable

from studio.plugin.batches import PhotoRequest
from studio.training.loop import Observer, Trainer

_FEWEST_STEPS, _SECONDS = 8, 2.0
"""Steps, and seconds of training, that are looked at first. The very first step is left out: it sets things up."""
_LEAST_SHARE = 0.1
"""Share of the budget after which it is told whatever there is to tell."""
_PLENTY = 1_500
"""Steps from which a scene's training needs no advice."""
_DOWNSCALE = 2
_GAIN = 3.0
"""Steps for each one before, on photos of half the width: a quarter of the pixels, and what does not depend on them."""


class BudgetForecast(Observer):
    """Tells how many steps a budget will be enough for, and what to do where they are few.

    Args:
        tell: Given one line, once.
        downscale: Of the photos, already.
    """

    def __init__(self, tell: Callable[[str], None], downscale: float = 1.0) -> None:
        self._tell, self._downscale = tell, downscale
        self._began: tuple[float, int] | None = None
        self._told = False

    def on_start(self, trainer: Trainer) -> None:
        self._told = trainer.settings.budget_seconds is None

    def on_step(self, trainer: Trainer, step: int) -> None:
        budget = trainer.settings.budget_seconds
        if self._told or budget is None:
            return
        now = trainer.elapsed
        if self._began is None:
            self._began = (now, step)
            return
        spent, steps = now - self._began[0], step - self._began[1]
        enough = spent >= _LEAST_SHARE * budget or (steps >= _FEWEST_STEPS and spent >= _SECONDS)
        if steps == 0 or not enough:
            return
        self._told = True
        trainer.context.elapsed_seconds = now
        expected = min(trainer.context.expected_steps(step), float(trainer.settings.total_steps))
        self._tell(self._line(trainer, step, spent / max(steps, 1), expected, budget))

    def _line(self, trainer: Trainer, step: int, seconds: float, expected: float, budget: float) -> str:
        line = f"{_rounded(1000 * seconds):,} ms a step now: about {_rounded(expected):,} steps in {budget:g} s"
        if expected < _PLENTY and isinstance(trainer.plugin.batch_request(step), PhotoRequest):
            more = _DOWNSCALE * self._downscale
            line += f"; with --downscale {more:.3g} about {_rounded(_GAIN * expected):,}"
        return line


def _rounded(value: float) -> int:
    """To two digits."""
    digits = len(str(int(max(value, 1)))) - 2
    return max(round(value / 10**digits) * 10**digits, 1) if digits > 0 else max(round(value), 1)
