"""`studio data info`: what is in a folder of posed photos, or in a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from studio.cli.arguments import parse, wants_help
from studio.cli.console import out, print_json
from studio.cli.train_arguments import ReaderOptions
from studio.errors import StudioError


@dataclass
class Info:
    """Show what is in a folder of posed photos: format, photos by split, sizes, cameras, distortion, bounds, points,
    and what is missing. A data set of samples (.npz, toy:NAME) is described, too."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """The folder, a transforms*.json in it, a .npz file, or toy:NAME."""
    json: bool = False
    """Print JSON, and nothing else on standard output."""
    reader: tyro.conf.OmitArgPrefixes[ReaderOptions] = field(default_factory=ReaderOptions)


def main(argv: Sequence[str], started: float) -> int:
    """Dispatch `studio data ...`."""
    if not argv or (argv[0] != "info" and wants_help(argv[:1])):
        out().print("usage: studio data info PATH [OPTIONS]\n\nMore: studio data info --help", markup=False)
        return 0 if argv else 2
    if argv[0] != "info":
        raise StudioError(f"There is no command 'studio data {argv[0]}'.", fix="There is: studio data info PATH.")
    request = parse(Info, argv[1:], prog="studio data info", positionals=1)
    if request.path.startswith("toy:") or Path(request.path).suffix == ".npz":
        return _describe_dataset(request)
    from studio.readers import load_scene
    from studio.scene import render_summary, summarize

    summary = summarize(load_scene(request.path, **request.reader.to_dict()))
    if request.json:
        print_json(summary.to_dict())
    else:
        out().print(render_summary(summary), soft_wrap=False)
    return 0


def _describe_dataset(request: Info) -> int:
    from studio.datasets import load_dataset

    dataset = load_dataset(request.path)
    facts = {
        "name": dataset.name,
        "samples": len(dataset),
        "sample_shape": list(dataset.sample_shape),
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
    }
    if request.json:
        print_json(facts)
        return 0
    shape = "x".join(map(str, dataset.sample_shape))
    classes = f", {dataset.num_classes} classes" if dataset.num_classes else ""
    out().print(f"{dataset.name}: {len(dataset):,} samples of shape {shape}{classes}", markup=False)
    return 0
