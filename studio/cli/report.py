"""`studio report`: one page about a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from studio.cli.arguments import NonNegativeInt, parse
from studio.cli.console import err, out, shown
from studio.errors import StudioError


@dataclass
class Report:
    """Write one web page about a run: curves, photos against renders with their errors or samples, figures, settings,
    environment. The page is a single file that needs nothing else; figures of all held-out photos are those of
    `studio eval`.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or one above it, whose newest run is taken."""
    output: Path | None = None
    """*.html; default: report.html in the run's folder."""
    photos: NonNegativeInt = 6
    """Held-out photos to render and show; 0: none."""
    samples: bool = True
    """Draw samples of a generator."""
    seed: NonNegativeInt = 0
    """Of the samples."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""


def main(argv: Sequence[str], started: float) -> int:
    """Write the page and say where it is."""
    request = parse(Report, argv, prog="studio report", positionals=1)
    if request.output is not None and request.output.suffix.lower() not in (".html", ".htm"):
        raise StudioError(f"{request.output}: a report is an .html file.", fix="Choose that ending.")
    from studio.devices import apply_threads
    from studio.report import ReportOptions, collect_report, write_document
    from studio.training.run import RunFolder

    apply_threads()
    folder = RunFolder.open(request.run)
    options = ReportOptions(photos=request.photos, samples=request.samples, seed=request.seed, device=request.device)
    document = collect_report(folder, options, tell=lambda text: err().print(text, markup=False))
    for note in document.notes:
        err().print(f"note: {note}", markup=False)
    target = request.output.expanduser() if request.output else folder.path / "report.html"
    write_document(target, document)
    out().print(shown(target), markup=False)
    return 0
