"""What the benchmarks of conditional MNIST share: an independent classifier, and training and scoring a generator.

The classifier sees the same training digits as the generators and nothing that they make; it is measured on the
held-out digits before it judges anything.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from harness import DATA, RESULTS, Report, Timing, gib, measure, train_command
from torch import Tensor, nn

from studio.datasets import load_dataset
from studio.devices import apply_threads
from studio.export.pictures import grid, save_picture
from studio.training.loaded import LoadedRun, open_run

PROTOCOL = (
    "MNIST's 10,000 digits as `studio` splits them: 9,000 for training, 1,000 held out. The generator is trained by "
    "`studio train` in a process of its own; its seconds are those of the whole command, from start to end, and the "
    "last checkpoint counts. {count} samples, as many of each class, drawn with seed {seed} and default options, are "
    "read by a convolutional classifier trained on the same 9,000 digits (shifted, turned, scaled), its accuracy on "
    "the held-out 1,000 beside. 'variety' is the variance within a class of the classifier's features over the "
    "samples, divided by that over held-out digits: 1 is as varied as real digits, 0 one picture a class. Samples a "
    "second: median of repeated draws of 1,000."
)
TARGET_SECONDS = 1200


@dataclass(frozen=True)
class Judge:
    """A classifier of digits and how good it is."""

    network: nn.Sequential
    held_out_accuracy: float

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees, (n, 128)."""
        return torch.cat([self.network[:-1](part) for part in x.split(500)])

    @torch.no_grad()
    def classes(self, x: Tensor) -> Tensor:
        return self.network[-1](self.features(x)).argmax(1)


def train_judge(data: Path, *, epochs: int = 14, seed: int = 0) -> Judge:
    """Train the classifier on the training digits and measure it on the held-out ones."""
    train, test = load_dataset(data), load_dataset(data, split="test")
    x, y = train.batch(range(len(train)))
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in ((x.shape[1], 24), (24, 48), (48, 96)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    network = nn.Sequential(
        *layers, nn.Flatten(), nn.Dropout(0.3), nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, train.num_classes or 0)
    )
    network(x[:2])
    batch = 100
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs * -(-len(x) // batch))
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).split(batch):
            loss = F.cross_entropy(network(_varied(x[chosen])), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    held_out, labels = test.batch(range(len(test)))
    return Judge(network, float((Judge(network, 0.0).classes(held_out) == labels).float().mean()))


def _varied(x: Tensor) -> Tensor:
    """Pictures turned by up to 11 degrees, scaled by up to 12% and shifted by up to 2 pixels of 28."""
    count = len(x)
    angle, scale = 0.4 * (torch.rand(count) - 0.5), 1 + 0.25 * (torch.rand(count) - 0.5)
    shift = 0.3 * (torch.rand(count, 2) - 0.5)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    warp = torch.cat([scale[:, None, None] * turn, shift[:, :, None]], dim=2)
    places = F.affine_grid(warp, list(x.shape), align_corners=False)
    return F.grid_sample(x, places, align_corners=False)


def score(run: LoadedRun, judge: Judge, data: Path, *, count: int, seed: int) -> tuple[dict[str, Any], Tensor]:
    """Class accuracy, coverage and variety of a run's conditional samples, and the samples, classes in turn."""
    generator = run.generator
    number = generator.data_info.num_classes or 0
    wanted = torch.arange(count) % number
    samples = generator.sample(count, wanted.tolist(), torch.Generator().manual_seed(seed))
    assert isinstance(samples, Tensor)
    samples = samples.cpu().clamp(0, 1)
    read = judge.classes(samples)
    each = [float((read[wanted == label] == label).float().mean()) for label in range(number)]
    test = load_dataset(data, split="test")
    real, labels = test.batch(range(len(test)))
    figures = {
        "class_accuracy": float((read == wanted).float().mean()),
        "worst_class_accuracy": min(each),
        "classes_covered": sum(share > 0.5 for share in each),
        "accuracy_of_each_class": each,
        "variety": _spread(judge.features(samples), wanted) / _spread(judge.features(real), labels),
    }
    return figures, samples


def _spread(features: Tensor, labels: Tensor) -> float:
    """Mean over classes of the total variance of their features."""
    return float(torch.stack([features[labels == label].var(0).sum() for label in labels.unique()]).mean())


def draw_speed(run: LoadedRun, *, repetitions: int = 5, batch: int = 1000) -> Timing:
    """Seconds for a batch of samples."""
    return measure(lambda: run.generator.sample(batch), repetitions=repetitions)


def benchmark_digits(
    plugin: str,
    preset: str,
    description: str | None,
    target: float,
    more: Callable[[LoadedRun, Tensor, Tensor], dict[str, Any]] = lambda run, x, labels: {},
) -> None:
    """The whole benchmark of one plugin, with its command line.

    Args:
        plugin, preset: What is trained.
        description: Help of the script.
        target: Class accuracy that it must reach.
        more: Further figures from the run, the held-out digits and their labels.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA / "mnist", help="folder of the idx files")
    parser.add_argument("--preset", default=preset)
    parser.add_argument("--steps", type=int, default=None, help="training steps; default: the preset's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="a training each")
    parser.add_argument("--count", type=int, default=2000, help="samples that are judged")
    parser.add_argument("--epochs", type=int, default=14, help="of the classifier")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON and the picture")
    arguments = parser.parse_args()
    apply_threads()
    report = Report(
        f"{plugin}_mnist",
        title=f"Conditional MNIST by {plugin}",
        protocol=PROTOCOL.format(count=arguments.count, seed=1),
        settings=vars(arguments),
        folder=arguments.results,
    )
    started = time.perf_counter()
    judge = train_judge(arguments.data, epochs=arguments.epochs)
    judge_seconds = time.perf_counter() - started
    test = load_dataset(arguments.data, split="test")
    held_out, labels = test.batch(range(len(test)))
    for seed in arguments.seeds:
        options = ["--preset", arguments.preset, "--seed", str(seed), "--device", arguments.device]
        options += [] if arguments.steps is None else ["--steps", str(arguments.steps)]
        with tempfile.TemporaryDirectory() as scratch:
            done = train_command(plugin, arguments.data, Path(scratch), *options)
            run = open_run(done.folder, device=arguments.device)
            figures, samples = score(run, judge, arguments.data, count=arguments.count, seed=1)
            speed = draw_speed(run)
            report.add(
                preset=arguments.preset,
                seed=seed,
                steps=run.step,
                seconds=done.seconds,
                **figures,
                reached=figures["class_accuracy"] >= target
                and figures["classes_covered"] == test.num_classes
                and done.seconds <= TARGET_SECONDS,
                samples_a_second=1000 / speed.median,
                peak_memory=gib(done.peak_memory),
                # Nested: these stay in the file.
                target={"class_accuracy": target, "seconds": TARGET_SECONDS},
                judge={"held_out_accuracy": judge.held_out_accuracy, "seconds": judge_seconds},
                draw_seconds=speed.to_dict(),
                held_out=more(run, held_out, labels),
            )
    report.print()
    print(f"classifier: {judge.held_out_accuracy:.1%} of held-out digits; held out: {report.rows[-1]['held_out']}")
    shown = [picture.movedim(0, -1).expand(-1, -1, 3) for picture in samples[:100]]
    save_picture(arguments.results / f"{plugin}_mnist.png", grid(shown, columns=test.num_classes or 10))
