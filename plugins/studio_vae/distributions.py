"""The closed forms that variational autoencoders are made of; all in nats, one number a sample.

Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014; Burda, Grosse and Salakhutdinov, "Importance
Weighted Autoencoders", 2016.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

_LN_2PI = math.log(2 * math.pi)


def kl_to_standard_normal(mean: Float[Tensor, "b d"], log_std: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
    """KL(N(μ, diag σ²) ‖ N(0, I)) of each row."""
    # ½ Σ (μ² + σ² − 1 − ln σ²)
    return 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(1)


def gaussian_log_prob(
    x: Float[Tensor, "b ..."], mean: Float[Tensor, "b ..."], log_std: Float[Tensor, "*any"] | float
) -> Float[Tensor, " b"]:
    """ln N(x; mean, σ²) with independent entries, summed over all but the first axis; `log_std` broadcasts to `x`."""
    log_std = torch.as_tensor(log_std, dtype=x.dtype, device=x.device)
    # −½ ((x − μ)/σ)² − ln σ − ½ ln 2π
    return (-0.5 * ((x - mean) * (-log_std).exp()).square() - log_std - 0.5 * _LN_2PI).flatten(1).sum(1)


def bernoulli_log_prob(x: Float[Tensor, "b ..."], logits: Float[Tensor, "b ..."]) -> Float[Tensor, " b"]:
    """Σ x ln p + (1 − x) ln(1 − p), p = sigmoid(logits), over all but the first axis.

    For grey values x in (0, 1) this is the expected log-probability of a picture whose pixels are drawn black or white
    with those probabilities.
    """
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def reparameterise(
    mean: Float[Tensor, "b d"], log_std: Float[Tensor, "b d"], noise: Float[Tensor, "b d"]
) -> Float[Tensor, "b d"]:
    """A draw of N(μ, diag σ²) that gradients pass through: z = μ + σ ⊙ ε with standard normal ε."""
    return mean + log_std.exp() * noise


def log_mean_exp(values: Float[Tensor, "k b"]) -> Float[Tensor, " b"]:
    """ln of the mean of exp(values) over the first axis."""
    return values.logsumexp(0) - math.log(values.shape[0])
