"""JSON documents, and files of one JSON object a line."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from studio.errors import StudioError
from studio.reading.files import decode_text, read_bytes, unreadable
from studio.reading.limits import DEEPEST, LARGEST_JSON

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MOST_DIGITS = 18
"""Whole numbers of so many digits fit into 64 bits in any case."""
_FIX = "Correct that line."


def read_json(path: str | os.PathLike[str], *, most: int = LARGEST_JSON) -> Any:
    """The content of a JSON file in UTF-8; see `parse_json`.

    Raises:
        StudioError: Missing, no regular file, longer than `most` bytes, not UTF-8, or no JSON.
    """
    return parse_json(read_bytes(path, most), path)


def read_json_object(path: str | os.PathLike[str], *, most: int = LARGEST_JSON) -> dict[str, Any]:
    """As `read_json`, of a document whose top level is an object."""
    data = read_json(path, most=most)
    if not isinstance(data, dict):
        raise StudioError(f"{path}: the top level must be an object, got {kind_of(data)}.", fix="Correct the file.")
    return data


def parse_json(text: str | bytes, where: str | os.PathLike[str], *, fix: str = _FIX) -> Any:
    """Parse a document.

    Whole numbers beyond 64 bits become floats, and those beyond float64 infinity, as 1e999 does: whoever takes a
    number checks that it is finite. NaN and Infinity are understood, which Python's JSON writes.

    Args:
        text: The document; bytes are UTF-8, with or without byte order mark.
        where: The file, for messages.
        fix: What the user can do about a syntax error.

    Raises:
        StudioError: Not UTF-8; a syntax error (line, column and the line are shown); a name that an object has
            twice; nesting deeper than `DEEPEST`; half of a surrogate pair.
    """
    if isinstance(text, bytes):
        text = decode_text(text, where, fix="Save it as JSON in UTF-8.")
    try:
        data = json.loads(text, parse_int=_whole, object_pairs_hook=_unique)
        _check_depth(data)
        if _SURROGATE.search(text):
            # Half of a pair is no character: nothing can print it, store it or look for a file of that name.
            json.dumps(data, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        lines = text.split("\n")
        line = lines[error.lineno - 1].strip() if error.lineno <= len(lines) else ""
        shown = f": {_plain(line)}" if line else ""
        raise unreadable(
            where, f"JSON syntax error at line {error.lineno}, column {error.colno} ({error.msg}){shown}", fix=fix
        ) from error
    except RecursionError as error:
        raise _too_deep(where) from error
    except UnicodeEncodeError as error:
        raise unreadable(where, "holds half of a surrogate pair, which is no character", fix=fix) from error
    except _Refused as error:
        raise unreadable(where, str(error), fix=fix) from error
    return data


def kind_of(value: Any) -> str:
    """The JSON type of a value, for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true/false", type(None): "nothing"}
    return names.get(type(value), "a number")


def shown_value(value: Any) -> str:
    """A value for a message: short, on one line."""
    if isinstance(value, (dict, list)):
        return kind_of(value)
    return _plain(json.dumps(value, ensure_ascii=False))


class _Refused(ValueError):
    pass


def _whole(text: str) -> int | float:
    return int(text) if len(text) <= _MOST_DIGITS else _long(text)


def _long(text: str) -> int | float:
    if len(text) <= 20 and -(1 << 63) <= (value := int(text)) < 1 << 63:
        return value
    return float(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _Refused(f"an object has the name {_plain(repr(twice))} twice")
    return found


def _check_depth(data: Any) -> None:
    level, depth = [data], 1
    while level := [v for item in level if isinstance(item, (dict, list)) for v in _inner(item)]:
        depth += 1
        if depth > DEEPEST:
            raise RecursionError


def _inner(item: dict[str, Any] | list[Any]) -> list[Any]:
    values = item.values() if isinstance(item, dict) else item
    return [value for value in values if isinstance(value, (dict, list))]


def _too_deep(where: str | os.PathLike[str]) -> StudioError:
    return unreadable(where, f"is nested deeper than {DEEPEST} levels", fix="It is damaged, or no such file.")


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text[:80])
