"""`studio doctor`: what this machine offers, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from studio.cli.arguments import parse
from studio.cli.console import print_json

if TYPE_CHECKING:
    from studio.devices.report import DoctorReport


@dataclass
class Doctor:
    """Show devices, memory, disk space and optional packages: available, or the reason why not and what helps."""

    json: bool = False
    """Print a list of objects (group, name, status, summary, fix, details) instead of a table."""
    runs: Path = Path("runs")
    """Folder of the runs, whose disk space is shown."""
    clear_kernels: bool = False
    """Delete the compiled kernels that are kept, of all versions and processors; the next use compiles them anew."""


def main(argv: Sequence[str], started: float) -> int:
    """Print the report; 1 if the studio cannot work."""
    request = parse(Doctor, argv, prog="studio doctor")
    if request.clear_kernels:
        from studio.cli.console import out
        from studio.devices.host_memory import format_bytes
        from studio.kernels.folder import clear

        files, size = clear()
        out().print(f"deleted {files} compiled kernels, {format_bytes(size)}", markup=False)
        return 0
    return 0 if doctor(request.json, runs=request.runs) else 1


def doctor(json: bool = False, *, runs: Path = Path("runs")) -> bool:
    """Examine the machine and print the report.

    Args:
        json: As a list of objects instead of a table.
        runs: Folder of the runs.

    Returns:
        Whether all is there that the studio cannot do without.
    """
    from studio.devices.report import examine

    report = examine(runs)
    if json:
        print_json(report.to_json())
    else:
        _print(report)
    return report.healthy


def _print(report: DoctorReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    marks = {
        "ok": ("ok", "green"),
        "unavailable": ("--", "dim"),
        "warning": ("!", "yellow"),
        "error": ("x", "bold red"),
    }
    titles = {"system": "System", "device": "Devices", "storage": "Storage", "backend": "Optional packages"}
    console = Console(highlight=False)
    for group, title in titles.items():
        rows = [finding for finding in report.findings if finding.group == group]
        if not rows:
            continue
        table = Table(
            title=title, title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 1)
        )
        for finding in rows:
            # Text, not markup: a path may contain brackets.
            summary = Text(finding.summary, overflow="fold")
            if finding.fix:
                summary.append(f"\n{finding.fix}", style="cyan")
            table.add_row(Text(*marks[finding.status]), Text(finding.name, no_wrap=True), summary)
        console.print(table)
        console.print()
