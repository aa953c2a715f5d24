"""`studio compare`: the figures of several generators as a table and a picture, or several scenes in one video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from studio.catalog import on_different_data, read_run
from studio.cli.arguments import OptionalPositiveFloat, OptionalPositiveInt, parse
from studio.cli.console import err, out, print_json, shown
from studio.errors import StudioError

if TYPE_CHECKING:
    from rich.table import Table

    from studio.metrics.generator_report import GeneratorReport


@dataclass
class Compare:
    """Put several runs side by side.

    Scenes: one camera path through all of them, as a video with labels. Generators: figures of quality, variety and
    speed; measure each run first with `studio eval`, on the same data and with the same number of samples. Settings
    and figures of any runs: `studio runs compare`.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, or folders above them, whose newest runs are taken."""
    output: Path | None = None
    """Scenes: *.mp4, *.gif or a folder; default comparison.mp4. Generators: *.png; default comparison.png."""
    path: str = "orbit"
    """Of scenes: orbit, spiral, interpolate, train, val, test, or a camera path FILE.json, as of `studio render`."""
    wipe: bool = False
    """Two scenes in one picture, with an edge that moves to and fro."""
    labels: tuple[str, ...] = ()
    """Of scenes: one a run; default: what tells them apart."""
    show: str = "rgb"
    """Of scenes: rgb, depth, opacity, normals, or whatever else all of the plugins render."""
    frames: OptionalPositiveInt = None
    """Of scenes: number of pictures; default: seconds times fps."""
    seconds: OptionalPositiveFloat = None
    """Of scenes: length of the video; default 4."""
    fps: OptionalPositiveFloat = None
    """Of scenes: pictures a second; default 30."""
    width: OptionalPositiveInt = None
    """Of scenes: width of one picture in pixels; default: as in training."""
    colormap: str = "turbo"
    """Of scenes: colours of depth."""
    device: str = "auto"
    """Of scenes: auto, cpu, cuda, cuda:N or mps."""
    json: bool = False
    """Of generators: print JSON, and nothing else on standard output."""


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
    if _are_scenes(request.runs):
        return _compare_scenes(request)
    entries = _named([_read(path) for path in request.runs])
    kinds = {entry.report.kind for entry in entries}
    if len(kinds) > 1:
        raise StudioError(f"These runs make different things ({', '.join(sorted(kinds))}).", fix="Compare equal kinds.")
    notes = _differences(entries)
    if on_different_data([read_run(entry.path) for entry in entries]):
        notes.append("the runs were trained on different data")
    if request.json:
        rows = [{"name": e.name, "run": str(e.path), "data": e.data, **e.report.to_dict()} for e in entries]
        print_json({"runs": rows, "notes": notes})
    else:
        out().print(comparison_table(entries), soft_wrap=False)
        for note in notes:
            out().print(f"note: {note}", markup=False)
    target = (request.output or Path("comparison.png")).expanduser()
    save_comparison(target, entries)
    if not request.json:
        out().print(shown(target), markup=False)
    return 0


def _are_scenes(paths: Sequence[Path]) -> bool:
    """Whether all of the runs are of scenes; raises StudioError where some are."""
    from studio.training.run import RunFolder

    kinds = {RunFolder.open(path).read_config().kind for path in paths}
    if len(kinds) > 1:
        raise StudioError("Some of these runs are scenes, some generators.", fix="Compare equal kinds.")
    return kinds == {"field"}


def _compare_scenes(request: Compare) -> int:
    if request.json:
        raise StudioError("--json: is of generators.", fix="studio runs compare RUN RUN --json")
    from studio.cli.compare_scenes import SceneComparison, write_comparison
    from studio.cli.render_path import PathOptions
    from studio.devices import apply_threads
    from studio.training.loaded import open_run

    apply_threads()
    runs = [open_run(path, device=request.device) for path in request.runs]
    options = PathOptions(
        path=request.path, frames=request.frames, seconds=request.seconds, fps=request.fps, width=request.width
    )
    what = SceneComparison(options, request.show, request.colormap, request.wipe, request.labels)
    target = (request.output or Path("comparison.mp4")).expanduser()
    write_comparison(target, runs, what, tell=lambda text: err().print(text, markup=False))
    out().print(shown(target), markup=False)
    return 0


def _read(path: Path) -> Entry:
    from studio.metrics.generator_report import figures_from_json
    from studio.reading.files import read_text
    from studio.reading.json_text import parse_json
    from studio.training.run import RunFolder

    run = RunFolder.open(path)
    config = run.read_config()
    if not run.eval_file.is_file():
        raise StudioError(f"{run.path}: has not been measured yet.", fix=f"studio eval {shown(run.path)}")
    text = read_text(run.eval_file)
    report = figures_from_json(text, str(run.eval_file))
    name = config.plugin if config.preset in (None, "default") else f"{config.plugin} {config.preset}"
    return Entry(name, run.path, str(parse_json(text, run.eval_file).get("data", "")), report)


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
