"""How good and how fast the ngp plugin trains on Lego (NeRF-synthetic, 400x400, white background) and the table-top.

    python benchmarks/ngp_lego.py --minutes 2 10

Every budget is a training of its own, as its schedules follow the clock. Writes results/ngp_lego.json and pictures.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import DATA, RESULTS, Report, gib, peak_memory
from torch import Tensor

from studio.devices import apply_threads
from studio.export.pictures import grid, save_picture
from studio.scene import Photo
from studio.training.loop import Observer, Trainer
from studio.training.observers import ProgressLine
from studio.training.start import TrainOptions, train

SCENES = Path(__file__).resolve().parents[1] / "scenes"
WHITE = (1.0, 1.0, 1.0)
PROTOCOL = (
    "Lego: NeRF-synthetic, 100 training photos, the 25 test photos that are every 8th of the 200; RGBA photos reduced "
    "from 800x800 by an area filter of 2, then composited on white. Table-top: its own held-out photos, as they are. "
    "The budget is wall-clock time from the call of train(): reading, carving and checkpoints count; compiling the "
    "kernels does not (a short run before warms their cache). Rays a second: training rays over the time between the "
    "first and the last step, checkpoints included. Mean of the photos' PSNR and SSIM, renders clamped and rounded to "
    "8 bits; seed {seed}. Nothing was chosen by looking at test photos: trials of the settings were scored on photos "
    "held out from the training photos."
)


class RayCounter(Observer):
    """Counts training rays and the time that they take."""

    def __init__(self) -> None:
        self.rays, self.seconds = 0.0, 0.0
        self._started = 0.0

    def on_start(self, trainer: Trainer) -> None:
        self._started = time.perf_counter()

    def on_log(self, trainer: Trainer, step: int, figures: Any) -> None:
        # Logged at every step, so that each step's own number is counted.
        self.rays += figures["rays"]
        self.seconds = time.perf_counter() - self._started

    @property
    def rate(self) -> float:
        return self.rays / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="*", default=[2, 10], help="budgets on Lego")
    parser.add_argument("--tabletop-minutes", type=float, nargs="*", default=[3], help="budgets on the table-top")
    parser.add_argument("--data", type=Path, default=DATA / "lego", help="folder of the Lego scene")
    parser.add_argument("--preset", default=None, help="preset of the ngp plugin")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON and the pictures")
    arguments = parser.parse_args()
    apply_threads()
    report = Report(
        "ngp_lego",
        title="ngp: held-out PSNR by training time",
        protocol=PROTOCOL.format(seed=arguments.seed),
        settings=vars(arguments),
        folder=arguments.results,
    )
    lego = TrainOptions(
        seed=arguments.seed,
        device=arguments.device,
        downscale=2.0,
        background="white",
        reader={"test_file": "transforms_test25.json"},
        tensorboard=False,
        log_every=1,
    )
    tabletop = dataclasses.replace(lego, downscale=1.0, background="auto", reader={})
    jobs = [("lego", arguments.data, lego, minutes) for minutes in sorted(arguments.minutes)]
    jobs += [("tabletop", SCENES / "tabletop", tabletop, minutes) for minutes in arguments.tabletop_minutes]
    with tempfile.TemporaryDirectory() as scratch:
        for _, data, options, _ in {job[0]: job for job in jobs}.values():
            _warm_up(data, dataclasses.replace(options, output=Path(scratch)), arguments.preset)
        for name, data, options, minutes in jobs:
            placed = dataclasses.replace(options, output=Path(scratch), budget_seconds=60 * minutes)
            _measure(report, name, data, placed, minutes, arguments)
    report.print()


def _warm_up(data: Path, options: TrainOptions, preset: str | None) -> None:
    """Compile the kernels and fill their cache."""
    run = train("ngp", data, preset=preset, options=dataclasses.replace(options, budget_seconds=None), steps=20)
    next(run.render(run.photos("train").camera(0)[None], ("rgb", "depth", "normals")))


def _measure(
    report: Report, name: str, data: Path, options: TrainOptions, minutes: float, arguments: argparse.Namespace
) -> None:
    counter = RayCounter()
    started = time.perf_counter()
    run = train("ngp", data, preset=arguments.preset, options=options, observers=[counter, ProgressLine()])
    seconds = time.perf_counter() - started
    pairs: list[Tensor] = []

    def keep(photo: Photo, rgb: Tensor, score: object) -> None:
        pairs.extend([photo.composited(WHITE), rgb])

    result = run.evaluate("test", on_photo=keep)
    report.add(
        scene=name,
        minutes=float(minutes),
        seconds=seconds,
        steps=run.step,
        rays_a_second=counter.rate,
        psnr=result.psnr,
        ssim=result.ssim,
        worst_psnr=min(score.psnr for score in result.scores),
        test_photos=len(result.scores),
        size=f"{pairs[0].shape[1]}x{pairs[0].shape[0]}",
        ms_a_frame=1000 * result.seconds,
        peak_memory=gib(peak_memory()),
        **run.plugin.status(),
        photos=[dataclasses.asdict(score) for score in result.scores],
    )
    # Eight photos at most, each beside its render.
    step = 2 * max(1, len(pairs) // 16)
    shown = [picture for first in range(0, len(pairs), step) for picture in pairs[first : first + 2]][:16]
    save_picture(arguments.results / f"ngp_{name}_views.jpg", grid(shown, columns=4, cell_width=300), quality=85)


if __name__ == "__main__":
    main()
