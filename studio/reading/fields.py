"""The fields of JSON documents, with errors that say where the fault is."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from studio.errors import StudioError
from studio.reading.json_text import kind_of, shown_value
from studio.reading.limits import LARGEST_LENGTH


class Fields:
    """The fields of a JSON object, and where it stands, so that errors can name them."""

    def __init__(self, values: Mapping[str, Any], source: str | os.PathLike[str], where: str = "") -> None:
        self.values = values
        self.source = source
        self._where = where

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def place(self, key: str) -> str:
        """``file: frames[3].key``, for messages."""
        return f"{self.source}: {self._where}{'.' if self._where else ''}{key}"

    def number(self, key: str) -> float:
        """A finite number.

        Raises:
            StudioError: Missing, not a number, NaN or infinite.
        """
        return finite_number(self.values.get(key), self.place(key))

    def element(self, key: str, index: int) -> float:
        """A finite number in a list; raises as `number`."""
        value = finite_number(self.items(key)[index], f"{self.place(key)}[{index}]")
        if abs(value) > LARGEST_LENGTH:
            raise StudioError(f"{self.place(key)}[{index}] is {value:g}, beyond all measure.", fix="Correct the field.")
        return value

    def positive(self, key: str, what: str) -> float:
        """A number above zero."""
        value = self.length(key)
        if value <= 0:
            raise StudioError(
                f"{self.place(key)} is {value:g}, but {what} must be above zero.", fix="Correct the field."
            )
        return value

    def length(self, key: str) -> float:
        """A number of at most `LARGEST_LENGTH`: coordinates, focal lengths and what else is multiplied with itself."""
        value = self.number(key)
        if abs(value) > LARGEST_LENGTH:
            raise StudioError(f"{self.place(key)} is {value:g}, beyond all measure.", fix="Correct the field.")
        return value

    def whole(self, key: str, low: int, high: int) -> int:
        """A whole number from `low` to `high`; 8.0 counts as one."""
        value = self.number(key)
        if value != int(value) or not low <= value <= high:
            raise StudioError(
                f"{self.place(key)} is {value:g}; it must be a whole number from {low:,} to {high:,}.",
                fix="Correct the field.",
            )
        return int(value)

    def numbers(self, key: str, shape: Sequence[int]) -> Any:
        """Nested lists of finite numbers of this shape, as floats."""
        return _nested(self.values.get(key), self.place(key), tuple(shape), tuple(shape))

    def fields(self, key: str) -> Fields:
        """An object's own fields."""
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise StudioError(f"{self.place(key)} must be an object, got {kind_of(value)}.", fix="Correct the field.")
        return Fields(value, self.source, self.place(key).removeprefix(f"{self.source}: "))

    def choice(self, key: str, known: Sequence[str]) -> str:
        """One of several strings."""
        value = self.values.get(key)
        if value not in known or not isinstance(value, str):
            raise StudioError(
                f"{self.place(key)} must be one of {', '.join(known)}, got {shown_value(value)}.",
                fix="Correct the field.",
            )
        return value

    def text(self, key: str) -> str:
        """A string that is not empty."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise StudioError(f"{self.place(key)} must be a string, got {kind_of(value)}.", fix="Correct the field.")
        return value

    def items(self, key: str) -> list[Any]:
        """A list."""
        value = self.values.get(key)
        if not isinstance(value, list):
            raise StudioError(f"{self.place(key)} must be a list, got {kind_of(value)}.", fix="Correct the field.")
        return value


def finite_number(value: Any, place: str) -> float:
    """`value` as a float.

    Raises:
        StudioError: It is no number, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise StudioError(f"{place} must be a number, got {kind_of(value)}.", fix="Correct the field.")
    if not math.isfinite(value):
        raise StudioError(f"{place} is {value}.", fix="Correct the field; it must be finite.")
    return float(value)


def _nested(value: Any, place: str, shape: tuple[int, ...], whole: tuple[int, ...]) -> Any:
    if not shape:
        return finite_number(value, place)
    if not isinstance(value, list) or len(value) != shape[0]:
        raise StudioError(f"{place} must be {' x '.join(map(str, whole))} numbers.", fix="Correct the field.")
    return [_nested(item, f"{place}[{i}]", shape[1:], whole) for i, item in enumerate(value)]
