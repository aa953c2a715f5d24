"""`studio data`: what is in a folder of posed photos or a data set; poses for plain photos; other programs' formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from studio.cli.arguments import parse, wants_help
from studio.cli.console import out, print_json
from studio.cli.train_arguments import DataOptions, ReaderOptions
from studio.errors import StudioError
from studio.reading.files import is_file, is_folder

_COMMANDS = {
    "info": "PATH [OPTIONS]",
    "process": "PHOTOS|VIDEO --output SCENE [OPTIONS]",
    "convert": "PATH --output FOLDER [--to transforms|colmap]",
}


@dataclass
class Info:
    """Show what is in a folder of posed photos: format, photos by split, sizes, cameras, distortion, bounds, points,
    and what is missing. A data set of samples (pictures, text, .npz, toy:NAME, shapes:SIZE) is described, too."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """The folder, a transforms*.json in it, or a data set as `studio train GENERATOR` takes it."""
    json: bool = False
    """Print JSON, and nothing else on standard output."""
    reader: tyro.conf.OmitArgPrefixes[ReaderOptions] = field(default_factory=ReaderOptions)
    dataset: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)


def main(argv: Sequence[str], started: float) -> int:
    """Dispatch `studio data ...`."""
    if not argv or (argv[0] not in _COMMANDS and wants_help(argv[:1])):
        usage = "\n       ".join(f"studio data {name} {rest}" for name, rest in _COMMANDS.items())
        out().print(f"usage: {usage}\n\nMore: studio data info --help", markup=False)
        return 0 if argv else 2
    if argv[0] not in _COMMANDS:
        raise StudioError(
            f"There is no command 'studio data {argv[0]}'.",
            fix=f"There is: {', '.join(f'studio data {name} PATH' for name in _COMMANDS)}.",
        )
    if argv[0] == "convert":
        from studio.cli.data_convert import main as convert

        return convert(argv[1:])
    if argv[0] == "process":
        from studio.cli.data_process import main as find_poses

        return find_poses(argv[1:])
    request = parse(Info, argv[1:], prog="studio data info", positionals=1)
    if _is_dataset(request.path):
        return _describe_dataset(request)
    from studio.readers import load_scene
    from studio.scene import render_summary, summarize

    summary = summarize(load_scene(request.path, **request.reader.to_dict()))
    if request.json:
        print_json(summary.to_dict())
    else:
        out().print(render_summary(summary), soft_wrap=False)
    return 0


def _is_dataset(text: str) -> bool:
    """Posed photos are folders with a file of cameras, or a .json file; everything else is a data set."""
    from studio.datasets import holds_samples, is_generated
    from studio.readers.detect import detect_reader, holds_scene_files

    path = Path(text).expanduser()
    if is_generated(text):
        return True
    if is_folder(path):
        try:
            detect_reader(path)
        except StudioError:
            # What is wrong with a scene is told by its readers.
            return holds_samples(path) and not holds_scene_files(path)
        return False
    return is_file(path) and path.suffix != ".json"


def _describe_dataset(request: Info) -> int:
    from studio.datasets import TextDataset, describe_dataset, load_dataset

    train, test = (load_dataset(request.path, split=split, **request.dataset.reader()) for split in ("train", "test"))
    facts: dict[str, Any] = {
        "name": train.name,
        "samples": len(train),
        "test_samples": len(test),
        "sample_shape": list(train.sample_shape),
        "num_classes": train.num_classes,
        "class_names": list(train.class_names),
        "captions": list(train.captions[:3]),
        "notes": list(train.notes),
    }
    held_out = f"{len(test):,}"
    if isinstance(train, TextDataset) and isinstance(test, TextDataset):
        facts |= {"lines": train.lines, "characters": train.characters, "test_characters": test.characters}
        held_out = f"{test.characters:,} characters"
    if request.json:
        print_json(facts)
        return 0
    console = out()
    console.print(f"{describe_dataset(train)}; held out: {held_out}", markup=False)
    if train.class_names:
        console.print(f"classes: {', '.join(train.class_names)}", markup=False)
    for caption in facts["captions"]:
        console.print(f"caption: {caption}", markup=False)
    for note in train.notes:
        console.print(f"note: {note}", markup=False)
    return 0
