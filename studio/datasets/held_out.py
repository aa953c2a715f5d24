"""Which samples are held out where a data set has no test part of its own."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from studio.datasets.draws import mix
from studio.errors import StudioError

Split = Literal["train", "test"]
SHARE = 10
"""One sample in so many is held out."""


def split_rows(n: int, split: Split, where: str) -> npt.NDArray[np.int64]:
    """The rows of a split of `n` samples, ascending: a tenth (at least one) is the test split, in a fixed permutation.

    The two splits are disjoint and cover everything. They depend on `n` alone.

    Raises:
        StudioError: The split would be empty; `where` names the data.
    """
    count = max(n // SHARE, 1) if n > 1 else 0
    order = np.argsort(mix(np.arange(n)), kind="stable")
    rows = order[:count] if split == "test" else order[count:]
    if len(rows) == 0:
        raise StudioError(f"{where}: has {n} samples, too few to hold one out.", fix="Give at least two.")
    return np.sort(rows).astype(np.int64)


def check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}")
