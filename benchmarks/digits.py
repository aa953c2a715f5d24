"""What the benchmarks of conditional MNIST share: train by the command, then measure as `studio eval` does."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import DATA, RESULTS, CommandRun, Report, gib, measure, train_command
from torch import Tensor

from studio.datasets import load_dataset
from studio.devices import apply_threads
from studio.devices.report import cache_folder
from studio.export.pictures import grid, save_picture
from studio.registry import find_plugin
from studio.training.assess import AssessOptions, assess
from studio.training.loaded import LoadedRun, open_run

PROTOCOL = (
    "MNIST's 10,000 digits as `studio` splits them: 9,000 for training, 1,000 held out. Training by `studio train` in "
    "a process of its own on {threads} thread(s); its seconds are those of the whole command, by the clock and as "
    "processor time of all threads together; the target of {limit:,} s holds for the smaller one, as other programs "
    "lengthen the first. The last checkpoint counts. Then as `studio eval`: {count} samples, as many of each class, "
    "drawn with seed 1 and default options, read by the studio's classifier, which learns from the same 9,000 digits "
    "and nothing that a generator makes (its accuracy on the 1,000 beside). A class is covered when half its samples "
    "are recognised. FID, recall and coverage: features of that classifier, against held-out digits. Samples a second: "
    "median of repeated draws of {drawn}."
)
TARGET_SECONDS, LEAST_CLASSIFIER = 1200, 0.98
_SHOWN_OF_EACH = 10


def benchmark_digits(
    plugin: str,
    preset: str,
    description: str | None,
    target: float,
    more: Callable[[LoadedRun, Tensor, Tensor], dict[str, Any]] = lambda run, x, labels: {},
    *,
    pictures: Callable[[LoadedRun, Path], None] = lambda run, folder: None,
    drawn: int = 1000,
    repetitions: int = 5,
) -> None:
    """The whole benchmark of one plugin, with its command line.

    Args:
        plugin, preset: What is trained.
        description: Help of the script.
        target: Class accuracy that it must reach.
        more: Further figures from the run, the held-out digits and their labels.
        pictures: Saves further pictures of the run in the folder of the results.
        drawn, repetitions: Samples in a batch whose drawing is timed, and how often.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA / "mnist", help="folder of the idx files")
    parser.add_argument("--preset", default=preset)
    parser.add_argument("--steps", type=int, default=None, help="training steps; default: the preset's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="a training each")
    parser.add_argument("--count", type=int, default=2000, help="samples that are judged")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=Path, default=None, help="keep the runs here; default: delete them")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON and the picture")
    arguments = parser.parse_args()
    apply_threads()
    report = Report(
        f"{plugin}_mnist",
        title=f"Conditional MNIST by {plugin}",
        protocol=PROTOCOL.format(
            count=f"{arguments.count:,}",
            drawn=f"{drawn:,}",
            threads=torch.get_num_threads(),
            limit=TARGET_SECONDS,
        ),
        settings=vars(arguments),
        folder=arguments.results,
    )
    for seed in arguments.seeds:
        options = ["--preset", arguments.preset, "--seed", str(seed), "--device", arguments.device]
        options += [] if arguments.steps is None else ["--steps", str(arguments.steps)]
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) if arguments.runs is None else arguments.runs / f"{plugin}_mnist_{seed}"
            done = train_command(plugin, arguments.data, folder, *options)
            run = open_run(done.folder, device=arguments.device)
            figures, samples = measured(run, arguments.data, arguments.count, target, done)
            speed = measure(
                lambda run=run: run.generator.sample(drawn, generator=torch.Generator()), repetitions=repetitions
            )
            test = load_dataset(arguments.data, split="test")
            report.add(
                preset=arguments.preset,
                seed=seed,
                steps=run.step,
                seconds=done.seconds,
                cpu_seconds=done.cpu_seconds,
                **figures,
                samples_a_second=drawn / speed.median,
                draw_seconds=speed.to_dict(),
                peak_memory=gib(done.peak_memory),
                held_out=more(run, *test.batch(range(len(test)))),
            )
    each = len(samples) // len(figures["accuracy_of_each_class"])
    shown = [picture for row in samples.split(each) for picture in row[:_SHOWN_OF_EACH]]
    picture = grid([digit.movedim(0, -1).expand(-1, -1, 3) for digit in shown], columns=min(each, _SHOWN_OF_EACH))
    save_picture(arguments.results / f"{plugin}_mnist.png", picture)
    pictures(run, arguments.results)
    report.print()
    print("held out:", report.rows[-1]["held_out"])


def measured(run: LoadedRun, data: Path, count: int, target: float, done: CommandRun) -> tuple[dict[str, Any], Tensor]:
    """Figures of a run as `studio eval` has them, whether the target is reached, and the samples, class after class."""
    spec = find_plugin(run.config.plugin).spec
    assert spec is not None
    report, samples = assess(
        run.generator,
        load_dataset(data),
        load_dataset(data, split="test"),
        AssessOptions(samples=count, seed=1, cache=cache_folder()),
        capabilities=spec.all_capabilities(),
    )
    assert isinstance(samples, Tensor)
    figures = report.figures
    classifier = float(report.protocol["classifier_accuracy"])
    kept = {
        "class_accuracy": figures["class_accuracy"],
        "classes_covered": int(figures["classes_covered"]),
        "classifier": classifier,
        "fid": figures["fid"],
        "recall": figures["recall"],
        "coverage": figures["coverage"],
        "reached": figures["class_accuracy"] >= target
        and figures["classes_covered"] == len(report.per_class)
        and min(done.seconds, done.cpu_seconds) <= TARGET_SECONDS
        and classifier >= LEAST_CLASSIFIER,
        # Nested: these stay in the file.
        "target": {"class_accuracy": target, "seconds": TARGET_SECONDS, "classifier": LEAST_CLASSIFIER},
        "accuracy_of_each_class": report.per_class,
        "evaluation": report.to_dict(),
    }
    return kept, samples
