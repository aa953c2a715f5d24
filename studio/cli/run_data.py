"""The data that a generator's run was trained on, opened again, and pictures that a user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from studio.datasets import Dataset, is_generated, load_dataset
from studio.datasets.held_out import Split
from studio.datasets.pictures import read_picture
from studio.errors import StudioError

if TYPE_CHECKING:
    from studio.training.loaded import LoadedRun


def open_run_data(run: LoadedRun, split: Split) -> Dataset:
    """A split of the data set of a run, read as it was for the training.

    Raises:
        StudioError: It is no longer there, or has another form now.
    """
    data = run.config.data
    if not is_generated(data.path) and not Path(data.path).exists():
        raise StudioError(f"{data.path}: the data set of this run is no longer there.", fix="Put it back where it was.")
    dataset = load_dataset(data.path, split=split, **data.reader)
    shape = run.generator.data_info.sample_shape
    if dataset.sample_shape != shape:
        raise StudioError(
            f"{data.path}: has samples of shape {dataset.sample_shape} now; the run was trained on {shape}.",
            fix="Put the old data back.",
        )
    return dataset


def picture_shape(run: LoadedRun) -> tuple[int, int, int]:
    """(c, h, w) of the run's pictures; raises StudioError where it has to do with something else."""
    shape = run.generator.data_info.sample_shape
    if len(shape) != 3:
        raise StudioError(f"{run.path}: a run of '{run.config.plugin}' on other data than pictures.")
    return shape[0], shape[1], shape[2]


def read_pictures(run: LoadedRun, paths: Sequence[Path]) -> Tensor:
    """Picture files (n, c, h, w) in [0, 1] in the size of the run's data."""
    shape = picture_shape(run)
    return torch.stack([read_picture(path.expanduser(), shape) for path in paths])


def held_out_batch(run: LoadedRun, n: int, split: Split) -> tuple[Tensor, Any]:
    """`n` samples of a split, evenly taken, with their labels or captions."""
    dataset = open_run_data(run, split)
    count = min(n, len(dataset))
    return dataset.batch([i * len(dataset) // count for i in range(count)])
