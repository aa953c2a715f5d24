"""What one finds out about a run by looking into its folder."""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.errors import StudioError
from studio.reading.files import is_folder
from studio.reading.json_text import read_json_object
from studio.reading.neighbours import meant
from studio.training.labels import ENDED, read_labels
from studio.training.run import CHECKPOINTS, CONFIG, RunConfig, RunFolder
from studio.training.running import is_running

STATUSES = ("running", "finished", "stopped", "damaged")
MAIN_METRICS = ("psnr", "fid", "perplexity", "nats_per_character", "shape_and_color", "sliced_wasserstein", "mmd")
"""In this order: the first that a run has is what it is known by; else its loss."""

LOWER_IS_BETTER = frozenset(
    {"loss", "l1", "mse", "lpips", "fid", "kid", "mmd", "sliced_wasserstein", "perplexity", "bits_per_dim"}
    | {"nats_per_token", "nats_per_character"}
)
"""Figures that shall be small."""

HIGHER_IS_BETTER = frozenset(
    {"psnr", "ssim", "precision", "recall", "coverage", "density", "class_accuracy", "classes_covered", "read_back"}
    | {"nats_per_sample", "samples_per_second", "characters_per_second", "shape", "color", "shape_and_color", "size"}
    | {"material", "relation", "count", "exact", "bleu"}
)
"""Figures that shall be large; of the rest (counts, learning rates) nobody can say."""

_STAMP = re.compile(r"(\d{4}-\d{2}-\d{2})_(\d{2})(\d{2})(\d{2})")
_ISO = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}")
_SMOOTHED = 0.05
"""Share of the last rows of a training that its figures are the mean of: a single batch says little."""


@dataclass(frozen=True)
class RunRecord:
    """One run."""

    path: Path
    name: str
    """Its path below the folder that was looked through."""
    plugin: str = ""
    preset: str = ""
    data: str = ""
    """Name of the scene or data set."""
    kind: str = ""
    """'field' or 'generator'."""
    started: str = ""
    """Local time, ISO 8601 to the second."""
    step: int = 0
    total_steps: int = 0
    status: str = "damaged"
    """One of `STATUSES`."""
    seconds: float = 0.0
    """Of training, all sessions together."""
    size: int = 0
    """Bytes of all files."""
    metrics: dict[str, float] = field(default_factory=dict)
    measured: str = ""
    """What the metrics are of: 'held out', 'training', or nothing."""
    settings: dict[str, Any] = field(default_factory=dict)
    """The plugin's configuration and how the data was read, flat: nested names are joined by dots."""
    problem: str = ""
    """Why a damaged run cannot be read."""

    @property
    def main_metric(self) -> tuple[str, float] | None:
        """Name and value of the figure that a run is known by."""
        name = next((name for name in (*MAIN_METRICS, "loss") if name in self.metrics), None)
        return None if name is None else (name, self.metrics[name])

    def get(self, field: str) -> str | float | None:
        """A fact, a figure, or a setting by its name; None where this run has none."""
        if field in FACTS:
            value = getattr(self, FACTS[field])
            return value if value != "" else None
        if field in self.metrics:
            return self.metrics[field]
        value = self.settings.get(field)
        return value if value is None or isinstance(value, (int, float, str)) else str(value)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        main = self.main_metric
        return {
            "name": self.name,
            "path": str(self.path),
            **{name: getattr(self, attribute) for name, attribute in FACTS.items() if name != "name"},
            "total_steps": self.total_steps,
            "main_metric": None if main is None else main[0],
            "metrics": self.metrics,
            "measured": self.measured,
            "settings": {name: _plain(value) for name, value in self.settings.items()},
            "problem": self.problem,
        }


FACTS = {
    "name": "name", "plugin": "plugin", "preset": "preset", "data": "data", "kind": "kind", "time": "started",
    "step": "step", "status": "status", "seconds": "seconds", "size": "size",
}  # fmt: skip
"""Name of a fact for filters and sorting -> attribute of `RunRecord`."""


def find_runs(root: str | os.PathLike[str]) -> list[RunRecord]:
    """All runs in a folder and below it, newest first. Links are not followed, and no run is looked for within a run.

    Raises:
        StudioError: There is no such folder.
    """
    root = Path(root).expanduser()
    if not is_folder(root):
        raise StudioError(f"{root}: there is no such folder.", fix=meant(root, "Name the folder of your runs."))
    found = []
    for folder, names, files in os.walk(root, followlinks=False):
        here = Path(folder)
        if CONFIG in files and (CHECKPOINTS in names or "metrics.jsonl" in files):
            names.clear()
            found.append(read_run(here, root))
        else:
            # Hidden folders are caches, repositories, and what is half deleted.
            names[:] = [name for name in names if not name.startswith(".")]
    return sorted(found, key=lambda run: (run.started, run.name), reverse=True)


