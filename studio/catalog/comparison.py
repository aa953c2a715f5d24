"""Runs side by side: what they were told differently, and how they did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studio.catalog.records import HIGHER_IS_BETTER, LOWER_IS_BETTER, RunRecord

_MOST_NAMED = 2
"""Settings that a name may hold."""


@dataclass(frozen=True)
class RunComparison:
    """Rows of a table whose columns are the runs; None where a run has no such thing."""

    runs: tuple[RunRecord, ...]
    names: tuple[str, ...]
    """Of the columns: as short as tells the runs apart."""
    settings: dict[str, tuple[Any, ...]]
    """Only those that differ. Runs of different plugins: of those that all have."""
    left_out: tuple[str, ...]
    """Settings that not all of the plugins have."""
    metrics: dict[str, tuple[float | None, ...]]
    facts: dict[str, tuple[Any, ...]]
    """Steps, seconds, size, what the metrics are of."""

    def best(self, metric: str) -> int | None:
        """Column of the best value; None with fewer than two different ones, or where better has no meaning."""
        values = self.metrics[metric]
        if metric not in LOWER_IS_BETTER | HIGHER_IS_BETTER:
            return None
        present = [(value, i) for i, value in enumerate(values) if value is not None]
        if len({value for value, _ in present}) < 2:
            return None
        return (min if metric in LOWER_IS_BETTER else max)(present)[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "runs": [str(run.path) for run in self.runs],
            "names": list(self.names),
            "settings": {name: list(values) for name, values in self.settings.items()},
            "left_out": list(self.left_out),
            "metrics": {name: list(values) for name, values in self.metrics.items()},
            "facts": {name: list(values) for name, values in self.facts.items()},
        }


def compare_runs(runs: Sequence[RunRecord]) -> RunComparison:
    """Compare at least one run with the others; metrics that all have come first."""
    runs = tuple(runs)
    facts_of_run = {"plugin": "plugin", "preset": "preset", "data": "data"}
    settings = {name: tuple(getattr(run, attribute) for run in runs) for name, attribute in facts_of_run.items()}
    of_one_plugin = len(set(settings["plugin"])) == 1
    left_out = []
    for name in dict.fromkeys(name for run in runs for name in run.settings):
        if of_one_plugin or all(name in run.settings for run in runs):
            settings[name] = tuple(run.settings.get(name) for run in runs)
        else:
            left_out.append(name)
    settings = {name: values for name, values in settings.items() if any(value != values[0] for value in values)}
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    names.sort(key=lambda name: -sum(name in run.metrics for run in runs))
    return RunComparison(
        runs,
        _short_names(runs, settings),
        settings,
        tuple(left_out),
        {name: tuple(run.metrics.get(name) for run in runs) for name in names},
        {
            "measured": tuple(run.measured for run in runs),
            "status": tuple(run.status for run in runs),
            "step": tuple(run.step for run in runs),
            "seconds": tuple(run.seconds for run in runs),
            "size": tuple(run.size for run in runs),
        },
    )


def on_different_data(runs: Sequence[RunRecord]) -> bool:
    """Whether the data of some runs differ in content, as far as that is known, or else in where they lie."""
    known = {run.settings["data.content"] for run in runs if "data.content" in run.settings}
    if len(known) > 1:
        return True
    unknown = any("data.content" not in run.settings for run in runs)
    return unknown and len({run.settings.get("data.path") for run in runs}) > 1


def _short_names(runs: Sequence[RunRecord], differing: Mapping[str, Sequence[Any]]) -> tuple[str, ...]:
    """The plugin where that tells the runs apart, else with preset and data, a setting or two, or the time."""
    facts = {"plugin", "preset", "data", "data.path", "data.content"}
    told = {name: values for name, values in differing.items() if name not in facts}
    said = [" ".join(f"{name}={values[i]}" for name, values in told.items()) for i in range(len(runs))]
    by_settings = ((0, 3),) if len(told) <= _MOST_NAMED else ()
    parts = [
        (run.plugin or run.name, run.preset, run.data, text, run.path.name)
        for run, text in zip(runs, said, strict=True)
    ]
    for used in ((0,), (0, 1), (0, 2), (0, 1, 2), *by_settings, (0, 4), (0, 1, 2, 4)):
        names = tuple(" ".join(filter(None, (part[i] for i in used))) for part in parts)
        if len(set(names)) == len(names):
            return names
    return tuple(run.name for run in runs)
