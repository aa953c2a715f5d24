"""`studio data convert`: posed photos of any format as another program takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from studio.cli.arguments import parse
from studio.cli.console import err, out, shown
from studio.cli.train_arguments import ReaderOptions
from studio.errors import StudioError


@dataclass
class Convert:
    """Write posed photos of any format that is read as nerfstudio's transforms.json or COLMAP's text model.

    Cameras and points stay where they are in the input. Photos are not copied: transforms.json names them where they
    are, COLMAP's folder links to them.
    """

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """The folder of posed photos, or a transforms*.json in it."""
    output: Path
    """Folder to write; made if it is not there."""
    to: Literal["transforms", "colmap"] = "transforms"
    """transforms: transforms.json and points.ply; colmap: cameras.txt, images.txt and points3D.txt in sparse/0."""
    reader: tyro.conf.OmitArgPrefixes[ReaderOptions] = field(default_factory=ReaderOptions)


def main(argv: Sequence[str]) -> int:
    """Convert and say where it is."""
    request = parse(Convert, argv, prog="studio data convert", positionals=1)
    from studio.export.scene_files import write_scene
    from studio.readers import load_scene

    folder = request.output.expanduser()
    source = Path(request.path).expanduser()
    if folder.exists() and folder.resolve() == (source if source.is_dir() else source.parent).resolve():
        raise StudioError(f"{folder}: is the folder to convert.", fix="Give another one with --output.")
    # Not moved at all, so that nothing has to be undone.
    scene = load_scene(request.path, **{**request.reader.to_dict(), "normalize": "none", "double": True})
    notes = write_scene(scene, folder, request.to)
    for note in (*scene.notes, *notes):
        err().print(f"note: {note}", markup=False)
    points = f", {len(scene.points):,} points" if scene.points is not None else ""
    err().print(f"{len(scene.frames):,} photos{points}", markup=False)
    out().print(shown(folder), markup=False)
    return 0
