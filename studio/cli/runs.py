"""`studio runs`: the runs of a folder as a table; `compare` and `rm` have files of their own."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from studio.catalog.showing import show_main_metric, show_size, show_steps, show_value
from studio.cli.arguments import arguments_of, format_duration, parse
from studio.cli.console import out, print_json, shown

if TYPE_CHECKING:
    from studio.catalog import RunRecord

_COMMANDS = {
    "compare": ("studio.cli.runs_compare", "RUN RUN ...: settings that differ, and figures side by side"),
    "rm": ("studio.cli.runs_rm", "RUN ...: delete runs, after asking"),
}
_WIDE = 110
"""Columns from which on everything about a run fits into one row."""
_STYLES = {"running": "bold green", "finished": "", "stopped": "yellow", "damaged": "red"}


@dataclass
class Runs:
    """List the runs in a folder and below it: plugin, data, time, steps, status, main figure, training time, size.

    Figures are those of `studio eval` where a run has been measured, else of the end of its training, in brackets.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]")] = Path("runs")
    """Where to look."""
    filter: tuple[str, ...] = ()
    """Comparisons that must hold, in quotes: 'plugin=splat' 'psnr>30' 'data~room' 'time>=2026-11-01' 'status=running'.
    Fields are name, plugin, preset, data, kind, time, step, status, seconds, size (bytes), every figure, and every
    setting."""
    sort: str = "time"
    """Field to sort by: newest, best or largest first; texts from A to Z."""
    reverse: bool = False
    """The other way round."""
    json: bool = False
    """Print a list of objects, and nothing else on standard output."""


def main(argv: Sequence[str], started: float) -> int:
    """Print the list, or go on to `compare` or `rm`."""
    if argv and argv[0] in _COMMANDS:
        return int(importlib.import_module(_COMMANDS[argv[0]][0]).main(argv[1:], started))
    lines = "\n".join(f"  studio runs {name} {about}" for name, (_, about) in _COMMANDS.items())
    description = f"{Runs.__doc__}\n\nMore:\n{lines}"
    request = parse(Runs, argv, prog="studio runs", positionals=_folders(argv), description=description)
    from studio.catalog import find_runs, parse_filter, select_runs, sort_runs

    filters = [parse_filter(text) for text in request.filter]
    runs = find_runs(request.folder)
    chosen = sort_runs(select_runs(runs, filters), request.sort, reverse=request.reverse)
    if request.json:
        print_json([run.to_dict() for run in chosen])
        return 0
    if not chosen:
        of = f" of {len(runs):,}" if runs else ""
        out().print(f"No run{of} in {shown(request.folder)}{' passes' if runs else ''}.", markup=False)
        return 0
    _print_table(chosen, request)
    return 0


def _folders(argv: Sequence[str]) -> int:
    """Whether a folder is given, 0 or 1: the last value of --filter could be one, too."""
    places = arguments_of(Runs).positions(argv, 1)
    free = arguments_of(Runs).positions(argv, 0)
    return 1 if free or any(not re.search("[=<>~]", argv[place]) for place in places) else 0


def _print_table(runs: Sequence[RunRecord], request: Runs) -> None:
    """One row a run; on a narrow screen its facts stand on a line below its name."""
    from rich.table import Table
    from rich.text import Text

    extra = _asked_for(runs, request)
    console = out()
    wide = console.width >= _WIDE
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False, show_header=wide)
    table.add_column("run", overflow="fold")
    for title in ("status", "steps", "figure", *extra, "training", "size"):
        table.add_column(title, justify="left" if title == "status" else "right", no_wrap=True)
    for run in runs:
        name = Text.assemble(run.name, (f" ({run.preset})" if run.preset else "", "dim"))
        facts: list[str | Text] = [
            Text(run.status, style=_STYLES[run.status]),
            show_steps(run),
            show_main_metric(run),
            *(show_value(run.get(field)) for field in extra),
            format_duration(run.seconds) if run.seconds else "",
            show_size(run.size),
        ]
        if run.problem:
            name.append(f"\n{run.problem}", style="red")
        if wide:
            table.add_row(name, *facts)
            continue
        console.print(name)
        named = [f"{title} {show_value(run.get(title))}" for title in extra if run.get(title) is not None]
        below = [*facts[:3], *named, *facts[3 + len(extra) :]]
        console.print(Text("  ").join([Text(""), *(Text.assemble(fact) for fact in below if str(fact))]))
    if wide:
        console.print(table, soft_wrap=False)
    count = f"{len(runs):,} run{'s' if len(runs) != 1 else ''}"
    hint = f"\n{count}, {show_size(sum(run.size for run in runs))}   Side by side: studio runs compare RUN RUN"
    console.print(hint, style="dim", markup=False)


def _asked_for(runs: Sequence[RunRecord], request: Runs) -> list[str]:
    """Fields of filters and sorting that no column shows yet."""
    from studio.catalog import parse_filter

    shown_already = {"name", "plugin", "preset", "data", "time", "status", "step", "seconds", "size", "kind"}
    mains = {main[0] for run in runs if (main := run.main_metric) is not None}
    shown_already |= mains if len(mains) == 1 else set()
    fields = dict.fromkeys([*(parse_filter(text).field for text in request.filter), request.sort])
    return [field for field in fields if field not in shown_already]
