"""The run folder: everything that one training run leaves behind, as plain data."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import platform
import shutil
import sys
import time
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from studio import __version__
from studio.errors import StudioError
from studio.files import atomic_write
from studio.reading.files import is_file, is_folder, read_bytes
from studio.reading.json_text import parse_json
from studio.reading.limits import LARGEST_LENGTH, LARGEST_ROWS
from studio.reading.neighbours import meant
from studio.reading.yaml_text import read_yaml

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
_log = logging.getLogger(__name__)
_RETRAIN = "Train the run again."


@dataclass(frozen=True)
class DataSettings:
    """Where the data lies and how it was read; enough to read it again in the same way."""

    path: str
    """Absolute path of a scene or data set, or ``toy:NAME``, ``shapes:SIZE``."""
    downscale: float = 1.0
    reader: dict[str, Any] = field(default_factory=dict)
    """Options of `studio.readers.load_scene` or `studio.datasets.load_dataset`."""
    background: str = "auto"
    """'white', 'black', 'random', or 'auto': white for photos with alpha."""
    cache_gb: float = 2.0


@dataclass(frozen=True)
class RunConfig:
    """The content of ``config.yaml``: how to make this run again."""

    plugin: str
    preset: str | None
    config: dict[str, Any]
    """The plugin's configuration as plain data."""
    data: DataSettings
    info: dict[str, Any]
    """`SceneInfo` or `DataInfo` as plain data: the plugin is rebuilt from it without the data."""
    kind: str
    seed: int = 0
    device: str = "auto"
    budget_seconds: float | None = None
    plugin_distribution: str = ""
    plugin_version: str = ""
    studio_version: str = __version__


class RunFolder:
    """A run's folder and the names in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / CONFIG
        self.scene_file = path / "scene.json"
        self.data_file = path / "data.json"
        self.metrics_file = path / "metrics.jsonl"
        self.eval_file = path / "eval.json"
        self.environment_file = path / "environment.json"
        self.previews = path / "previews"
        self.checkpoints = path / CHECKPOINTS

    @classmethod
    def create(cls, root: Path, data_name: str, plugin: str) -> RunFolder:
        """A new folder ``root/data/plugin/time``; a counter is added when two runs start in one second."""
        parent = root / data_name / plugin
        stamp = time.strftime("%Y-%m-%d_%H%M%S")
        for attempt in range(1000):
            path = parent / (stamp if attempt == 0 else f"{stamp}-{attempt}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise StudioError(
                    f"{path}: the run folder cannot be made ({error.strerror}).",
                    fix="Choose another place with --output.",
                ) from error
            run = cls(path)
            run.checkpoints.mkdir()
            run.previews.mkdir()
            return run
        raise StudioError(f"{parent}: no free run name for {stamp}.")

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run: its folder, or any folder above it, whose newest run is then taken.

        Raises:
            StudioError: There is no run there.
        """
        path = path.expanduser()
        if is_file(path / CONFIG):
            return cls(path)
        if is_file(path):
            raise StudioError(f"{path}: a file, not a run folder.", fix="Give the folder that holds config.yaml.")
        runs = sorted(path.glob(f"**/{CONFIG}"), key=lambda p: p.stat().st_mtime) if is_folder(path) else []
        if not runs:
            if not os.path.lexists(path):
                raise StudioError(
                    f"{path}: there is no such folder.", fix=meant(path, "Name the folder of a run, or one above it.")
                )
            raise StudioError(
                f"{path}: there is no run here (no {CONFIG}).", fix="Train one with: studio train PLUGIN DATA"
            )
        found = [cls(config.parent) for config in runs]
        # One that was stopped before its first save must not hide a good one.
        usable = [run for run in found if run.list_checkpoints()]
        if usable and usable[-1].path != found[-1].path:
            _log.warning(
                "%s has no checkpoint yet; taking the newest run that has: %s", found[-1].path, usable[-1].path
            )
        return (usable or found)[-1]

    def discard(self) -> None:
        """Delete the folder of a run that failed before it had anything to keep, and the folders made for it."""
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in list(self.path.parents)[:2]:
            # Only those that hold no other run.
            with contextlib.suppress(OSError):
                parent.rmdir()

    # ---- configuration -------------------------------------------------------------------------------------------
    def write_config(self, config: RunConfig) -> None:
        with atomic_write(self.config_file, "w") as handle:
            yaml.safe_dump(dataclasses.asdict(config), handle, sort_keys=False, allow_unicode=True)
        with atomic_write(self.environment_file, "w") as handle:
            json.dump(_environment(), handle, indent=2)

    def read_config(self) -> RunConfig:
        """Raises StudioError naming the file and the field when the configuration is damaged."""
        data = read_yaml(self.config_file, fix=_RETRAIN)
        where = f"{self.config_file}"
        fields = checked_fields(RunConfig, data, where, fix=_RETRAIN)
        settings = checked_fields(DataSettings, fields["data"], f"{where}: data", fix=_RETRAIN)
        return RunConfig(**{**fields, "data": DataSettings(**settings)})

    # ---- checkpoints ---------------------------------------------------------------------------------------------
    def checkpoint_path(self, step: int) -> Path:
        return self.checkpoints / f"step_{step:08d}.safetensors"

    def list_checkpoints(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.checkpoints.glob("step_*.safetensors"))

    def latest_checkpoint(self) -> Path:
        """Raises StudioError when the run has none yet."""
        found = self.list_checkpoints()
        if not found:
            raise StudioError(
                f"{self.path}: the run has no checkpoint yet.",
                fix="Train it again; it was stopped before its first save.",
            )
        return found[-1]

    def prune_checkpoints(self, keep: int) -> list[Path]:
        """Delete all but the newest `keep`; returns what was deleted."""
        old = self.list_checkpoints()[:-keep]
        for path in old:
            path.unlink(missing_ok=True)
        return old

    # ---- metrics -------------------------------------------------------------------------------------------------
    def read_metrics(self) -> list[dict[str, Any]]:
        """Rows of ``metrics.jsonl`` up to the first that is none: a last line cut off by a kill is dropped."""
        rows = []
        for row in self._metrics_lines():
            if row is None:
                break
            rows.append(row)
        return rows

    def rewind_metrics(self, step: int) -> None:
        """Drop the rows from `step` on: a resumed run writes them again.

        Raises:
            StudioError: A line before the last is no row, so that rewriting would lose what follows it.
        """
        lines = list(self._metrics_lines())
        bad = next((i for i, row in enumerate(lines) if row is None or "step" not in row), len(lines))
        if bad < len(lines) - 1:
            raise StudioError(
                f"{self.metrics_file}: line {bad + 1} is no row with a step.",
                fix="Remove that line, or the file; the rows behind it would be lost.",
            )
        rows = [row for row in lines[:bad] if row is not None and row["step"] < step]
        with atomic_write(self.metrics_file, "w") as handle:
            handle.writelines(json.dumps(row) + "\n" for row in rows)

    def _metrics_lines(self) -> Iterator[dict[str, Any] | None]:
        """The rows, with None for a line that is none."""
        if not is_file(self.metrics_file):
            return
        # As bytes: a line that is not UTF-8 must not take the others with it.
        for line in read_bytes(self.metrics_file, LARGEST_ROWS).split(b"\n"):
            if not line.strip():
                continue
            try:
                row = parse_json(line, self.metrics_file)
            except StudioError:
                yield None
                continue
            step = row.get("step", 0) if isinstance(row, dict) else None
            yield row if isinstance(step, int) and not isinstance(step, bool) else None


