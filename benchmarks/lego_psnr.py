"""How good the splat plugin gets on Lego (NeRF-synthetic, 400x400, white background) within a time budget.

    python benchmarks/lego_psnr.py --minutes 1 2 5 10 --random-minutes 5

Every budget is a training of its own, as its schedules follow the clock. Writes results/lego_psnr.json and .png.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path

from harness import DATA, RESULTS, Report, gib, train_command, warm_up
from torch import Tensor

from studio.devices import apply_threads
from studio.export.pictures import grid, save_picture
from studio.scene import Photo
from studio.training.loaded import open_run
from studio.training.start import TrainOptions

WHITE = (1.0, 1.0, 1.0)
ALPHA, RANDOM = "visual hull of the alpha", "random, alpha not used"
PROTOCOL = (
    "NeRF-synthetic Lego, 100 training photos, the 25 test photos that are every 8th of the 200; RGBA photos reduced "
    "from 800x800 by an area filter of {downscale:g}, then composited on white; training photos at another offset of "
    "whole pixels each time, so that all of the 800x800 is learnt from, test photos at none. The budget is wall-clock "
    "time from the start of the process `studio train`, with its defaults: loading the program, reading, first "
    "Gaussians, previews and checkpoints count; compiling the kernels does not (a short run before fills their cache). "
    "The last checkpoint is measured afterwards: mean of the photos' PSNR and SSIM, renders clamped and rounded to 8 "
    "bits; seed {seed}; nothing was chosen by looking at test photos. '"
    + RANDOM
    + "': --initial random, alpha serves only to composite the photos."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="*", default=[1, 2, 5, 10], help="budgets")
    parser.add_argument("--random-minutes", type=float, nargs="*", default=[5], help="budgets of random first points")
    parser.add_argument("--data", type=Path, default=DATA / "lego", help="folder of the scene")
    parser.add_argument("--test-file", default="transforms_test25.json", help="file that lists the test photos")
    parser.add_argument("--preset", default=None, help="preset of the splat plugin")
    parser.add_argument("--steps", type=int, default=None, help="most steps of a training; default: the preset's")
    parser.add_argument("--max-gaussians", type=int, default=None, help="cap; default: the preset's")
    parser.add_argument("--downscale", type=float, default=2.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=None, help="keep the runs here; default: delete them")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON and the pictures")
    arguments = parser.parse_args()
    apply_threads()
    report = Report(
        "lego_psnr",
        title="Lego: held-out PSNR by training time",
        protocol=PROTOCOL.format(downscale=arguments.downscale, seed=arguments.seed),
        settings=vars(arguments),
        folder=arguments.results,
    )
    with tempfile.TemporaryDirectory() as scratch:
        _run_all(arguments, report, arguments.runs or Path(scratch))
    report.print()
    _draw(report, arguments.results / "lego_psnr.png")


def _run_all(arguments: argparse.Namespace, report: Report, folder: Path) -> None:
    options = TrainOptions(
        device=arguments.device,
        downscale=arguments.downscale,
        background="white",
        reader={"test_file": arguments.test_file},
        tensorboard=False,
    )
    warm_up(arguments.data, options, preset=arguments.preset)
    jobs = [(RANDOM, minutes) for minutes in sorted(arguments.random_minutes)]
    # The budgets of the curve last: the longest one's pictures are shown.
    for start, minutes in [*jobs, *((ALPHA, minutes) for minutes in sorted(arguments.minutes))]:
        _run(arguments, report, folder / f"{start.split()[0]}-{minutes:g}", start, minutes)


def _run(arguments: argparse.Namespace, report: Report, output: Path, start: str, minutes: float) -> None:
    chosen = {
        "preset": arguments.preset,
        "steps": arguments.steps,
        "max-gaussians": arguments.max_gaussians,
        "initial": "random" if start == RANDOM else None,
        "test-file": arguments.test_file,
        "downscale": arguments.downscale,
        "background": "white",
        "device": arguments.device,
        "seed": arguments.seed,
        "budget": f"{60 * minutes:g}s",
    }
    done = train_command(
        "splat",
        arguments.data,
        output,
        *(text for name, value in chosen.items() if value is not None for text in (f"--{name}", str(value))),
    )
    run = open_run(done.folder, device=arguments.device)
    pairs: list[Tensor] = []

    def keep(photo: Photo, rgb: Tensor, score: object) -> None:
        pairs.extend([photo.composited(WHITE), rgb])

    result = run.evaluate("test", on_photo=keep)
    curve = [{key: row[key] for key in ("step", "seconds", "psnr") if key in row} for row in run.run.read_metrics()]
    report.add(
        start=start,
        minutes=float(minutes),
        seconds=done.seconds,
        steps=run.step,
        psnr=result.psnr,
        ssim=result.ssim,
        worst_psnr=min(score.psnr for score in result.scores),
        test_photos=len(result.scores),
        size=f"{pairs[0].shape[1]}x{pairs[0].shape[0]}",
        ms_a_frame=1000 * result.seconds,
        peak_memory=gib(done.peak_memory),
        **run.plugin.status(),
        photos=[dataclasses.asdict(score) for score in result.scores],
        training_curve=curve,
    )
    # Eight photos at most, each beside its render.
    step = 2 * max(1, len(pairs) // 16)
    shown = [picture for first in range(0, len(pairs), step) for picture in pairs[first : first + 2]][:16]
    save_picture(arguments.results / "lego_psnr_views.jpg", grid(shown, columns=4, cell_width=300), quality=85)


def _draw(report: Report, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    longest = max(report.rows, key=lambda row: row["minutes"])["training_curve"]
    axes.plot(
        [row["seconds"] / 60 for row in longest],
        [row["psnr"] for row in longest],
        color="0.8",
        linewidth=0.7,
        label="longest run, training photos as they come",
    )
    for start, style in ((ALPHA, "o-"), (RANDOM, "s--")):
        rows = [row for row in report.rows if row["start"] == start]
        axes.plot(
            [row["minutes"] for row in rows],
            [row["psnr"] for row in rows],
            style,
            label=f"{rows[0]['test_photos']} test photos, a training each; start: {start}" if rows else None,
        )
        for row in rows:
            axes.annotate(f"{row['psnr']:.2f}", (row["minutes"], row["psnr"]), (0, 7), textcoords="offset points")
    axes.set_xlabel("minutes from the command")
    axes.set_ylabel("PSNR [dB]")
    axes.set_title(
        f"Lego {report.rows[0]['size']} on {report.machine['cpu']}, {report.machine['torch_threads']} threads",
        fontsize=9,
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=140)


if __name__ == "__main__":
    main()
