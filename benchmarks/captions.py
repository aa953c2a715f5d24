"""How well the captioner reads held-out pictures of shapes after minutes of training.

    python benchmarks/captions.py --minutes 20
    python benchmarks/captions.py --size 32 --minutes 5 10 20

Every budget is a training of its own, as its schedules follow the clock. Writes results/captions.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from harness import RESULTS, Report

from studio.datasets import load_dataset
from studio.datasets.shapes import Kind, parse_caption
from studio.devices import apply_threads
from studio.export.pictures import grid, save_picture
from studio.training.observers import ProgressLine
from studio.training.start import TrainOptions, train
from studio_gpt.caption_plugin import Captioner

PROTOCOL = (
    "shapes:{size}, {pictures} held-out pictures, whose scenes come from another random stream than those of the "
    "training. The budget is wall-clock time from the call of train(): drawing the pictures and checkpoints count. "
    "Captions are decoded greedily. Objects stand in a caption in the canonical order, but are matched as sets: each "
    "object of the truth with the object of the caption that shares most attributes, once. Right means: the share of "
    "the truth's colours (shapes, sizes, materials) whose matched object has the same; an object too few counts as "
    "wrong, one too many is 'surplus'. Exact: the caption is the truth word by word, relations included. Seed {seed}; "
    "the last weights count."
)
ATTRIBUTES = ("color", "shape", "size", "material")


@dataclass
class Tally:
    """Right attributes, counted over captions."""

    objects: int = 0
    surplus: int = 0
    exact: int = 0
    captions: int = 0
    right: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(ATTRIBUTES, 0))

    def add(self, said: str, truth: str) -> None:
        told, wanted = list(parse_caption(said).objects), parse_caption(truth).objects
        self.captions += 1
        self.exact += said == truth
        self.objects += len(wanted)
        self.surplus += max(len(told) - len(wanted), 0)
        for expected in _clearest_first(wanted, told):
            if not told:
                break
            best = max(told, key=lambda other: _agreement(expected, other))
            told.remove(best)
            for name in ATTRIBUTES:
                self.right[name] += getattr(best, name) == getattr(expected, name)

    def shares(self) -> dict[str, float]:
        found = {name: self.right[name] / max(self.objects, 1) for name in ATTRIBUTES}
        return {**found, "surplus": self.surplus / max(self.objects, 1), "exact": self.exact / max(self.captions, 1)}


def _clearest_first(wanted: Sequence[Kind], told: Sequence[Kind]) -> list[Kind]:
    """Objects with a good match choose first, so that a poor one does not take it from them."""
    return sorted(wanted, key=lambda kind: -max((_agreement(kind, other) for other in told), default=0))


def _agreement(a: Kind, b: Kind) -> int:
    return sum(getattr(a, name) == getattr(b, name) for name in ATTRIBUTES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[20], help="budgets")
    parser.add_argument("--size", type=int, default=64, help="of the pictures, pixels")
    parser.add_argument("--pictures", type=int, default=1000, help="held-out pictures")
    parser.add_argument("--preset", default=None)
    parser.add_argument("--grid", type=int, default=None, help="cells of the encoder's map; default: the preset's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=None, help="keep the runs here; default: delete them")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    apply_threads()
    report = Report(
        "captions",
        title=f"Captions of shapes:{arguments.size}: held-out accuracy by training time",
        protocol=PROTOCOL.format(size=arguments.size, pictures=arguments.pictures, seed=arguments.seed),
        settings=vars(arguments),
        folder=arguments.results,
    )
    name = f"shapes:{arguments.size}"
    held_out = load_dataset(name, split="test")
    x, truths = held_out.batch(range(arguments.pictures))
    with tempfile.TemporaryDirectory() as scratch:
        for minutes in sorted(arguments.minutes):
            options = TrainOptions(
                output=arguments.runs or Path(scratch),
                seed=arguments.seed,
                device=arguments.device,
                budget_seconds=60 * minutes,
                tensorboard=False,
            )
            started = time.perf_counter()
            run = train(
                "caption",
                name,
                preset=arguments.preset,
                options=options,
                observers=[ProgressLine()],
                # The clock ends the training.
                **{"steps": 10**6, **({} if arguments.grid is None else {"grid": arguments.grid})},
            )
            seconds = time.perf_counter() - started
            model = run.plugin
            assert isinstance(model, Captioner)
            started = time.perf_counter()
            said = model.caption(x)
            captioning = time.perf_counter() - started
            tally = Tally()
            for text, truth in zip(said, truths, strict=True):
                tally.add(text, truth)
            report.add(
                minutes=float(minutes),
                seconds=seconds,
                steps=run.step,
                **tally.shares(),
                objects=tally.objects,
                pictures_a_second=len(x) / captioning,
                nats_a_caption=-float(model.log_likelihood(truths, x).mean()),
                parameters=sum(p.numel() for p in model.parameters()),
                examples=[{"said": a, "truth": b} for a, b in zip(said[:20], truths[:20], strict=True)],
                wrong=[{"said": a, "truth": b} for a, b in zip(said, truths, strict=True) if a != b][:20],
            )
            shown = [picture.movedim(0, -1) for picture in x[:12]]
            larger = [torch.nn.functional.interpolate(p.movedim(-1, 0)[None], scale_factor=4)[0] for p in shown]
            save_picture(
                arguments.results / "captions.png",
                grid([p.movedim(0, -1) for p in larger], captions=said[:12], columns=4),
            )
    report.print()


if __name__ == "__main__":
    main()
