"""The figures of a training run over its steps, as one picture."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from studio.files import atomic_write

_HIDDEN = ("step", "seconds")
_COLUMNS, _MOST_PANELS = 3, 9
_SMOOTHED_POINTS = 30


def save_curves(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], *, title: str = "") -> None:
    """Draw every figure of a run's ``metrics.jsonl`` in a panel of its own: pale as it is, dark smoothed.

    Args:
        path: A .png file.
        rows: Each with 'step' and figures; the loss comes first. Fewer than two rows draw nothing.
        title: Above the panels.

    Raises:
        StudioError: The file cannot be written.
    """
    # Without pyplot: no window system is looked for, and nothing stays behind.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in _HIDDEN]
    names = sorted(names, key=lambda name: name != "loss")[:_MOST_PANELS]
    if len(rows) < 2 or not names:
        return
    columns = min(len(names), _COLUMNS)
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 2.7 * lines), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, fontsize=11)
    for i, name in enumerate(names):
        steps, values = series(rows, name)
        axes = figure.add_subplot(lines, columns, i + 1)
        axes.plot(steps, values, color="#9bb8dd", linewidth=0.8)
        axes.plot(steps, smooth(values), color="#1f4e9c", linewidth=1.4)
        if values and min(values) > 0 and max(values) > 20 * min(values):
            axes.set_yscale("log")
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=8)
        axes.grid(True, alpha=0.25)
        axes.set_xlabel("step", fontsize=8)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and finite values of one figure."""
    pairs = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
    pairs = [(step, float(value)) for step, value in pairs if math.isfinite(value)]
    return [step for step, _ in pairs], [value for _, value in pairs]


def smooth(values: Sequence[float]) -> list[float]:
    """Exponential mean over about a thirtieth of the run, free of the pull of its start (as Adam's moments are)."""
    keep = 1.0 - 1.0 / max(len(values) / _SMOOTHED_POINTS, 1.0)
    smooth, total, weight = [], 0.0, 0.0
    for value in values:
        total = keep * total + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        smooth.append(total / weight)
    return smooth
