"""The classic NeRF on Lego at 100x100: held-out PSNR over the training time.

    python benchmarks/nerf_lego.py --minutes 30

One training; every few minutes some test photos are measured, and their time is not counted. Writes
results/nerf_lego.json and .png.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import DATA, RESULTS, Report, gib, peak_memory

from studio.devices import apply_threads
from studio.training.loaded import evaluate_field
from studio.training.loop import Observer, Trainer
from studio.training.observers import ProgressLine
from studio.training.randomness import undisturbed
from studio.training.start import TrainOptions, prepare
from studio_nerf.classic.config import NerfConfig

PROTOCOL = (
    "NeRF-synthetic Lego, 100 training photos and the 25 test photos that are every 8th of the 200, RGBA reduced from "
    "800x800 by an area filter of {downscale:g}, composited on white. Preset {preset}, budget {minutes:g} minutes of "
    "wall-clock time, reading included, measuring not. Mean PSNR of {photos} test photos on the way and of all at the "
    "end, renders clamped and rounded to 8 bits; seed {seed}."
)


class Milestones(Observer):
    """Measures some test photos at given times of the training."""

    def __init__(self, report: Report, minutes: list[float], photos: int) -> None:
        self.report, self.minutes, self.photos = report, sorted(minutes), photos
        self.test: Any = None

    def on_step(self, trainer: Trainer, step: int) -> None:
        if not self.minutes or trainer.elapsed < 60 * self.minutes[0]:
            return
        self.minutes.pop(0)
        seconds, started = trainer.elapsed, time.perf_counter()
        with undisturbed():
            trainer.plugin.eval()
            result = evaluate_field(trainer.plugin, self.test, split="test", limit=self.photos)  # type: ignore[arg-type]
            trainer.plugin.train()
        self.report.add(
            minutes=seconds / 60, step=step, psnr=result.psnr, ssim=result.ssim, test_photos=len(result.scores)
        )
        # As if the clock had stood still.
        trainer._clock_start += time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--photos", type=int, default=5, help="test photos measured on the way")
    parser.add_argument("--preset", default="default")
    parser.add_argument("--downscale", type=float, default=8.0)
    parser.add_argument("--data", type=Path, default=DATA / "lego")
    parser.add_argument("--test-file", default="transforms_test25.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=None, help="keep the run here; default: delete it")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    apply_threads()
    report = Report(
        "nerf_lego",
        title="Classic NeRF on Lego: held-out PSNR over time",
        protocol=PROTOCOL.format(**vars(arguments)),
        settings=vars(arguments),
        folder=arguments.results,
    )
    marks = [m for m in (0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 25) if m < arguments.minutes]
    milestones = Milestones(report, marks, arguments.photos)
    with tempfile.TemporaryDirectory() as scratch:
        options = TrainOptions(
            output=arguments.runs or Path(scratch),
            seed=arguments.seed,
            device="cpu",
            downscale=arguments.downscale,
            background="white",
            reader={"test_file": arguments.test_file},
            budget_seconds=60 * arguments.minutes,
            tensorboard=False,
        )
        # The clock ends the training, not the count of steps.
        config = NerfConfig.from_dict({**NerfConfig.preset(arguments.preset).to_dict(), "steps": 10_000_000})
        job = prepare("nerf", arguments.data, config, options, observers=[ProgressLine(), milestones])
        milestones.test = job.loaded().photos("test")
        result = job.train()
        run = job.loaded()
        final = run.evaluate("test")
        report.add(
            minutes=result.seconds / 60,
            step=run.step,
            psnr=final.psnr,
            ssim=final.ssim,
            test_photos=len(final.scores),
            ms_a_frame=1000 * final.seconds,
            peak_memory=gib(peak_memory()),
            training_curve=[
                {key: row[key] for key in ("step", "seconds", "loss", "psnr") if key in row}
                for row in run.run.read_metrics()
            ],
        )
    report.print()
    _draw(report, arguments.results / "nerf_lego.png")


def _draw(report: Report, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    curve = report.rows[-1]["training_curve"]
    axes.plot(
        [r["seconds"] / 60 for r in curve], [r["psnr"] for r in curve], color="0.8", linewidth=0.7, label="batches"
    )
    axes.plot([r["minutes"] for r in report.rows], [r["psnr"] for r in report.rows], "o-", label="test photos")
    axes.axhline(25, color="C3", linewidth=0.8, linestyle="--")
    axes.set(xlabel="minutes of training", ylabel="PSNR [dB]")
    axes.set_title(
        f"Classic NeRF, Lego, {report.machine['cpu']}, {report.machine['torch_threads']} threads", fontsize=9
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    main()
