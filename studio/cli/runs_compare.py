"""`studio runs compare`: what runs were told differently, and how they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from studio.catalog.showing import show_size, show_value
from studio.cli.arguments import format_duration, parse
from studio.cli.console import out, print_json


@dataclass
class Compare:
    """Put runs side by side: the settings that differ, and all figures, the best of each bold."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, or folders above them, whose newest runs are taken."""
    json: bool = False
    """Print JSON, and nothing else on standard output."""


def main(argv: Sequence[str], started: float) -> int:
    """Print the comparison."""
    request = parse(Compare, argv, prog="studio runs compare", positionals=max(len(argv), 1))
    from studio.catalog import compare_runs, read_run
    from studio.training.run import RunFolder

    comparison = compare_runs([read_run(RunFolder.open(path).path) for path in request.runs])
    if request.json:
        print_json(comparison.to_dict())
        return 0
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", pad_edge=False)
    table.add_column("", overflow="fold")
    for name in comparison.names:
        table.add_column(Text(name), justify="right", overflow="fold")

    def section(title: str, rows: dict[str, Any]) -> None:
        table.add_row(Text(title, style="dim"))
        for name, cells in rows.items():
            table.add_row(Text(f"  {name}"), *cells)

    section("settings", {name: map(_cell, values) for name, values in comparison.settings.items()})
    figures = {}
    for name, values in comparison.metrics.items():
        best = comparison.best(name)
        figures[name] = [Text(show_value(v), style="bold" if i == best else "") for i, v in enumerate(values)]
    section("figures", figures)
    facts = dict(comparison.facts)
    shown = {"size": show_size, "seconds": format_duration}
    section("run", {name: [shown.get(name, _cell)(v) for v in values] for name, values in facts.items()})
    out().print(table, soft_wrap=False)
    if comparison.left_out:
        out().print(f"note: {len(comparison.left_out)} settings that not all of these plugins have", style="dim")
    if len(set(facts["measured"])) > 1:
        out().print("note: some figures are of held-out data, some of the training", style="dim")
    return 0


def _cell(value: Any) -> str:
    return "-" if value is None or value == "" else show_value(value)
