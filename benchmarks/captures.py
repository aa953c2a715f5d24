"""How good real captures get in the first minutes, with no options but the budget: photos as people take them.

    python benchmarks/captures.py --minutes 1 5 --plugins splat ngp --posed /tmp/captures

Captures without poses are posed by `studio data process` into the folder --posed, once. Writes results/captures.json,
and for each training a sheet of photos and renders.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from harness import DATA, RESULTS, Report, gib, train_command
from torch import Tensor

from studio.devices import apply_threads
from studio.export.pictures import grid, save_picture
from studio.export.splat_formats import read_gaussians
from studio.metrics import psnr
from studio.metrics.evaluate import PhotoScore
from studio.scene import Photo
from studio.training.loaded import LoadedRun, open_run
from studio.training.start import TrainOptions, train

PROTOCOL = (
    "`studio train PLUGIN DATA --budget TIME` with its defaults and at the size of the photos that it chooses: every "
    "8th photo by name is held out. The budget begins with the process: loading the program, reading photos and "
    "finding first points count; compiling kernels and drawing previews do not. The last checkpoint is measured "
    "afterwards: mean of the held-out photos' PSNR, renders clamped and rounded to 8 bits, masked pixels left out. "
    "'without points': the scene's sparse points were taken away. Exported: the .ply and .spz of `studio export`, "
    "drawn by the float64 reference rasteriser with the dilation of other viewers, 0.3 square pixels; less the PSNR "
    "of `studio eval`."
)
_REFERENCE_PHOTOS = 2
"""The reference is slow."""


@dataclass(frozen=True)
class Capture:
    """A capture of the benchmark."""

    folder: str
    """In the folder of the data."""
    posed: bool = True
    """Whether it comes with poses."""
    points: bool = True
    """Whether its points, if any, are left to it."""


CAPTURES = {
    "can": Capture("captures/can"),
    "train": Capture("captures/train", posed=False),
    "bust": Capture("captures/bust", posed=False),
    "fern": Capture("fern"),
    "lund_door": Capture("lund_door"),
    "lund_door without points": Capture("lund_door", points=False),
}
_ASKED = [name for name in CAPTURES if name != "lund_door"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captures", nargs="+", default=_ASKED, help=f"of {', '.join(CAPTURES)}, or NAME=FOLDER")
    parser.add_argument("--plugins", nargs="+", default=["splat", "ngp"])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 5.0], help="budgets")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds the captures")
    parser.add_argument(
        "--posed", type=Path, default=Path(tempfile.gettempdir()) / "captures", help="of posed captures"
    )
    parser.add_argument("--exported", action="store_true", help="also draw the exported files as other viewers do")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON and the pictures")
    arguments = parser.parse_args()
    apply_threads()
    report = Report(
        "captures",
        title="Real captures, first minutes",
        protocol=PROTOCOL,
        settings=vars(arguments),
        folder=arguments.results,
    )
    with tempfile.TemporaryDirectory() as scratch:
        scenes = {name: _scene(name, arguments, Path(scratch)) for name in arguments.captures}
        for plugin in arguments.plugins:
            _compile(plugin, next(iter(scenes.values())), Path(scratch))
            for minutes in arguments.minutes:
                found = []
                for number, (name, scene) in enumerate(scenes.items()):
                    output = Path(scratch) / f"{plugin}-{minutes:g}-{number}"
                    found.append(_run(plugin, name, scene, minutes, output, arguments, report))
                report.add(plugin=plugin, minutes=minutes, capture="mean", psnr=mean(found), worst=min(found))
    report.print()


def _scene(name: str, arguments: argparse.Namespace, scratch: Path) -> Path:
    """The folder to train on."""
    given, _, folder = name.partition("=")
    if folder:
        return Path(folder)
    capture = CAPTURES[given]
    source = arguments.data / capture.folder
    if not capture.posed:
        posed = arguments.posed / given
        if not posed.exists():
            command = ["data", "process", str(source / "images"), "--output", str(posed)]
            subprocess.run([sys.executable, "-m", "studio", *command], check=True)
        return posed
    if capture.points:
        return source
    bare = scratch / f"{source.name}_without_points"
    shutil.copytree(source, bare, ignore=shutil.ignore_patterns("points3D.*"))
    return bare


def _compile(plugin: str, scene: Path, scratch: Path) -> None:
    """A short training that fills the cache of kernels."""
    options = TrainOptions(output=scratch / f"{plugin}-first", downscale=8, tensorboard=False)
    run = train(plugin, scene, options=options, steps=240)
    next(run.render(run.photos("train").camera(0)[None]))


def _run(
    plugin: str, name: str, scene: Path, minutes: float, output: Path, arguments: argparse.Namespace, report: Report
) -> float:
    budget = ("--budget", f"{60 * minutes:g}s", "--seed", str(arguments.seed), "--no-tensorboard")
    done = train_command(plugin, scene, output, *budget)
    run = open_run(done.folder, device="cpu")
    pairs: list[Tensor] = []

    def keep(photo: Photo, rgb: Tensor, score: object) -> None:
        pairs.extend([photo.composited((1.0, 1.0, 1.0)), rgb])

    result = run.evaluate(on_photo=keep)
    exported = _exported(run, output, result.scores) if arguments.exported and plugin == "splat" else {}
    report.add(
        plugin=plugin,
        minutes=minutes,
        capture=name.partition("=")[0],
        size=f"{pairs[0].shape[1]}x{pairs[0].shape[0]}",
        steps=run.step,
        psnr=result.psnr,
        ssim=result.ssim,
        worst=min(score.psnr for score in result.scores),
        seconds=done.seconds,
        cpu_seconds=done.cpu_seconds,
        peak_memory=gib(done.peak_memory),
        **exported,
        status=run.plugin.status(),
    )
    sheet = arguments.results / f"captures_{plugin}_{minutes:g}_{name.partition('=')[0].replace(' ', '_')}.jpg"
    save_picture(sheet, grid(pairs[:8], columns=4, cell_width=360), quality=85)
    return result.psnr


def _exported(run: LoadedRun, folder: Path, scores: Sequence[PhotoScore]) -> dict[str, float]:
    """How much the exported files differ from `studio eval`, in dB of PSNR."""
    from studio_splat.functional import rasterization

    photos = run.photos(run.scene.evaluation_split)
    background = run.background if run.background is not None else torch.zeros(3)
    change = {}
    for ending in ("ply", "spz"):
        target = folder / f"exported.{ending}"
        command = ["export", str(run.path), "--format", ending, "--output", str(target)]
        subprocess.run([sys.executable, "-m", "studio", *command], check=True)
        cloud = read_gaussians(target).transformed(run.scene.scene_from_input)
        found = []
        for index in range(min(_REFERENCE_PHOTOS, len(photos))):
            photo = photos[index]
            drawn = rasterization(
                cloud.means.double(),
                cloud.quats.double(),
                cloud.log_scales.double().exp(),
                cloud.logit_opacities.double().sigmoid(),
                cloud.sh.double(),
                photo.camera.world_to_camera.double()[None],
                photo.camera.intrinsics.double()[None],
                *photo.camera.size,
                sh_degree=cloud.sh_degree,
                eps2d=0.3,
                backgrounds=background.double()[None],
                rasterize_mode="antialiased" if cloud.antialiased else "classic",
                backend="reference",
            )[0][0]
            picture = (drawn.clamp(0, 1) * 255).round() / 255
            truth = photo.composited(background)
            found.append(float(psnr(picture.float(), truth, photo.mask)) - scores[index].psnr)
        change[f"{ending}_change"] = mean(found)
    return change


if __name__ == "__main__":
    main()
