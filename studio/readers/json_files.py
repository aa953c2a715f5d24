"""Reading JSON files and their fields with errors that say where the fault is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.errors import StudioError


def load_json_object(path: Path) -> dict[str, Any]:
    """Parse a JSON file whose top level is an object.

    Raises:
        StudioError: The file is missing, is not UTF-8, or has a syntax error (line, column and the line are shown).
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise StudioError(
            f"{path}: not a text file in UTF-8 (byte {error.start}).", fix="Save it as UTF-8 JSON."
        ) from error
    except OSError as error:
        raise StudioError(f"{path}: cannot be read ({error.strerror or error}).", fix="Check the path.") from error
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        lines = text.splitlines()
        line = lines[error.lineno - 1].strip() if error.lineno <= len(lines) else ""
        shown = f": {line[:80]}" if line else ""
        raise StudioError(
            f"{path}: JSON syntax error at line {error.lineno}, column {error.colno} ({error.msg}){shown}",
            fix="Correct that line.",
        ) from error
    except RecursionError as error:
        raise StudioError(f"{path}: nested too deeply to be a scene file.") from error
    if not isinstance(data, dict):
        raise StudioError(f"{path}: the top level must be an object, got {_kind(data)}.")
    return data


class Fields:
    """The fields of a JSON object, and where it stands, so that errors can name them."""

    def __init__(self, values: Mapping[str, Any], source: Path, where: str = "") -> None:
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
        return _finite(self.values.get(key), self.place(key))

    def element(self, key: str, index: int) -> float:
        """A finite number in a list; raises as `number`."""
        return _finite(self.items(key)[index], f"{self.place(key)}[{index}]")

    def positive(self, key: str, what: str) -> float:
        """A number above zero."""
        value = self.number(key)
        if value <= 0:
            raise StudioError(
                f"{self.place(key)} is {value:g}, but {what} must be above zero.", fix="Correct the field."
            )
        return value

    def text(self, key: str) -> str:
        """A string that is not empty."""
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            raise StudioError(f"{self.place(key)} must be a string, got {_kind(value)}.", fix="Correct the field.")
        return value

    def items(self, key: str) -> list[Any]:
        """A list."""
        value = self.values.get(key)
        if not isinstance(value, list):
            raise StudioError(f"{self.place(key)} must be a list, got {_kind(value)}.", fix="Correct the field.")
        return value


def _finite(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise StudioError(f"{place} must be a number, got {_kind(value)}.", fix="Correct the field.")
    if not math.isfinite(value):
        raise StudioError(f"{place} is {value}.", fix="Correct the field; it must be finite.")
    return float(value)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true/false", type(None): "nothing"}
    return names.get(type(value), "a number")