def checked_fields(cls: type[Any], data: Any, where: str, *, fix: str) -> dict[str, Any]:
    """The fields of a dataclass from plain data: no unknown ones, none missing, all of the annotated types.

    Raises:
        StudioError: Names `where` and the field.
    """
    if not isinstance(data, dict):
        raise StudioError(f"{where}: must be a mapping of fields, not {_type_name(data)}.", fix=fix)
    known = {known.name: known for known in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for name, value in data.items():
        if name not in known:
            raise StudioError(f"{where}: has the unknown field {str(name)[:80]!r}.", fix=fix)
        if not _is_of(value, hints[name]):
            raise StudioError(f"{where}: the field '{name}' is {_type_name(value)}.", fix=fix)
    for name, field_ in known.items():
        required = field_.default is dataclasses.MISSING and field_.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise StudioError(f"{where}: the field '{name}' is missing.", fix=fix)
    return dict(data)


def _is_of(value: Any, hint: Any) -> bool:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        kind = typing.get_origin(option) or option
        if dataclasses.is_dataclass(kind) or kind is dict:
            if isinstance(value, dict) and all(isinstance(key, str) for key in value):
                return True
        elif kind is float:
            if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_LENGTH:
                return True
        elif kind is int:
            if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
                return True
        elif isinstance(value, kind):
            return True
    return False


def _type_name(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "a text", type(None): "empty", bool: "yes or no"}
    return names.get(type(value), f"the number {value!s:.40}")


def _environment() -> dict[str, Any]:
    from importlib import metadata

    def version(name: str) -> str | None:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return None

    packages = ("neural-studio", "torch", "numpy", "numba", "gsplat", "imageio", "pillow")
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "packages": {name: version(name) for name in packages},
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
