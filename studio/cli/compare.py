"""`studio compare`: the figures of several runs side by side, as a table and as a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from studio.cli.arguments import parse
from studio.cli.console import out, print_json, shown
from studio.errors import StudioError

if TYPE_CHECKING:
    from rich.table import Table

    from studio.metrics.generator_report import GeneratorReport


@dataclass
class Compare:
    """Put the figures of several generators side by side: quality, variety and speed. Measure each run first with
    `studio eval`, on the same data and with the same number of samples."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, or folders above them, whose newest runs are taken."""
    output: Path = Path("comparison.png")
    """The figure: *.png."""
    json: bool = False
    """Print JSON, and nothing else on standard output."""


@dataclass(frozen=True)
class Entry:
    """One run."""

    name: str
    path: Path
    data: str
    report: GeneratorReport


def main(argv: Sequence[str], started: float) -> int:
    """Compare, print the table and save the figure."""
    request = parse(Compare, argv, prog="studio compare", positionals=max(len(argv), 1))
    entries = _named([_read(path) for path in request.runs])
    kinds = {entry.report.kind for entry in entries}
    if len(kinds) > 1:
        raise StudioError(f"These runs make different things ({', '.join(sorted(kinds))}).", fix="Compare equal kinds.")
    notes = _differences(entries)
    if request.json:
        rows = [{"name": e.name, "run": str(e.path), "data": e.data, **e.report.to_dict()} for e in entries]
        print_json({"runs": rows, "notes": notes})
    else:
        out().print(comparison_table(entries), soft_wrap=False)
        for note in notes:
            out().print(f"note: {note}", markup=False)
    save_comparison(request.output.expanduser(), entries)
    if not request.json:
        out().print(shown(request.output), markup=False)
    return 0


def _read(path: Path) -> Entry:
    from studio.metrics.generator_report import figures_from_json
    from studio.training.run import RunFolder

    run = RunFolder.open(path)
    config = run.read_config()
    if config.kind != "generator":
        raise StudioError(f"{run.path}: a run of '{config.plugin}', a scene; this compares generators.")
    if not run.eval_file.is_file():
        raise StudioError(f"{run.path}: has not been measured yet.", fix=f"studio eval {shown(run.path)}")
    text = run.eval_file.read_text(encoding="utf-8")
    report = figures_from_json(text, str(run.eval_file))
    name = config.plugin if config.preset in (None, "default") else f"{config.plugin} {config.preset}"
    return Entry(name, run.path, str(json.loads(text).get("data", "")), report)


def _named(entries: list[Entry]) -> list[Entry]:
    """Equal names are told apart by the names of the run folders."""
    names = [entry.name for entry in entries]
    return [
        Entry(f"{e.name} {e.path.name}", e.path, e.data, e.report) if names.count(e.name) > 1 else e for e in entries
    ]


def _differences(entries: Sequence[Entry]) -> list[str]:
    """What makes figures hard to compare, one line each."""
    notes = []
    for what, values in (
        ("data", {entry.data for entry in entries}),
        ("samples", {entry.report.protocol.get("samples") for entry in entries}),
        ("features", {entry.report.protocol.get("features") for entry in entries}),
    ):
        if len(values) > 1:
            notes.append(f"the runs were measured with different {what}: {', '.join(sorted(map(str, values)))}")
    return notes


def _shared_figures(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(name for entry in entries for name in entry.report.figures))


def comparison_table(entries: Sequence[Entry]) -> Table:
    """A row a run, the best of each column bold."""
    from rich.table import Table
    from rich.text import Text

    from studio.metrics.generator_report import FIGURES, show_figure

    names = _shared_figures(entries)
    table = Table()
    table.add_column("run")
    for name in names:
        known = FIGURES.get(name)
        arrow = {"lower": " ↓", "higher": " ↑"}.get(known.better if known else "", "")
        table.add_column((known.name if known else name) + arrow, justify="right")
    for entry in entries:
        cells = [Text(entry.name)]
        for name in names:
            value = entry.report.figures.get(name)
            best = value is not None and len(entries) > 1 and value == _best(entries, name)
            cells.append(Text("-" if value is None else show_figure(name, value), style="bold" if best else ""))
        table.add_row(*cells)
    return table


def _best(entries: Sequence[Entry], name: str) -> float | None:
    from studio.metrics.generator_report import FIGURES

    values = [entry.report.figures[name] for entry in entries if name in entry.report.figures]
    better = FIGURES[name].better if name in FIGURES else ""
    return min(values) if better == "lower" else max(values) if better == "higher" else None


def save_comparison(path: Path, entries: Sequence[Entry]) -> None:
    """Bars of every figure, a panel each; the arrow shows which way is better."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from studio.files import atomic_write
    from studio.metrics.generator_report import FIGURES, show_figure

    if path.suffix.lower() != ".png":
        raise StudioError(f"{path}: the figure is a .png.", fix="Choose that ending.")
    names = _shared_figures(entries)
    columns = min(len(names), 4)
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.2 * columns, (0.9 + 0.35 * len(entries)) * lines), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    colors = ["#1f4e9c", "#c8553d", "#3a7d44", "#8d6a9f", "#d99b2b", "#4c9aa8"]
    for i, name in enumerate(names):
        axes: Any = figure.add_subplot(lines, columns, i + 1)
        values = [entry.report.figures.get(name) for entry in entries]
        places = range(len(entries))
        axes.barh(places, [value or 0.0 for value in values], color=[colors[j % len(colors)] for j in places])
        for place, value in zip(places, values, strict=True):
            text = "-" if value is None else show_figure(name, value)
            axes.annotate(
                text,
                (max(value or 0.0, 0.0), place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axes.set_yticks(list(places), [entry.name for entry in entries] if i % columns == 0 else [""] * len(entries))
        axes.invert_yaxis()
        numbers = [value for value in values if value is not None]
        low, high = min([0.0, *numbers]), max([0.0, *numbers])
        axes.set_xlim(1.05 * low, high + 0.35 * ((high - low) or 1.0))
        known = FIGURES.get(name)
        arrow = {"lower": " (lower is better)", "higher": " (higher is better)"}.get(known.better if known else "", "")
        axes.set_title((known.name if known else name) + arrow, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
