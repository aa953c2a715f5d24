"""What a data set is to the engine, and opening one by its path or name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from studio.errors import StudioError


class Dataset(Protocol):
    """An indexed set of equal-shaped samples, some of them held out for evaluation."""

    @property
    def name(self) -> str: ...

    @property
    def sample_shape(self) -> tuple[int, ...]: ...

    @property
    def num_classes(self) -> int | None: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Any]:
        """Samples (b, *sample_shape) float32, and their labels (b,) int64, captions, or None."""
        ...


def load_dataset(path: str | Path) -> Dataset:
    """Open a data set: a ``.npz`` file, or ``toy:NAME`` for a 2D toy set.

    Raises:
        StudioError: Nothing that the studio can read is there.
    """
    text = str(path)
    if text.startswith("toy:"):
        from studio.datasets.toy2d import toy_dataset

        return toy_dataset(text.removeprefix("toy:"))
    if not Path(path).exists():
        raise StudioError(f"{path}: there is no such file or folder.", fix="Give a .npz file, or toy:swiss-roll.")
    if Path(path).suffix == ".npz":
        from studio.datasets.npz import read_npz

        return read_npz(Path(path))
    raise StudioError(f"{path}: not a data set that the studio knows.", fix="Give a .npz file, or toy:swiss-roll.")
