"""What samples are asked to show: classes by number or name, captions, or prompts."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from studio.errors import StudioError
from studio.plugin.base import DataInfo

V = TypeVar("V")


@dataclass(frozen=True)
class Conditions:
    """One condition a sample."""

    values: list[int] | list[str] | None
    """What `Generator.sample` takes."""
    labels: list[str] | None
    """What to write above each sample."""

    @property
    def classes(self) -> list[int] | None:
        """The classes, where these are classes."""
        if self.values is None:
            return None
        numbers = [value for value in self.values if isinstance(value, int)]
        return numbers if len(numbers) == len(self.values) else None


def read_conditions(asked: Sequence[str], info: DataInfo, n: int) -> Conditions:
    """Spread what was asked for over `n` samples.

    Args:
        asked: Class numbers or names, or captions, in turn; or 'all' for every class. Nothing: no condition.
        info: What the run was trained on.
        n: Samples; with several conditions each gets about as many, one after the other.

    Raises:
        StudioError: The run knows no conditions, or not these.
    """
    if not asked:
        return Conditions(None, None)
    if info.has_captions:
        if list(asked) == ["all"]:
            raise StudioError("--cond all: this run was trained on captions, not classes.", fix='Give --cond "a text".')
        texts = _spread(list(asked), n)
        return Conditions(texts, texts)
    if not info.num_classes:
        raise StudioError(
            f"--cond {asked[0]}: this run was trained without classes and captions.", fix="Leave --cond out."
        )
    names = info.class_names or tuple(str(i) for i in range(info.num_classes))
    wanted = list(range(info.num_classes)) if list(asked) == ["all"] else [_class_number(text, names) for text in asked]
    numbers = _spread(wanted, n)
    return Conditions(numbers, [names[i] for i in numbers])


def _class_number(text: str, names: Sequence[str]) -> int:
    if text in names:
        return names.index(text)
    lower = [name.lower() for name in names]
    if lower.count(text.lower()) == 1:
        return lower.index(text.lower())
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    near = difflib.get_close_matches(text, names, n=1)
    known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    raise StudioError(
        f"--cond: there is no class '{text}'.", fix=f"Did you mean '{near[0]}'?" if near else f"Classes: {known}."
    )


def _spread(values: list[V], n: int) -> list[V]:
    return [values[i * len(values) // n] for i in range(n)] if n >= len(values) else values[:n]
