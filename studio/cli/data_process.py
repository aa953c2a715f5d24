"""`studio data process`: poses for plain photos or a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from studio.cli.arguments import NonNegativeInt, OptionalPositiveInt, PositiveInt, parse
from studio.cli.console import err, out, print_json, progress, shown

if TYPE_CHECKING:
    from studio.reconstruction import ProcessReport

_LISTED = 20


@dataclass
class Process:
    """Find the camera poses of plain photos, or of the sharpest frames of a video, by structure from motion (COLMAP),
    and write a scene that `studio train` takes: pinhole photos, cameras and points, and registration.json, which says
    what became of each photo. Needs pip install 'neural-studio[sfm]'."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PHOTOS|VIDEO")]
    """A folder of photos of one place, or a video of it."""
    output: Path
    """Folder of the scene; appears when all is done."""
    frames: PositiveInt = 100
    """Frames to take of a video: the sharpest one of each of as many equal parts."""
    matching: Literal["auto", "exhaustive", "sequential"] = "auto"
    """exhaustive: compare all pairs of photos; sequential: neighbours in the order of their names, and some farther
    apart; auto: sequential for videos of more than 50 frames."""
    quality: Literal["quick", "default", "high"] = "default"
    """Look for features in photos of 800, 1600 or 3200 pixels, and keep 2048, 8192 or 16384 of each."""
    lens: Literal["radial", "opencv", "fisheye"] = "radial"
    """Distortion to calibrate: one coefficient, four, or a fisheye's four."""
    max_size: OptionalPositiveInt = None
    """Longest side of the photos in the scene, in pixels; default: as they are."""
    seed: NonNegativeInt = 0
    """Of all random choices."""
    overwrite: bool = False
    """Replace a scene that this command made before."""
    json: bool = False
    """Print the report as JSON, and nothing else on standard output."""


def main(argv: Sequence[str]) -> int:
    """Find poses, and say of which photos and where the scene is."""
    request = parse(Process, argv, prog="studio data process", positionals=1)
    from studio.reconstruction import ProcessOptions, process

    folder = request.output.expanduser()
    report = process(
        Path(request.source).expanduser(),
        folder,
        ProcessOptions(
            frames=request.frames,
            matching=request.matching,
            quality=request.quality,
            lens=request.lens,
            max_size=request.max_size,
            seed=request.seed,
            overwrite=request.overwrite,
        ),
        progress,
    )
    _tell(report)
    if request.json:
        print_json(report.to_dict())
        return 0
    err().print(f"next: studio train splat {shown(folder)}", markup=False)
    out().print(shown(folder), markup=False)
    return 0


def _tell(report: ProcessReport) -> None:
    console = err()
    taken = "" if report.video_frames is None else f" of {report.video_frames:,} frames"
    console.print(
        f"{len(report.registered)} of {len(report.photos)} photos{taken} have poses; {report.points:,} points, "
        f"{report.reprojection_error:.2f} pixels mean reprojection error",
        markup=False,
    )
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    missing = report.unregistered
    for photo in missing[:_LISTED]:
        console.print(f"no pose: {photo.name}: {photo.reason}", markup=False)
    if len(missing) > _LISTED:
        console.print(f"... and {len(missing) - _LISTED} more, in registration.json", markup=False)
