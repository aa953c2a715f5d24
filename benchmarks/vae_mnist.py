"""Conditional MNIST by the VAE: are its samples the digits that were asked for, and how likely are real ones?

    python benchmarks/vae_mnist.py

Trains the preset cvae-mnist by `studio train`, lets an independent classifier read the samples, and bounds the
likelihood of held-out digits; writes results/vae_mnist.json and a grid of samples.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from digits import benchmark_digits
from torch import Tensor

from studio.training.loaded import LoadedRun

_IMPORTANCE_SAMPLES = 64


def likelihood(run: LoadedRun, x: Tensor, labels: Tensor) -> dict[str, Any]:
    """The importance-weighted bound of held-out digits given their class, in nats and in bits a pixel."""
    vae: Any = run.generator
    noise = torch.Generator().manual_seed(0)
    bound = torch.cat(
        [
            vae.log_likelihood(part, known, noise, importance_samples=_IMPORTANCE_SAMPLES)
            for part, known in zip(x.split(250), labels.split(250), strict=True)
        ]
    )
    nats = float(bound.mean())
    return {
        "held_out_nats": nats,
        "bits_a_pixel": -nats / (math.log(2) * x[0].numel()),
        "likelihood": f"bound by {_IMPORTANCE_SAMPLES} importance samples; grey values as Bernoulli probabilities",
        "reconstruction_mse": float(vae.anomaly_score(x, labels).mean()),
    }


if __name__ == "__main__":
    benchmark_digits("vae", "cvae-mnist", __doc__, 0.85, likelihood)
