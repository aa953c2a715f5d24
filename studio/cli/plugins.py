"""`studio plugins`: what is installed and what each plugin can do, and what else other packages bring.

`new`, `check` and `why` have files of their own.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from studio.cli.arguments import parse
from studio.cli.console import out, print_json
from studio.errors import StudioError
from studio.extensions import ExtensionEntry, built_in_readers, list_extensions
from studio.registry import PluginEntry, list_plugins

_COMMANDS = {
    "new": ("studio.cli.plugins_new", "start a plugin of your own: a package that trains as it is"),
    "check": ("studio.cli.plugins_check", "find out whether a plugin does what it declares"),
    "why": ("studio.cli.plugins_why", "tell why a plugin cannot be used, with the traceback"),
}
_TITLES = ("name", "kind", "version", "distribution", "devices", "status")
_WIDE = 110
"""Columns from which on everything about a plugin fits into one row."""


@dataclass
class Plugins:
    """List the plugins and what else packages bring (readers, exporters, camera paths, metrics), broken ones with the
    reason. None is loaded for it."""

    json: bool = False
    """Print a list of objects (name, kind, version, distribution, summary, capabilities, devices, presets, status,
    reason) instead of a table."""
    refresh: bool = False
    """Read every plugin's declaration again instead of the remembered one."""


def main(argv: Sequence[str], started: float) -> int:
    """Print the list, or go on to `new`, `check` or `why`."""
    if argv and not argv[0].startswith("-"):
        if argv[0] not in _COMMANDS:
            near = difflib.get_close_matches(argv[0], _COMMANDS, n=1)
            raise StudioError(
                f"There is no command 'studio plugins {argv[0]}'.",
                fix=f"Did you mean 'studio plugins {near[0]}'?" if near else f"There are {', '.join(_COMMANDS)}.",
            )
        return int(importlib.import_module(_COMMANDS[argv[0]][0]).main(argv[1:], started))
    lines = "\n".join(f"  studio plugins {name} NAME: {about}" for name, (_, about) in _COMMANDS.items())
    request = parse(Plugins, argv, prog="studio plugins", description=f"{Plugins.__doc__}\n\nMore:\n{lines}")
    entries: list[PluginEntry | ExtensionEntry] = [
        *list_plugins(refresh=request.refresh),
        *built_in_readers(),
        *list_extensions(refresh=request.refresh),
    ]
    if request.json:
        print_json([entry.to_dict() for entry in entries])
        return 0
    _print_table(entries)
    return 0


def _print_table(entries: Sequence[PluginEntry | ExtensionEntry]) -> None:
    """One row a plugin; on a narrow screen what it can do, or what is wrong with it, stands on a line below."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = out()
    if not entries:
        console.print("No plugins are installed.")
        return
    rows = [_TITLES, *(_facts(entry) for entry in entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # Text, not markup: names and reasons may hold brackets.
    notes = [Text(_note(entry), style="dim" if entry.status == "ok" else "red") for entry in entries]
    if console.width >= _WIDE:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
        for title in _TITLES:
            table.add_column(title, no_wrap=True)
        table.add_column("can", overflow="fold")
        for row, note in zip(rows[1:], notes, strict=True):
            table.add_row(*map(Text, row), note)
        console.print(table, soft_wrap=False)
    else:
        for i, row in enumerate(rows):
            line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            console.print(Text(line, style="bold"), soft_wrap=False)
            if i > 0 and notes[i - 1]:
                console.print(Padding(notes[i - 1], (0, 0, 0, 4)), soft_wrap=False)
    console.print("\nOptions: studio train NAME --help   Networks: studio info NAME", style="dim", markup=False)
    if broken := [entry.name for entry in entries if entry.status != "ok"]:
        console.print(f"Tracebacks: studio plugins why {broken[0]}", style="dim", markup=False)


def _facts(entry: PluginEntry | ExtensionEntry) -> tuple[str, ...]:
    if isinstance(entry, ExtensionEntry):
        return entry.name, entry.kind, entry.version, entry.distribution, "", entry.status
    spec = entry.spec
    devices = " ".join(spec.devices) if spec else ""
    return entry.name, spec.kind if spec else "?", entry.version, entry.distribution, devices, entry.status


def _note(entry: PluginEntry | ExtensionEntry) -> str:
    if isinstance(entry, ExtensionEntry):
        return entry.reason or entry.summary
    if entry.status != "ok" or entry.spec is None:
        return entry.reason
    return ", ".join(entry.spec.all_capabilities())
