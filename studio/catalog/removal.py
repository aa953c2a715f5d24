"""Deleting runs: only what is surely a run, never through a link, never half."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from studio.catalog.records import RunRecord, find_runs, read_run
from studio.errors import StudioError
from studio.reading.files import is_file, is_folder
from studio.training.run import CONFIG


@dataclass(frozen=True)
class Removal:
    """Runs that may be deleted, each once."""

    runs: tuple[RunRecord, ...]

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(run.size for run in self.runs)

    def carry_out(self) -> None:
        """Delete them. Each is renamed first, so that a kill leaves no half run behind.

        Raises:
            StudioError: The file system refuses.
        """
        for run in self.runs:
            aside = run.path.with_name(f".{run.path.name}.{secrets.token_hex(6)}.partial")
            try:
                os.rename(run.path, aside)
                # Links inside are removed themselves; what they lead to stays.
                shutil.rmtree(aside)
            except OSError as error:
                raise StudioError(
                    f"{run.path}: cannot be deleted ({error.strerror or error}).", fix="Check the permissions."
                ) from error


def plan_removal(paths: Sequence[str | os.PathLike[str]]) -> Removal:
    """Check what shall be deleted; nothing is touched.

    Args:
        paths: Run folders themselves, not folders above them.

    Raises:
        StudioError: A path that is no run folder, a link, holds another run, or is being trained.
    """
    runs: dict[Path, RunRecord] = {}
    for given in paths:
        path = Path(given).expanduser()
        # The last part must be no link; those above it are where the user's folder lies.
        if path.is_symlink():
            raise StudioError(f"{path}: is a link.", fix=f"Name the folder itself: {os.path.realpath(path)}")
        path = Path(os.path.realpath(path))
        if not is_folder(path):
            raise StudioError(f"{given}: there is no such folder.", fix="`studio runs` lists the runs.")
        if not is_file(path / CONFIG):
            inside = len(find_runs(path))
            raise StudioError(
                f"{given}: is no run folder" + (f", but holds {inside} of them." if inside else f" (no {CONFIG})."),
                fix="Name each run to delete." if inside else "`studio runs` lists the runs.",
            )
        run = read_run(path)
        if run.status == "damaged":
            raise StudioError(f"{given}: is not surely a run ({run.problem})", fix="Delete the folder by hand.")
        if run.status == "running":
            raise StudioError(f"{given}: is being trained.", fix="Stop the training first.")
        nested = [below for below in _config_folders(path) if below != path]
        if nested:
            raise StudioError(f"{given}: holds another run ({nested[0]}).", fix="Delete that one first.")
        runs[path] = run
    return Removal(tuple(runs.values()))


def _config_folders(path: Path) -> list[Path]:
    return [Path(folder) for folder, _, files in os.walk(path, followlinks=False) if CONFIG in files]
