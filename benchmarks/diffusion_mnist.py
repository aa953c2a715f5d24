"""Conditional MNIST by diffusion: are its samples the digits that were asked for?

    python benchmarks/diffusion_mnist.py

Trains the preset mnist by `studio train` and lets an independent classifier read samples of 50 DDIM steps; writes
results/diffusion_mnist.json, a grid of samples, and the film of ten digits: the noisy picture and the expected one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from digits import benchmark_digits
from torch import Tensor

from studio.datasets import load_dataset
from studio.devices.report import cache_folder
from studio.export.pictures import grid, save_picture
from studio.metrics.classifier import find_classifier
from studio.training.loaded import LoadedRun

_FRAMES = 10
_FEW = 500


def film(run: LoadedRun, folder: Path) -> None:
    """One digit of each class a column; rows go down the noise levels, x_t above the x_0 that is expected there."""
    model: Any = run.generator
    classes = list(range(run.generator.data_info.num_classes or 1))
    rows = []
    for predicted in (False, True):
        frames = model.trajectory(len(classes), classes, torch.Generator().manual_seed(3), predicted=predicted).cpu()
        rows.append(frames[torch.linspace(0, len(frames) - 1, _FRAMES).round().long()])
    shown = torch.stack(rows, dim=1).flatten(0, 2)
    picture = grid([digit.movedim(0, -1).expand(-1, -1, 3) for digit in shown], columns=len(classes))
    save_picture(folder / "diffusion_mnist_film.png", picture)


def other_choices(run: LoadedRun, x: Tensor, labels: Tensor) -> dict[str, Any]:
    """Share of samples that the classifier recognises with fewer evaluations of the network, and without guidance."""
    train, test = (load_dataset(run.config.data.path, split=split) for split in ("train", "test"))
    classifier = find_classifier(train, test, cache=cache_folder() / "classifiers")
    asked = torch.arange(_FEW) * (train.num_classes or 1) // _FEW
    figures = {}
    for name, options in (
        ("5_steps", {"steps": 5}),
        ("10_steps", {"steps": 10}),
        ("20_steps", {"steps": 20}),
        ("50_steps_without_guidance", {"steps": 50, "guidance": 1.0}),
    ):
        drawn = run.generator.sample(_FEW, asked.tolist(), torch.Generator().manual_seed(2), **options)
        assert isinstance(drawn, Tensor)
        recognised = classifier.logits(drawn.cpu()).argmax(dim=1) == asked
        figures[f"class_accuracy_{name}"] = float(recognised.double().mean())
    return figures


if __name__ == "__main__":
    benchmark_digits("diffusion", "mnist", __doc__, 0.96, other_choices, pictures=film, drawn=100, repetitions=3)
