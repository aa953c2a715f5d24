"""Which class each sample is to be: conditions as users give them, as rows of class weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from studio.errors import StudioError
from studio.plugin import DataInfo


def class_weights(
    condition: Sequence[int] | Sequence[str] | Tensor, n: int, data_info: DataInfo
) -> Float[Tensor, "n num_classes"]:
    """One-hot rows of `n` classes, given by number or by name; a single one stands for all `n`.

    Raises:
        StudioError: A class that the data did not have.
        ValueError: Neither one nor `n` classes.
    """
    count = data_info.num_classes or 0
    known = [_number(value, count, data_info.class_names) for value in _listed(condition)]
    if len(known) not in (1, n):
        raise ValueError(f"condition must hold 1 or {n} classes, got {len(known)}")
    return F.one_hot(torch.tensor(known), count).float().expand(n, -1)


def evenly(n: int, num_classes: int) -> list[int]:
    """`n` classes in turn: 0, 1, 2, …, 0, 1, …"""
    return [i % num_classes for i in range(n)]


def _listed(condition: Sequence[int] | Sequence[str] | Tensor) -> list[int | str]:
    return condition.tolist() if isinstance(condition, Tensor) else list(condition)


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
