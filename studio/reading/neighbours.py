"""What somebody may have meant who named a file or folder that is not there."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

_MOST_NAMES = 2000
"""Names of a folder that are compared at most."""


def nearest_path(path: Path) -> Path | None:
    """The existing path that differs from `path` by one misspelt name; None where nothing looks like it."""
    path = path.expanduser()
    if os.path.lexists(path):
        return None
    there, *missing = _first_missing(path)
    if not missing:
        return None
    try:
        with os.scandir(there) as entries:
            names = [entry.name for entry, _ in zip(entries, range(_MOST_NAMES), strict=False)]
    except OSError:
        return None
    # Whoever leaves out or mixes up letters keeps most of them; in capitals or not makes no difference.
    near = difflib.get_close_matches(missing[0].lower(), {name.lower() for name in names}, n=1, cutoff=0.7)
    if not near:
        return None
    name = next(name for name in sorted(names) if name.lower() == near[0])
    found = Path(there, name, *missing[1:])
    return found if os.path.exists(found) else None


def meant(path: Path, otherwise: str) -> str:
    """What to do about a path that is not there: the nearest one, or what is said otherwise."""
    near = nearest_path(path)
    return f"Did you mean {near}?" if near is not None else otherwise


def _first_missing(path: Path) -> tuple[str, ...]:
    """The longest part that is a folder, and the names behind it."""
    parts = path.parts
    for count in range(len(parts) - 1, -1, -1):
        there = Path(*parts[:count]) if count else Path()
        if there.is_dir():
            return (str(there), *parts[count:])
    return ("",)