def read_run(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> RunRecord:
    """Look into one run folder; what cannot be read makes a 'damaged' record and no error.

    Args:
        path: The run folder itself.
        root: Its name is the path from there; default: the folder three levels up, which `studio train` writes to.
    """
    path = Path(path).expanduser().absolute()
    base = Path(root).expanduser().absolute() if root is not None else path.parents[min(2, len(path.parents) - 1)]
    name = path.relative_to(base).as_posix() if path.is_relative_to(base) and path != base else path.name
    size, changed = _size_and_age(path)
    run = RunFolder(path)
    started = _started(run, changed)
    try:
        config = run.read_config()
        steps, budget = config.config.get("steps", 0), config.budget_seconds
        total = steps if isinstance(steps, int) else 0
        rows = _rows(run)
        metrics, measured = _measured(run, rows)
        settings = _settings(run, config)
        data = data_name(config.data.path)
        preset = config.preset or ""
    except (StudioError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError) as error:
        # Whatever is in one run's files must not keep the others from being listed.
        problem = error.message if isinstance(error, StudioError) else f"{run.config_file}: {error}"
        return RunRecord(path, name, started=started, size=size, problem=problem)
    step = _step(run, rows)
    seconds = (_number(rows[-1].get("seconds")) or 0.0) if rows else 0.0
    ended = total > 0 and step >= total
    # The last row stands up to one logging interval before the end of a budget.
    ended = ended or (budget is not None and seconds >= 0.97 * budget)
    if (label := _ended(run)) is not None:
        # Killed between its last step and its last save, it is not finished; nor is one that was given more steps.
        ended = label == "budget" or (label == "finished" and ended)
    status = "running" if is_running(run.metrics_file) else "finished" if ended else "stopped"
    return RunRecord(
        path, name, str(config.plugin), str(preset), data, str(config.kind), started, step, total, status, seconds,
        size, metrics, measured, settings,
    )  # fmt: skip


def data_name(path: str) -> str:
    """The last part of where the data lies; 'toy:moons' and the like stay as they are."""
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1] or path


def _rows(run: RunFolder) -> list[dict[str, Any]]:
    return [row for row in run.read_metrics() if isinstance(row, dict)]


def _step(run: RunFolder, rows: list[dict[str, Any]]) -> int:
    """Steps done: of the newest checkpoint, or of the log where it is ahead."""
    steps = [int(row["step"]) + 1 for row in rows[-1:] if isinstance(row.get("step"), int)]
    for path in run.list_checkpoints()[-1:]:
        steps += [int(digits) for digits in re.findall(r"step_(\d+)", path.stem)]
    return max(steps, default=0)


def _ended(run: RunFolder) -> str | None:
    """Why training ended, as the newest checkpoint says; None where it is from before checkpoints said it."""
    newest = run.list_checkpoints()[-1:]
    return read_labels(newest[0]).get(ENDED) if newest else None


def _measured(run: RunFolder, rows: list[dict[str, Any]]) -> tuple[dict[str, float], str]:
    """Figures of `studio eval`, else those of the end of the training."""
    try:
        report = read_json_object(run.eval_file)
        figures = report.get("mean") or report.get("figures") or {}
        numbers = {str(k): _number(v) for k, v in figures.items() if k != "seconds"}
    except (StudioError, AttributeError):
        numbers = {}
    found = {name: value for name, value in numbers.items() if value is not None}
    if found:
        return found, "held out"
    last = rows[-max(round(_SMOOTHED * len(rows)), 1) :]
    names = dict.fromkeys(name for row in last for name in row if name not in ("step", "seconds"))
    for name in names:
        values = [value for row in last if (value := _number(row.get(name))) is not None]
        if values:
            found[name] = sum(values) / len(values)
    return found, "training" if found else ""


def _plain(value: Any) -> Any:
    """A setting for strict JSON, which knows no NaN and no infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _digest(run: RunFolder) -> str:
    """Of the data that the run was trained on; empty where it was not recorded."""
    try:
        return str(read_json_object(run.data_file)["digest"])
    except (StudioError, LookupError):
        return ""


def _settings(run: RunFolder, config: RunConfig) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    _flatten(config.config, "", flat)
    extra = {"seed": config.seed, "budget_seconds": config.budget_seconds, "device": config.device}
    data = {"data.path": config.data.path, "data.downscale": config.data.downscale}
    _flatten(config.data.reader, "data.", data)
    if digest := _digest(run):
        data["data.content"] = digest[:8]
    versions = {"studio_version": config.studio_version, "plugin_version": config.plugin_version}
    return {**flat, **extra, **data, **versions}


def _flatten(values: Any, prefix: str, into: dict[str, Any]) -> None:
    for name, value in dict(values).items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{name}.", into)
        else:
            into[f"{prefix}{name}"] = value


def _started(run: RunFolder, changed: float) -> str:
    """From the folder's name, else as the environment says, else the time of the newest file."""
    if match := _STAMP.match(run.path.name):
        return f"{match[1]}T{match[2]}:{match[3]}:{match[4]}"
    try:
        started = read_json_object(run.environment_file)["started"]
        return _ISO.match(started)[0]  # type: ignore[index]
    except (StudioError, KeyError, TypeError):
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(changed))


def _size_and_age(path: Path) -> tuple[int, float]:
    """Bytes of all files, links not followed, and the time of the newest."""
    size, newest = 0, 0.0
    for folder, _, files in os.walk(path, followlinks=False):
        for name in files:
            try:
                status = os.lstat(os.path.join(folder, name))
            except OSError:  # gone meanwhile: a training prunes its checkpoints
                continue
            size += status.st_size
            newest = max(newest, status.st_mtime)
    return size, newest
