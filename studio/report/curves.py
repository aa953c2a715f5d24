"""Curves of a training as SVG that takes its colours from the page, so that they suit dark and light."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from studio.export.curves import series, smooth

_HIDDEN = ("step", "seconds")
_WIDTH, _HEIGHT = 340, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 30, 26
_MOST_PANELS, _MOST_POINTS = 12, 600
_WIDE_RANGE = 20.0
"""Positive values that span more than this factor are drawn on a logarithmic scale."""


@dataclass(frozen=True)
class CurvePanel:
    """One figure over the steps."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]
    """Finite, at least two."""


def panels_of(rows: Sequence[Mapping[str, Any]]) -> list[CurvePanel]:
    """Every figure of a run's ``metrics.jsonl`` that has two values; loss and PSNR first."""
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in _HIDDEN]
    names.sort(key=lambda name: {"loss": 0, "psnr": 1}.get(name, 2))
    panels = []
    for name in names:
        steps, values = series(rows, name)
        if len(values) >= 2 and steps[-1] > steps[0]:
            panels.append(CurvePanel(name, steps, values))
    return panels[:_MOST_PANELS]


def svg_of(panel: CurvePanel) -> str:
    """Pale as it was logged, dark smoothed, with the last smoothed value in the title."""
    smoothed = smooth(panel.values)
    low, high = min(panel.values), max(panel.values)
    logarithmic = low > 0 and high > _WIDE_RANGE * low
    if high == low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    ticks = _log_ticks(low, high) if logarithmic else _linear_ticks(low, high)
    first, last = panel.steps[0], panel.steps[-1]

    def x(step: float) -> float:
        return _LEFT + (step - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if logarithmic else (value - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    def line(values: Sequence[float], kind: str) -> str:
        stride = max(len(values) // _MOST_POINTS, 1)
        chosen = sorted({*range(0, len(values), stride), len(values) - 1})
        points = " ".join(f"{x(panel.steps[i]):.1f},{y(values[i]):.1f}" for i in chosen)
        return f'<polyline class="{kind}" points="{points}"/>'

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(panel.name)}">']
    parts.append(f'<text class="name" x="{_LEFT}" y="18">{escape(panel.name)}</text>')
    parts.append(f'<text class="last" x="{_WIDTH - _RIGHT}" y="18">{show_number(smoothed[-1])}</text>')
    for tick in ticks:
        height = f"{y(tick):.1f}"
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height}" y2="{height}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{height}">{show_number(tick)}</text>')
    for step in _linear_ticks(first, last, 4):
        parts.append(f'<text class="step" x="{x(step):.1f}" y="{_HEIGHT - 8}">{show_number(step)}</text>')
    return "".join([*parts, line(panel.values, "raw"), line(smoothed, "smooth"), "</svg>"])


def show_number(value: float) -> str:
    """Short: 0.0123, 25.4, 12k, 1.5M."""
    for limit, unit in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e6 if unit == 'M' else 1e3):.4g}{unit}"
    return f"{value:.4g}"


def _linear_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers within the range, about so many."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    start = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(start, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten; the ends where there is none between."""
    powers = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    stride = max(len(powers) // 5, 1)
    return [10.0**power for power in powers[::stride]] if len(powers) >= 2 else [low, math.sqrt(low * high), high]
