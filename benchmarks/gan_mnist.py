"""Conditional MNIST by the GAN: are its samples the digits that were asked for?

    python benchmarks/gan_mnist.py

Trains the preset cgan-mnist by `studio train` and lets an independent classifier read the samples; also how closely
held-out digits can be found in latent space. Writes results/gan_mnist.json and a grid of samples.
"""

from __future__ import annotations

from typing import Any

import torch
from digits import benchmark_digits
from torch import Tensor

from studio.training.loaded import LoadedRun

_INVERTED = 50


def inversion(run: LoadedRun, x: Tensor, labels: Tensor) -> dict[str, Any]:
    """Mean squared error of held-out digits found again by inversion, beside that of the nearest of 1,000 samples."""
    gan: Any = run.generator
    wanted, known = x[:_INVERTED], labels[:_INVERTED]
    found = gan.reconstruct(wanted, known, torch.Generator().manual_seed(0)).cpu()
    drawn = gan.sample(1000, generator=torch.Generator().manual_seed(2)).cpu()
    nearest = torch.cdist(wanted.flatten(1), drawn.flatten(1)).amin(1).square() / x[0].numel()
    return {
        "inversion_mse": float((found - wanted).square().mean()),
        "nearest_sample_mse": float(nearest.mean()),
        "inverted": _INVERTED,
    }


if __name__ == "__main__":
    benchmark_digits("gan", "cgan-mnist", __doc__, 0.90, inversion)
