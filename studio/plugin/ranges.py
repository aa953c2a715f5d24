"""Ranges of configuration fields, declared with their types and checked before anything is trained.

A field says ``lr: Annotated[float, Range(0, 1)] = 1e-3``, ``dropout: Share = 0.1``, or
``width: Annotated[int, Range(8, 4096, multiple=8)] = 64``.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Annotated, Any

from studio.errors import StudioError


@dataclass(frozen=True)
class Range:
    """Values that a number, or each number of a tuple, may have; None always may where the type allows it."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    """Whether `low` itself is out of range."""
    multiple: int | None = None
    """Values must be multiples of it."""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open else value >= self.low
        return above and value <= self.high

    @property
    def hint(self) -> str:
        """What to do about a value that is not in it."""
        low = f"more than {_shown(self.low)}" if self.open else f"{_shown(self.low)} or more"
        if math.isinf(self.high):
            return "Use a finite number." if math.isinf(self.low) else f"Use {low}."
        if math.isinf(self.low):
            return f"Use {_shown(self.high)} or less."
        return (
            f"Use {low}, up to {_shown(self.high)}."
            if self.open
            else f"Use a value from {_shown(self.low)} to {_shown(self.high)}."
        )


Share = Annotated[float, Range(0, 1)]
"""A part of a whole, or a probability."""
PositiveNumber = Annotated[float, Range(0, open=True)]
NonNegativeNumber = Annotated[float, Range(0)]
LearningRate = Annotated[float, Range(0, 100)]
"""Of any optimiser; 0 keeps what it is for as it is."""
Decay = Annotated[float, Range(0, 0.9999999)]
"""Factor of a running mean, such as Adam's betas: below 1, at which nothing would ever come in."""
Count = Annotated[int, Range(0, 1 << 31)]
PositiveCount = Annotated[int, Range(1, 1 << 31)]

_ANY = Range()


def check_ranges(config: Any, prefix: str = "") -> None:
    """Look at every number of a configuration, nested ones included.

    Raises:
        StudioError: One is out of the range that its type declares, or not finite; names the field and the range.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            check_ranges(value, f"{name}.")
            continue
        allowed = _range_of(hint)
        for number in value if isinstance(value, (tuple, list)) else (value,):
            _check_number(name, number, allowed)


def _check_number(name: str, value: Any, allowed: Range) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if not math.isfinite(value) or value not in allowed:
        raise StudioError(f"{name}: {_shown(value)} is out of range.", fix=allowed.hint)
    if allowed.multiple is not None and value % allowed.multiple:
        raise StudioError(
            f"{name}: {value} is no multiple of {allowed.multiple}.", fix=f"Use one, such as {4 * allowed.multiple}."
        )


def _shown(value: float) -> str:
    return f"{int(value):,}" if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else f"{value:.8g}"


def _range_of(hint: Any) -> Range:
    """The range in an annotation, or in the first part of a union or tuple that has one."""
    if typing.get_origin(hint) is Annotated:
        found = [item for item in hint.__metadata__ if isinstance(item, Range)]
        return found[0] if found else _range_of(hint.__origin__)
    for part in typing.get_args(hint):
        if (found_in := _range_of(part)) is not _ANY:
            return found_in
    return _ANY
