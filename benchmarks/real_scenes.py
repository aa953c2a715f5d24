"""Train on real captures, measure on every 8th photo, render a path, and look for frames that went black.

    python benchmarks/real_scenes.py --minutes 5

Writes results/real_scenes.json, and for each scene a sheet of photo and render and a sheet of the path.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import DATA, RESULTS, Report, gib, measure, train_command, warm_up
from torch import Tensor

from studio.cameras import Cameras, spiral_of
from studio.devices import apply_threads
from studio.export.pictures import grid, save_picture
from studio.export.video import VideoWriter
from studio.scene import Photo
from studio.training.loaded import LoadedRun, open_run
from studio.training.start import TrainOptions

BLACK = 4 / 255
"""A pixel with all channels below this counts as black."""
PROTOCOL = (
    "Every 8th photo by name is held out; photos reduced by an area filter of the factor given. The budget is "
    "wall-clock time from the start of the process `studio train`, with its defaults, kernels compiled before. Mean of "
    "the photos' PSNR and SSIM, renders clamped and rounded to 8 bits; seed {seed}. Black share: pixels of a "
    "frame with all channels below 4/255; the blackest frame of a {frames}-frame spiral against the blackest photo. "
    "Empty share: pixels whose accumulated opacity is below one half, in the emptiest frame."
)


@dataclass(frozen=True)
class Capture:
    """One scene of the benchmark."""

    folder: str
    downscale: float


CAPTURES = {"fern": Capture("fern", 1.0), "lund_door": Capture("lund_door", 3.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", choices=list(CAPTURES), default=list(CAPTURES))
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds the scenes")
    parser.add_argument("--minutes", type=float, default=5.0, help="budget of each scene")
    parser.add_argument("--preset", default=None, help="preset of the splat plugin")
    parser.add_argument("--steps", type=int, default=None, help="most steps of a training; default: the preset's")
    parser.add_argument("--downscale", type=float, default=None, help="for all scenes; default: one that suits each")
    parser.add_argument("--frames", type=int, default=60, help="length of the path")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON and the pictures")
    arguments = parser.parse_args()
    apply_threads()
    report = Report(
        "real_scenes",
        title="Real captures",
        protocol=PROTOCOL.format(seed=arguments.seed, frames=arguments.frames),
        settings=vars(arguments),
        folder=arguments.results,
    )
    blackened = []
    for name in arguments.scenes:
        with tempfile.TemporaryDirectory() as scratch:
            row = _run(name, arguments, Path(scratch))
        report.add(**row)
        if row["black_share"] > max(0.5, 2 * row["black_share_of_photos"]):
            blackened.append(name)
    report.print()
    if blackened:
        raise SystemExit(f"frames went black: {', '.join(blackened)}")


def _run(name: str, arguments: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    capture = CAPTURES[name]
    downscale = capture.downscale if arguments.downscale is None else arguments.downscale
    data = arguments.data / capture.folder
    warm_up(data, TrainOptions(device=arguments.device, downscale=downscale), preset=arguments.preset)
    chosen = {
        "preset": arguments.preset,
        "steps": arguments.steps,
        "downscale": downscale,
        "device": arguments.device,
        "seed": arguments.seed,
        "budget": f"{60 * arguments.minutes:g}s",
    }
    done = train_command(
        "splat",
        data,
        scratch / "runs",
        *(text for option, value in chosen.items() if value is not None for text in (f"--{option}", str(value))),
    )
    run = open_run(done.folder, device=arguments.device)
    pairs: list[Tensor] = []

    def keep(photo: Photo, rgb: Tensor, score: object) -> None:
        pairs.extend([photo.rgb, rgb])

    result = run.evaluate(on_photo=keep)
    save_picture(arguments.results / f"real_scenes_{name}_test.jpg", grid(pairs, columns=2, cell_width=500), quality=85)
    frames, black, empty = _fly(run, arguments.frames, scratch / f"{name}.mp4")
    save_picture(
        arguments.results / f"real_scenes_{name}_path.jpg", grid(frames, columns=4, cell_width=300), quality=85
    )
    photos = run.photos("train")
    camera = photos.camera(0)
    shown = measure(lambda: run.field.render(camera), repetitions=5)
    width, height = camera.size
    return {
        "scene": name,
        "train_photos": len(photos),
        "test_photos": len(result.scores),
        "size": f"{width}x{height}",
        "minutes": arguments.minutes,
        "seconds": done.seconds,
        "steps": run.step,
        "psnr": result.psnr,
        "ssim": result.ssim,
        "black_share": black,
        "black_share_of_photos": max(_black_share(photo.rgb) for photo in photos),
        "empty_share": empty,
        "ms_a_frame": 1000 * shown.median,
        "peak_memory": gib(done.peak_memory),
        **run.plugin.status(),
        "photos": {score.name: {"psnr": score.psnr, "ssim": score.ssim} for score in result.scores},
    }


def _fly(run: LoadedRun, count: int, video: Path) -> tuple[list[Tensor], float, float]:
    """Render a path to a video; 8 of its frames, and the shares of black and of empty pixels in the worst frames."""
    photos = run.photos("train")
    path = spiral_of(Cameras.stack([photos.camera(index) for index in range(len(photos))]), count)
    kept, black, empty = [], 0.0, 0.0
    with VideoWriter(video) as writer:
        for index, drawn in enumerate(run.render(path, ("rgb", "opacity"))):
            writer.write(drawn["rgb"])
            black = max(black, _black_share(drawn["rgb"]))
            empty = max(empty, (drawn["opacity"] < 0.5).float().mean().item())
            if index % max(count // 8, 1) == 0:
                kept.append(drawn["rgb"])
    return kept[:8], black, empty


def _black_share(picture: Tensor) -> float:
    return (picture < BLACK).all(dim=-1).float().mean().item()


if __name__ == "__main__":
    main()
