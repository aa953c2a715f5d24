"""`studio plugins new`: a plugin package that trains, tests and installs as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from studio.cli.arguments import parse
from studio.cli.console import out, shown


@dataclass
class New:
    """Start a plugin of your own: a folder with an installable package, a small model that trains, its test, a README
    and a licence. Change what you like; nothing in it is generated again."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """What users will type: lower-case letters, digits, '-' and '_'."""
    kind: Literal["generator", "field", "reader"] = "generator"
    """generator: a model of samples; field: a model of scenes; reader: a format of posed photos."""
    license: Literal["MIT", "Apache-2.0", "BSD-3-Clause", "none"] = "MIT"
    """Under which others may use it; none: no licence, all rights reserved."""
    author: str | None = None
    """Whose it is; default: "The NAME authors"."""
    output: Path = Path(".")
    """The folder NAME is made in here."""


def main(argv: Sequence[str], started: float) -> int:
    """Write the package, and say how to go on."""
    request = parse(New, argv, prog="studio plugins new", positionals=1)
    from studio.templates.package import DATA, write_package

    folder = write_package(
        request.output.expanduser(), request.name, request.kind, license=request.license, author=request.author
    )
    where = shown(folder)
    console = out()
    console.print(f"{where}: a {request.kind} named '{request.name}'\nnext:", markup=False)
    data = DATA[request.kind]
    use = f"studio train {request.name} {data}" if request.kind != "reader" else f"studio data info {data}"
    check = f"studio plugins check {request.name}" + (f" --data {data}" if request.kind == "reader" else "")
    for command in (f"pip install -e {where}", check, use):
        console.print(f"  {command}", style="cyan", markup=False)
    return 0
