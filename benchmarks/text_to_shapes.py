"""Pictures of shapes by their captions: does another plugin, trained apart, read back what was asked for?

    python benchmarks/text_to_shapes.py
    python benchmarks/text_to_shapes.py --run RUN --caption-run RUN --guidance 1 2 3 5

Trains the preset shapes of `diffusion` on captioned pictures, and the captioner that judges it, by `studio train`; or
takes trained runs. Writes results/text_to_shapes.json, a grid of samples, and the film of some.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from described import described
from harness import RESULTS, CommandRun, Report, gib, train_command
from torch import Tensor

from studio.datasets import load_dataset
from studio.datasets.shapes import parse_caption
from studio.devices import apply_threads
from studio.export.pictures import grid, save_picture
from studio.metrics.attributes import asked_and_seen, score_captions
from studio.training.loaded import open_run
from studio.training.sampling import draw_samples
from studio_gpt.caption_plugin import Captioner

PROTOCOL = (
    "shapes:{size}; captions of {count:,} held-out scenes, one sample each, {steps} DDIM steps, seed 1. The captioner, "
    "trained apart on real pictures of the training split, describes each sample. Read back: share of the objects "
    "asked for that its description has with the right shape and colour, objects paired so that most fit (as `studio "
    "eval --caption-run` reports it); all objects: share of the samples where this holds for each; the other columns "
    "count single attributes and stated relations. The row 'held out' is the same for the real pictures: "
    "what the captioner can read at best. Which guidance is reported beside none is chosen on {chosen:,} captions of "
    "the training split, by what is read back. Training on {threads} thread(s); seconds of the whole command, by the "
    "clock and as processor time."
)
TARGET = 0.80
_SHOWN, _FILMED, _FRAMES = 24, 6, 8


def figures_of(asked: Sequence[str], seen: Sequence[str]) -> dict[str, Any]:
    """What of the captions that were asked for is seen, overall and by the number of objects."""
    pairs = list(zip(asked, seen, strict=True))
    groups: dict[int, list[tuple[str, str]]] = {}
    for pair in pairs:
        groups.setdefault(len(parse_caption(pair[0]).objects), []).append(pair)
    scores = score_captions(seen, asked)
    return {
        "read_back": asked_and_seen(asked, seen),
        "all_objects": sum(asked_and_seen([a], [b]) == 1 for a, b in pairs) / len(pairs),
        "shape": scores.shape,
        "color": scores.color,
        "size": scores.size,
        "material": scores.material,
        "relation": scores.relation,
        "count": scores.count,
        "by_objects": {n: asked_and_seen(*zip(*group, strict=True)) for n, group in sorted(groups.items())},
    }


def best_scale(read_back: dict[float, float]) -> float:
    """The guidance with which most is read back; of equal ones the smallest, which is nearest to the model itself."""
    return min(read_back, key=lambda scale: (-read_back[scale], scale))


def film(model: Any, captions: Sequence[str], guidance: float, path: Path) -> None:
    """A caption a column; rows go down the noise levels, x_t above the x_0 that is expected there."""
    kinds = []
    for predicted in (False, True):
        noise = torch.Generator().manual_seed(3)
        frames = model.trajectory(len(captions), captions, noise, predicted=predicted, guidance=guidance).cpu()
        kinds.append(frames[torch.linspace(0, len(frames) - 1, _FRAMES).round().long()])
    cells = torch.stack(kinds, dim=1).flatten(0, 2)
    cells = torch.nn.functional.interpolate(cells, scale_factor=3.0, mode="nearest")
    save_picture(path, grid([cell.movedim(0, -1) for cell in cells], columns=len(captions)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=None, help="a trained run of diffusion")
    parser.add_argument("--caption-run", type=Path, default=None, help="a trained run of caption, the judge")
    parser.add_argument("--size", type=int, default=32, help="of the pictures, pixels")
    parser.add_argument("--preset", default="shapes")
    parser.add_argument("--steps", type=int, default=None, help="of training; default: the preset's")
    parser.add_argument("--count", type=int, default=500, help="samples that are read")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 4.0], help="scales to choose from")
    parser.add_argument("--chosen-on", type=int, default=250, help="training captions that the guidance is chosen on")
    parser.add_argument("--evaluations", type=int, default=50, help="DDIM steps")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=None, help="keep the runs here; default: delete them")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    apply_threads()
    report = Report(
        "text_to_shapes",
        title=f"shapes:{arguments.size} by their captions, read back by a captioner",
        protocol=PROTOCOL.format(
            size=arguments.size,
            count=arguments.count,
            chosen=arguments.chosen_on,
            steps=arguments.evaluations,
            threads=torch.get_num_threads(),
        ),
        settings=vars(arguments),
        folder=arguments.results,
    )
    name = f"shapes:{arguments.size}"
    common = ["--seed", str(arguments.seed), "--device", arguments.device]
    with tempfile.TemporaryDirectory() as scratch:
        runs = arguments.runs or Path(scratch)
        trained: CommandRun | None = None
        if arguments.caption_run is None:
            arguments.caption_run = runs / "captioner"
            train_command("caption", name, arguments.caption_run, "--preset", "shapes", *common)
        if arguments.run is None:
            arguments.run = runs / "text_to_shapes"
            steps = [] if arguments.steps is None else ["--steps", str(arguments.steps)]
            trained = train_command("diffusion", name, arguments.run, "--preset", arguments.preset, *common, *steps)
        judge = open_run(arguments.caption_run, device=arguments.device).generator
        assert isinstance(judge, Captioner)
        run = open_run(arguments.run, device=arguments.device)
        real, captions = load_dataset(name, split="test").batch(range(arguments.count))
        noise = torch.Generator().manual_seed(0)
        report.add(pictures="held out", **figures_of(captions, judge.caption(real, noise)))
        # No held-out caption is looked at before the guidance is fixed.
        asked = load_dataset(name, split="train").batch(range(arguments.chosen_on))[1]

        def pictures(scale: float, of: Sequence[str]) -> Tensor:
            options = {"guidance": scale, "steps": arguments.evaluations}
            made = draw_samples(run.generator, len(of), of, seed=1, options=options)
            assert isinstance(made, Tensor)
            return made

        on_training = {
            scale: asked_and_seen(asked, judge.caption(pictures(scale, asked), noise)) for scale in arguments.guidance
        }
        chosen = best_scale(on_training)
        for guidance in sorted({1.0, chosen}):
            started = time.perf_counter()
            samples = pictures(guidance, captions)
            seconds = time.perf_counter() - started
            seen = judge.caption(samples, noise)
            figures = figures_of(captions, seen)
            report.add(
                pictures=f"guidance {guidance:g}",
                **figures,
                chosen=guidance == chosen,
                on_training_captions={f"{scale:g}": share for scale, share in on_training.items()},
                reached=figures["read_back"] >= TARGET,
                samples_a_second=arguments.count / seconds,
                steps=run.step,
                **_training(trained),
                target={"read_back": TARGET},
                examples=[{"asked": a, "seen": b} for a, b in zip(captions[:_SHOWN], seen[:_SHOWN], strict=True)],
            )
            if guidance == chosen:
                shown = samples
        cells = [described(sample, text) for sample, text in zip(shown[:_SHOWN], captions[:_SHOWN], strict=True)]
        save_picture(arguments.results / "text_to_shapes.png", grid(cells, columns=6))
        film(run.generator, captions[:_FILMED], chosen, arguments.results / "text_to_shapes_film.png")
    report.print()


def _training(trained: CommandRun | None) -> dict[str, Any]:
    if trained is None:
        return {}
    return {
        "seconds": trained.seconds,
        "cpu_seconds": trained.cpu_seconds,
        "peak_memory": gib(trained.peak_memory),
    }


if __name__ == "__main__":
    main()
