"""`studio runs rm`: delete runs, after asking."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from studio.catalog.showing import show_main_metric, show_size
from studio.cli.arguments import parse
from studio.cli.console import err, out, shown
from studio.errors import StudioError


@dataclass
class Remove:
    """Delete run folders with all that is in them. Data, and what links lead to, stays."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders themselves, not folders above them."""
    yes: bool = False
    """Do not ask."""


def main(argv: Sequence[str], started: float) -> int:
    """Ask and delete; 1 when the answer is no."""
    request = parse(Remove, argv, prog="studio runs rm", positionals=max(len(argv), 1))
    from studio.catalog import plan_removal

    removal = plan_removal(request.runs)
    for run in removal.runs:
        facts = "  ".join(filter(None, (show_size(run.size), run.status, show_main_metric(run))))
        out().print(f"{shown(run.path)}  {facts}", markup=False)
    count = len(removal.runs)
    what = f"{count} run{'s' if count > 1 else ''} ({show_size(removal.size)})"
    if not request.yes:
        if not sys.stdin.isatty():
            raise StudioError("Nobody can be asked here, so nothing was deleted.", fix="Give --yes if you are sure.")
        answer = input(f"Delete {what}? [y/N] ")
        if answer.strip().lower() not in ("y", "yes"):
            err().print("nothing was deleted")
            return 1
    removal.carry_out()
    out().print(f"deleted {what}", markup=False)
    return 0
