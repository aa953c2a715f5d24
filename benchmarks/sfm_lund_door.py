"""How well `studio data process` finds the poses of twelve real photos, against the model that comes with them.

    python benchmarks/sfm_lund_door.py
    python benchmarks/sfm_lund_door.py --quality quick default high

Writes results/sfm_lund_door.json. Needs the extra sfm (pycolmap) and the photos of lund_door.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from harness import DATA, RESULTS, Report, peak_memory

from studio.readers import load_scene
from studio.reconstruction import ProcessOptions, align_similarity, process

PROTOCOL = (
    "The photos alone are given to `studio.reconstruction.process`; what it writes is read as any scene. Camera "
    "centres are brought onto those of the given model by the similarity that fits best (Umeyama 1991); errors are "
    "distances from them, in percent of the scene's extent (1.1 x the largest distance of a given camera from their "
    "mean). Rotation errors are those after the rotation of that similarity. Wall-clock seconds of everything, from "
    "reading the photos to the finished scene; memory is the peak of this process."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality", nargs="+", default=["default"], choices=["quick", "default", "high"])
    parser.add_argument("--data", type=Path, default=DATA / "lund_door")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    arguments = parser.parse_args()
    report = Report(
        "sfm_lund_door",
        title="Poses of lund_door from photos alone",
        protocol=PROTOCOL,
        settings=vars(arguments),
        folder=arguments.results,
    )
    for quality in arguments.quality:
        report.add(**measure(arguments.data, quality))
    report.print()


def measure(data: Path, quality: str) -> dict[str, object]:
    """One row: find the poses, and compare."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "scene")
        started = time.perf_counter()
        found = process(data / "images", folder, ProcessOptions(quality=quality))  # type: ignore[arg-type]
        seconds = time.perf_counter() - started
        poses = _poses(folder)
    given = _poses(data)
    names = sorted(set(poses) & set(given))
    ours, theirs = torch.stack([poses[n] for n in names]), torch.stack([given[n] for n in names])
    map_to = align_similarity(ours[:, :3, 3], theirs[:, :3, 3])
    extent = load_scene(data, normalize="none", eval_every=0).camera_extent
    errors = (map_to.points(ours[:, :3, 3]) - theirs[:, :3, 3]).norm(dim=-1) / extent * 100
    turns = map_to.rotation @ ours[:, :3, :3] @ theirs[:, :3, :3].transpose(-1, -2)
    cosines = ((turns.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1) / 2).clamp(-1, 1)
    return {
        "quality": quality,
        "photos": len(found.photos),
        "registered": len(found.registered),
        "models": len(found.models),
        "points": found.points,
        "reprojection_error_pixels": found.reprojection_error,
        "centre_error_mean_percent": float(errors.mean()),
        "centre_error_max_percent": float(errors.max()),
        "rotation_error_max_degrees": float(cosines.acos().rad2deg().max()),
        "seconds": seconds,
        "peak_memory_gib": peak_memory() / 2**30,
        "found_with": found.settings,
    }


def _poses(folder: Path) -> dict[str, torch.Tensor]:
    """File name -> camera to world, float64, in the model's own frame."""
    scene = load_scene(folder, normalize="none", eval_every=0)
    return {frame.image_path.stem: frame.camera.camera_to_world.double() for frame in scene.frames}


if __name__ == "__main__":
    main()
