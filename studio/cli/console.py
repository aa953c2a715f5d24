"""What all commands share in talking to people: consoles, progress of long work, paths and JSON."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console


def out() -> Console:
    """Where results go."""
    return Console(highlight=False, soft_wrap=True)


def err() -> Console:
    """Where notes and progress go, so that standard output can be piped."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """Strict JSON on standard output."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def shown(path: Path) -> str:
    """A path as one would type it here: relative where that is shorter, quoted where the shell needs it."""
    absolute = str(path.expanduser().absolute())
    try:
        relative = os.path.relpath(absolute)
    except ValueError:  # another drive
        relative = absolute
    return shlex.quote(min(absolute, relative, key=len))


class Advance(Protocol):
    def __call__(self, figures: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int, console: Console | None = None) -> Iterator[Advance]:
    """A bar with speed and time left on a terminal, nothing elsewhere; call what it gives after each piece of work."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = console or err()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("ETA"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[figures]}"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task(title, total=total, speed="", figures="")

        def advance(figures: str = "") -> None:
            speed = bar.tasks[task].speed
            bar.update(task, advance=1, figures=figures, speed=f"{speed:.1f} it/s" if speed else "")

        yield advance
