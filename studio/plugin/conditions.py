"""Conditions of class-conditional generators as users give them: numbers or names of classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from studio.errors import StudioError
from studio.plugin.base import DataInfo


def class_labels(condition: Sequence[int] | Sequence[str] | Tensor, n: int, data_info: DataInfo) -> Int[Tensor, " n"]:
    """Labels of `n` samples, from numbers or names; a single one stands for all.

    Raises:
        StudioError: A class that the data did not have, or classes for data that had none.
        ValueError: Neither one nor `n` classes.
    """
    count = data_info.num_classes or 0
    if count == 0:
        raise StudioError("condition: the model was trained without classes.", fix="Leave the condition out.")
    given: list[int | str] = condition.tolist() if isinstance(condition, Tensor) else [*condition]
    labels = torch.tensor([_number(value, count, data_info.class_names) for value in given], dtype=torch.int64)
    if len(labels) not in (1, n):
        raise ValueError(f"condition: expected 1 or {n} classes, got {len(labels)}")
    return labels.expand(n)


def class_weights(
    condition: Sequence[int] | Sequence[str] | Tensor, n: int, data_info: DataInfo
) -> Float[Tensor, "n classes"]:
    """The same as `class_labels` as one-hot rows, which may be blended."""
    return F.one_hot(class_labels(condition, n, data_info), data_info.num_classes or 0).float()


def _number(value: int | str, count: int, names: Sequence[str]) -> int:
    if isinstance(value, str):
        if value in names:
            return list(names).index(value)
        if not value.isdecimal():
            raise StudioError(
                f"condition: there is no class named '{value}'.",
                fix=f"Classes: {', '.join(names) or f'0 to {count - 1}'}.",
            )
    number = int(value)
    if not 0 <= number < count:
        raise StudioError(
            f"condition: class {number} is out of range; the model knows {count} classes.",
            fix=f"Give 0 to {count - 1}.",
        )
    return number
