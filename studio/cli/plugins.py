"""`studio plugins`: what is installed, what each plugin can do, and why one cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from studio.cli.arguments import parse
from studio.cli.console import out, print_json
from studio.registry import PluginEntry, list_plugins


@dataclass
class Plugins:
    """List the plugins, broken ones with the reason. No plugin is loaded for it."""

    json: bool = False
    """Print a list of objects (name, kind, version, distribution, summary, capabilities, devices, presets, status,
    reason) instead of a table."""
    refresh: bool = False
    """Read every plugin's declaration again instead of the remembered one."""


def main(argv: Sequence[str], started: float) -> int:
    """Print the list."""
    request = parse(Plugins, argv, prog="studio plugins")
    entries = list_plugins(refresh=request.refresh)
    if request.json:
        print_json([entry.to_dict() for entry in entries])
        return 0
    _print_table(entries)
    return 0


def _print_table(entries: Sequence[PluginEntry]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = out()
    if not entries:
        console.print("No plugins are installed.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("plugin", style="bold", no_wrap=True)
    for title in ("kind", "can", "devices", "presets"):
        table.add_column(title)
    table.add_column("about", overflow="fold")
    for entry in entries:
        spec = entry.spec if entry.status == "ok" else None
        if spec is None:
            about = Text(f"cannot be used: {entry.reason} ({entry.distribution})", style="red")
            table.add_row(Text(entry.name), "", "", "", "", about)
            continue
        cells = [spec.kind, ", ".join(spec.all_capabilities()), ", ".join(spec.devices), ", ".join(spec.presets)]
        about = Text(spec.summary)
        about.append(f"  {entry.distribution} {entry.version}", style="dim")
        # Text, not markup: names and summaries may hold brackets.
        table.add_row(Text(entry.name), *map(Text, cells), about)
    console.print(table, soft_wrap=False)
    console.print("\nA plugin's options: studio train PLUGIN --help; its networks: studio info PLUGIN", style="dim")
