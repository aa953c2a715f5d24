"""The panel that lists runs: a table to filter and sort, two of them side by side, and opening one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import viser

from studio.catalog import RunRecord, compare_runs, find_runs, parse_filter, select_runs, sort_runs
from studio.catalog.showing import show_main_metric, show_size, show_steps, show_value
from studio.errors import StudioError

_SORTS = ("time", "psnr", "loss", "step", "seconds", "size", "plugin", "data")
_NONE = "none"
_MOST_ROWS = 60
_COLORS = {"running": "#3fa45b", "stopped": "#c98a1b", "damaged": "#d9534f"}
_TABLE = "width:100%;border-collapse:collapse;font-size:0.78em;font-variant-numeric:tabular-nums"
_CELL = "padding:0.25em 0.4em;border-top:1px solid rgba(128,128,128,.3);overflow-wrap:anywhere;vertical-align:top"


class RunsPanel:
    """The runs of a folder on a viser page, as `studio runs` lists them.

    Args:
        gui: Where to put it.
        root: Folder of the runs.
        open_run: Called in a thread of its own with the path of the run to show; may raise StudioError.
    """

    def __init__(self, gui: viser.GuiApi, root: Path, open_run: Callable[[Path], None]) -> None:
        self._root = root
        self._open_run = open_run
        self._runs: list[RunRecord] = []
        self._guard = threading.Lock()
        self._filter = gui.add_text("Filter", "", hint="Such as plugin=splat psnr>30")
        self._sort = gui.add_dropdown("Sort by", _SORTS)
        self._reverse = gui.add_checkbox("Reverse", False)
        look = gui.add_button("Look again")
        self._table = gui.add_html("")
        self._chosen = gui.add_dropdown("Run", (_NONE,))
        opening = gui.add_button("Open")
        self._other = gui.add_dropdown("Compare with", (_NONE,))
        self._comparison = gui.add_html("")
        self._status = gui.add_html("")
        for handle in (self._filter, self._sort, self._reverse):
            handle.on_update(lambda event: self._show())
        look.on_click(lambda event: self.refresh())
        opening.on_click(lambda event: self._open())
        self._chosen.on_update(lambda event: self._compare())
        self._other.on_update(lambda event: self._compare())
        self.refresh()

    def refresh(self) -> None:
        """Look through the folder again."""
        try:
            runs = find_runs(self._root)
        except StudioError as error:
            self._tell(str(error))
            return
        with self._guard:
            self._runs = runs
        self._show()

    def _show(self) -> None:
        """The table and the lists, as filter and order say."""
        with self._guard:
            runs = self._runs
            try:
                shown = select_runs(runs, [parse_filter(text) for text in str(self._filter.value).split()])
                field = str(self._sort.value)
                known = any(run.get(field) is not None for run in shown)
                shown = sort_runs(shown, field, reverse=bool(self._reverse.value)) if known else shown
            except StudioError as error:
                self._tell(str(error))
                return
            self._tell("")
            _set(self._table, "content", _runs_table(shown, len(runs)))
            names = (_NONE, *(run.name for run in shown))
            for handle in (self._chosen, self._other):
                kept = handle.value if handle.value in names else _NONE
                _set(handle, "options", names)
                _set(handle, "value", kept)

    def _run(self, handle: Any) -> RunRecord | None:
        return next((run for run in self._runs if run.name == handle.value), None)

    def _compare(self) -> None:
        one, other = self._run(self._chosen), self._run(self._other)
        content = "" if one is None or other is None or one is other else _comparison_table((one, other))
        _set(self._comparison, "content", content)

    def _open(self) -> None:
        run = self._run(self._chosen)
        if run is None:
            self._tell("Choose a run.")
            return
        self._tell("")

        def work() -> None:
            try:
                self._open_run(run.path)
            except StudioError as error:
                self._tell(str(error))
            except Exception as error:
                self._tell(f"{type(error).__name__}: {error}")

        # The page may be built anew meanwhile, this panel with it.
        threading.Thread(target=work, name="open-run", daemon=True).start()

    def _tell(self, text: str) -> None:
        line = f'<p style="color:#d9534f;margin:0.5em">{escape(" ".join(text.split()))}</p>' if text else ""
        _set(self._status, "content", line)


def _runs_table(runs: Sequence[RunRecord], of: int) -> str:
    if not runs:
        return f'<p style="margin:0.5em">{"No run passes." if of else "There is no run yet."}</p>'
    rows = []
    for run in runs[:_MOST_ROWS]:
        color = _COLORS.get(run.status)
        status = f'<span style="color:{color}">{run.status}</span>' if color else run.status
        preset = f" <i>{escape(run.preset)}</i>" if run.preset else ""
        about = f"{escape(show_steps(run))} steps, {show_size(run.size)}" if not run.problem else escape(run.problem)
        rows.append(
            f'<tr><td style="{_CELL}">{escape(run.name)}{preset}<br><small>{status} · {about}</small></td>'
            f'<td style="{_CELL};text-align:right;white-space:nowrap">{escape(show_main_metric(run))}</td></tr>'
        )
    more = f"<p>and {len(runs) - _MOST_ROWS} more</p>" if len(runs) > _MOST_ROWS else ""
    return f'<table style="{_TABLE}">{"".join(rows)}</table>{more}'


def _comparison_table(runs: Sequence[RunRecord]) -> str:
    """Settings that differ, and figures with the best one bold."""
    comparison = compare_runs(runs)

    def row(name: str, cells: Sequence[str], head: bool = False) -> str:
        kind = "th" if head else "td"
        filled = "".join(f'<{kind} style="{_CELL};text-align:right">{cell}</{kind}>' for cell in cells)
        return f'<tr><{kind} style="{_CELL};text-align:left">{escape(name)}</{kind}>{filled}</tr>'

    rows = [row("", [escape(name) for name in comparison.names], head=True)]
    for name, values in comparison.settings.items():
        rows.append(row(name, [escape(show_value(value)) or "–" for value in values]))
    for name, figures in comparison.metrics.items():
        best = comparison.best(name)
        cells = [show_value(value) or "–" for value in figures]
        rows.append(row(name, [f"<b>{cell}</b>" if i == best else cell for i, cell in enumerate(cells)]))
    return f'<table style="{_TABLE}">{"".join(rows)}</table>'


def _set(handle: Any, name: str, value: Any) -> None:
    """Change a control; one that is gone, as the page shows something else by now, is left alone."""
    with contextlib.suppress(RuntimeError):
        setattr(handle, name, value)
