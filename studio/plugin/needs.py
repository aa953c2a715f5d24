"""What data a generator can learn from, checked before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from studio.datasets import Dataset
from studio.errors import StudioError
from studio.plugin.base import DataInfo

_LOOKED_AT = 64


@dataclass(frozen=True)
class DataNeeds:
    """Needs of a model, for a message that says what does not fit."""

    kind: Literal["points", "pictures"]
    """points: samples (d,); pictures: samples (c, h, w)."""
    largest_side: int | None = None
    """Pictures may be so high and wide."""
    classes: bool = False
    """Whether samples must have class labels."""

    def check(self, info: DataInfo, model: str, fix: str) -> None:
        """Raise where the data is not what the model needs.

        Args:
            info: The data.
            model: Names the model in the message, such as "This preset of 'vae'".
            fix: What to do instead.

        Raises:
            StudioError: Points for pictures or the other way round, pictures that are too large, or no labels.
        """
        shape, found = info.sample_shape, f"the data set holds {info.describe()}"
        if len(shape) != (1 if self.kind == "points" else 3):
            raise StudioError(f"{model} models {self.kind}; {found}.", fix=fix)
        if self.largest_side is not None and max(shape[1:]) > self.largest_side:
            raise StudioError(
                f"{model} takes pictures up to {self.largest_side}x{self.largest_side}; {found}.", fix=fix
            )
        if self.classes and not info.num_classes:
            raise StudioError(f"{model} needs class labels; the data set has none.", fix=fix)


def check_picture_range(dataset: Dataset) -> None:
    """Raise where the first pictures of a data set have values outside of [0, 1].

    Raises:
        StudioError: Names the range that was found.
    """
    x, _ = dataset.batch(range(min(len(dataset), _LOOKED_AT)))
    low, high = float(x.amin()), float(x.amax())
    if low < 0 or high > 1:
        raise StudioError(
            f"{dataset.name}: pictures must have values in [0, 1]; found {low:g} to {high:g}.",
            fix="Save them as uint8.",
        )
