"""Choosing among runs: comparisons such as plugin=splat or psnr>30, and the order of a list."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from studio.catalog.records import FACTS, LOWER_IS_BETTER, RunRecord
from studio.errors import StudioError

_TERM = re.compile(r"\s*([\w.-]+?)\s*(!=|>=|<=|=|>|<|~)\s*(.*?)\s*")
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip


@dataclass(frozen=True)
class Filter:
    """One comparison of a field with a value."""

    field: str
    relation: str
    """=, !=, >, >=, <, <=, or ~ for 'contains'."""
    value: str

    def accepts(self, run: RunRecord) -> bool:
        """Whether the comparison holds; never for a run without the field."""
        have = run.get(self.field)
        if have is None:
            return False
        if self.relation == "~":
            return self.value.casefold() in str(have).casefold()
        number = _as_number(self.value)
        pair: tuple[object, object] = (str(have).casefold(), self.value.casefold())
        if number is not None and isinstance(have, (int, float)) and not isinstance(have, bool):
            pair = (float(have), number)
        elif self.relation in _ORDER and self.field != "time":
            return False
        if self.relation in ("=", "!="):
            return (pair[0] == pair[1]) == (self.relation == "=")
        return _ORDER[self.relation](*pair)


def parse_filter(text: str) -> Filter:
    """Read FIELD, a relation and VALUE, such as plugin=splat, psnr>30, time>=2026-11-01, data~room.

    Raises:
        StudioError: Not of this form, or an order where the value is no number.
    """
    match = _TERM.fullmatch(text)
    if match is None or not match[3]:
        raise StudioError(
            f"--filter '{text}': is no comparison.", fix="Write 'plugin=splat', 'psnr>30' or 'name~room', in quotes."
        )
    found = Filter(match[1], match[2], match[3])
    if found.relation in _ORDER and _as_number(found.value) is None and found.field != "time":
        raise StudioError(f"--filter '{text}': '{found.value}' is not a number.", fix="Use = or ~ for texts.")
    return found


def select_runs(runs: Sequence[RunRecord], filters: Sequence[Filter]) -> list[RunRecord]:
    """Those that pass all filters, in their order.

    Raises:
        StudioError: A field that none of the runs has.
    """
    for filter in filters:
        _require_field(runs, filter.field, "--filter")
    return [run for run in runs if all(filter.accepts(run) for filter in filters)]


def sort_runs(runs: Sequence[RunRecord], field: str, *, reverse: bool = False) -> list[RunRecord]:
    """Best, newest or largest first; texts from A to Z. Runs without the field come last in either direction.

    Raises:
        StudioError: A field that none of the runs has.
    """
    _require_field(runs, field, "--sort")
    values = [(run.get(field), run) for run in runs]
    numbers = [(float(v), r) for v, r in values if isinstance(v, (int, float))]
    texts = [(v, r) for v, r in values if isinstance(v, str)]
    numbers.sort(key=lambda pair: pair[0], reverse=(field not in LOWER_IS_BETTER) != reverse)
    texts.sort(key=lambda pair: pair[0], reverse=(field == "time") != reverse)
    return [r for _, r in numbers] + [r for _, r in texts] + [r for v, r in values if v is None]


def _require_field(runs: Sequence[RunRecord], field: str, option: str) -> None:
    known = dict.fromkeys(
        [*FACTS, *(n for run in runs for n in run.metrics), *(n for run in runs for n in run.settings)]
    )
    if runs and field not in known:
        near = difflib.get_close_matches(field, known, n=1)
        raise StudioError(
            f"{option}: no run has a field '{field}'.",
            fix=f"Did you mean '{near[0]}'?" if near else f"For example {', '.join(list(known)[:14])}.",
        )


def _as_number(text: str) -> float | None:
    try:
        return float(text.replace("_", "").replace(",", ""))
    except ValueError:
        return None
