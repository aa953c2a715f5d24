"""`studio plugins check`: the conformance kit on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from studio.cli.arguments import parse
from studio.cli.console import err, out, print_json
from studio.errors import StudioError
from studio.registry import plugin_names

if TYPE_CHECKING:
    from studio.testing import Check, CheckReport

_STYLES = {"pass": "green", "fail": "bold red", "n/a": "dim"}


@dataclass
class CheckPlugin:
    """Find out whether a plugin does what it declares: build, train, save, restore and use it on small data.

    Exit code 1 when a check fails. The same is `studio.testing.check_plugin` for tests.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A name of `studio plugins`, or of a reader of posed photos."""
    device: str | None = None
    """cpu, cuda, cuda:N or mps; default: all that the plugin declares and that are here."""
    data: str | None = None
    """Generators: points, pictures, "captioned pictures" or text; default: the first that the plugin takes. Readers: a
    folder of posed photos in their format."""
    preset: str | None = None
    """Start from this preset."""
    json: bool = False
    """Print JSON, and nothing else on standard output."""


def main(argv: Sequence[str], started: float) -> int:
    """Check, a line for each check as it is done."""
    request = parse(CheckPlugin, argv, prog="studio plugins check", positionals=1)
    is_reader = request.name not in plugin_names() and _is_reader(request.name)
    if is_reader and request.data is None:
        raise StudioError(
            f"'{request.name}' reads posed photos.", fix="Name a folder of its format with --data FOLDER."
        )
    from studio.devices import apply_threads

    apply_threads()
    from studio.testing import check_plugin, check_reader

    console = out()

    def tell(check: Check) -> None:
        if not request.json:
            _print(check)

    report: CheckReport
    if is_reader:
        report = check_reader(request.name, Path(request.data or "").expanduser(), tell=tell)
    else:
        if not request.json:
            err().print(f"checking {request.name} on small data", style="dim", markup=False)
        report = check_plugin(request.name, device=request.device, data=request.data, preset=request.preset, tell=tell)
    if request.json:
        print_json(report.to_dict())
    else:
        counts = [f"{sum(c.status == status for c in report)} {word}" for status, word in _WORDS]
        style = "bold green" if report.passed else "bold red"
        console.print(f"\n{report.name}: {', '.join(counts)}", style=style, markup=False)
    return 0 if report.passed else 1


_WORDS = (("pass", "passed"), ("fail", "failed"), ("n/a", "not applicable"))


def _print(check: Check) -> None:
    from rich.text import Text

    console = out()
    line = Text.assemble((f"{check.status:4}", _STYLES[check.status]), f"  {check.title}")
    if check.message:
        line.append(f": {check.message}", style="" if check.status == "fail" else "dim")
    console.print(line)
    if check.fix:
        console.print(Text(f"      {check.fix}", style="cyan"))
    for trace in check.details.rstrip().splitlines():
        console.print(Text(f"      {trace}", style="dim"))


def _is_reader(name: str) -> bool:
    from studio.extensions import READERS, list_extensions

    return name in (*READERS, *(entry.name for entry in list_extensions("reader")))
