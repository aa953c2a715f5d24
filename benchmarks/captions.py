"""How well the captioner reads held-out pictures of shapes after minutes of training.

    python benchmarks/captions.py
    python benchmarks/captions.py --size 64 --budget 5m 10m 20m

Each budget is a training of its own, as its schedules follow the clock; --steps trains so many steps instead, which
other programs on the machine do not change. Writes results/captions.json and a picture.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import torch
from described import described
from harness import RESULTS, Report, gib, train_command

from studio.datasets import load_dataset
from studio.devices import apply_threads
from studio.export.pictures import grid, save_picture
from studio.metrics.attributes import score_captions
from studio.training.loaded import open_run
from studio_gpt.caption_plugin import Captioner

PROTOCOL = (
    "shapes:{size}, {pictures:,} held-out pictures, whose scenes come from another random stream than those of the "
    "training. Training by `studio train` in a process of its own on {threads} thread(s); its seconds are those of the "
    "whole command, drawing the pictures included, by the clock and as processor time of all threads together; the "
    "target of {limit:,} s holds for the smaller one, as other programs lengthen the first. Captions are decoded "
    "greedily. The objects of a caption are paired with the true ones so that most of them fit; an object that is left "
    "out has all attributes wrong. Relations count where both objects are found. Exact: all that is said is true and "
    "complete. Seed {seed}; the last weights count."
)
TARGET, TARGET_SECONDS = 0.95, 1200
_SHOWN = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", nargs="+", default=None, help="times of training, such as 20m; default: --steps")
    parser.add_argument("--steps", type=int, default=None, help="training steps; default: the preset's")
    parser.add_argument("--size", type=int, default=32, help="of the pictures, pixels")
    parser.add_argument("--pictures", type=int, default=1000, help="held-out pictures")
    parser.add_argument("--preset", default="shapes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=None, help="keep the runs here; default: delete them")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    apply_threads()
    report = Report(
        "captions",
        title=f"Captions of shapes:{arguments.size}: held-out accuracy",
        protocol=PROTOCOL.format(
            size=arguments.size,
            pictures=arguments.pictures,
            seed=arguments.seed,
            threads=torch.get_num_threads(),
            limit=TARGET_SECONDS,
        ),
        settings=vars(arguments),
        folder=arguments.results,
    )
    name = f"shapes:{arguments.size}"
    held_out = load_dataset(name, split="test")
    x, truths = held_out.batch(range(arguments.pictures))
    common = ["--preset", arguments.preset, "--seed", str(arguments.seed), "--device", arguments.device]
    steps = [] if arguments.steps is None else ["--steps", str(arguments.steps)]
    # With a budget the clock ends the training.
    budgets = [["--budget", budget, "--steps", "1000000"] for budget in arguments.budget or ()]
    with tempfile.TemporaryDirectory() as scratch:
        for i, chosen in enumerate(budgets or [steps]):
            folder = (arguments.runs or Path(scratch)) / f"captions_{arguments.size}_{i}"
            done = train_command("caption", name, folder, *common, *chosen)
            run = open_run(done.folder, device=arguments.device)
            model = run.generator
            assert isinstance(model, Captioner)
            started = time.perf_counter()
            said = model.caption(x)
            captioning = time.perf_counter() - started
            scores = score_captions(said, truths)
            report.add(
                steps=run.step,
                seconds=done.seconds,
                cpu_seconds=done.cpu_seconds,
                **dataclasses.asdict(scores),
                pictures_a_second=len(x) / captioning,
                nats_a_caption=-float(model.log_likelihood(truths, x).mean()),
                parameters=sum(p.numel() for p in model.parameters()),
                peak_memory=gib(done.peak_memory),
                reached=min(scores.color, scores.shape) >= TARGET
                and min(done.seconds, done.cpu_seconds) <= TARGET_SECONDS,
                target={"color and shape, each": TARGET, "seconds": TARGET_SECONDS},
                examples=[{"said": a, "truth": b} for a, b in zip(said[:20], truths[:20], strict=True)],
                wrong=[{"said": a, "truth": b} for a, b in zip(said, truths, strict=True) if a != b][:20],
            )
            shown = [described(picture, text) for picture, text in zip(x[:_SHOWN], said[:_SHOWN], strict=True)]
            save_picture(arguments.results / "captions.png", grid(shown, columns=4))
    report.print()


if __name__ == "__main__":
    main()
