"""The games that generator and discriminator play, as functions of logits; every one is minimised.

`real` and `fake` are the discriminator's (critic's) outputs before any sigmoid, one number a sample. With
p = sigmoid(logit), ln p = −softplus(−logit) and ln(1 − p) = −softplus(logit), which neither overflow nor take the
logarithm of 0.

Sources: Goodfellow et al., "Generative Adversarial Nets", 2014 (minimax, non-saturating); Salimans et al., "Improved
Techniques for Training GANs", 2016 (one-sided label smoothing); Arjovsky et al., "Wasserstein GAN", 2017; Gulrajani
et al., "Improved Training of Wasserstein GANs", 2017; Lim and Ye, "Geometric GAN", 2017 (hinge).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, " b"]
Scalar = Float[Tensor, ""]


def discriminator_loss(kind: str, real: Logits, fake: Logits, label_smoothing: float = 1.0) -> Scalar:
    """What the discriminator minimises.

    Args:
        kind: 'minimax', 'non-saturating', 'wasserstein', 'wgan-gp' (without its penalty) or 'hinge'.
        real, fake: Logits of real and generated samples.
        label_smoothing: Target of the real ones in the first two; fakes always have 0.

    Raises:
        ValueError: Another kind.
    """
    if kind in ("minimax", "non-saturating"):
        # −s E ln p(real) − (1 − s) E ln(1 − p(real)) − E ln(1 − p(fake))
        smoothed = label_smoothing * F.softplus(-real) + (1 - label_smoothing) * F.softplus(real)
        return smoothed.mean() + F.softplus(fake).mean()
    if kind in ("wasserstein", "wgan-gp"):
        # E f(fake) − E f(real), minus the distance that the critic estimates
        return fake.mean() - real.mean()
    if kind == "hinge":
        # E max(0, 1 − f(real)) + E max(0, 1 + f(fake))
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    raise ValueError(f"kind must be minimax, non-saturating, wasserstein, wgan-gp or hinge, got {kind!r}")


def generator_loss(kind: str, fake: Logits) -> Scalar:
    """What the generator minimises; kinds as in `discriminator_loss`."""
    if kind == "minimax":
        # E ln(1 − p(fake)): its slope vanishes where the discriminator is sure
        return -F.softplus(fake).mean()
    if kind == "non-saturating":
        # −E ln p(fake)
        return F.softplus(-fake).mean()
    if kind in ("wasserstein", "wgan-gp", "hinge"):
        return -fake.mean()
    raise ValueError(f"kind must be minimax, non-saturating, wasserstein, wgan-gp or hinge, got {kind!r}")


@torch.no_grad()
def clip_weights(parameters: Iterable[Tensor], limit: float) -> None:
    """Keep every weight of a Wasserstein critic within ±limit, so that its slope is bounded."""
    for parameter in parameters:
        parameter.clamp_(-limit, limit)


def gradient_penalty(
    critic: Callable[[Tensor], Logits],
    real: Float[Tensor, "b ..."],
    fake: Float[Tensor, "b ..."],
    shares: Float[Tensor, " b"],
) -> Scalar:
    """E (‖∇f(x̂)‖ − 1)² at points x̂ = ε x + (1 − ε) x̃ between real and generated samples; no weight applied.

    Args:
        critic: Samples → logits; each sample's logit must depend on that sample only (no batch norm).
        real, fake: Samples x and x̃.
        shares: ε in [0, 1], one a sample.
    """
    share = shares.reshape(-1, *[1] * (real.ndim - 1))
    between = (share * real + (1 - share) * fake).detach().requires_grad_(True)
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()
