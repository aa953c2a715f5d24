"""The variational autoencoder of points, and the bounds that all VAEs share.

The encoder gives q(z|x) = N(μ(x), diag σ(x)²), the decoder p(x|z), the prior is p(z) = N(0, I). Training maximises

    ELBO(x) = E_q[ln p(x|z)] − KL(q(z|x) ‖ p(z)) ≤ ln p(x),

the expectation by one draw z = μ + σ ⊙ ε; β-VAE (Higgins et al. 2017) weights the KL term by β.
Source: Kingma and Welling, "Auto-Encoding Variational Bayes", 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from studio_vae.distributions import gaussian_log_prob, kl_to_standard_normal, log_mean_exp, reparameterise
from studio_vae.layers import mlp

Decode = Callable[[Tensor], Tensor]
LogProb = Callable[[Tensor], Tensor]


class GaussianEncoder(nn.Module):
    """q(z|x): data_dim → hidden, each with ReLU, then one linear head each for μ and ln σ."""

    def __init__(self, data_dim: int, hidden: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.trunk = mlp((data_dim, *hidden), activate_last=True)
        self.mean = nn.Linear(hidden[-1], latent_dim)
        self.log_std = nn.Linear(hidden[-1], latent_dim)

    def forward(self, x: Float[Tensor, "b data_dim"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        features = self.trunk(x)
        return self.mean(features), self.log_std(features)


class PointDecoder(nn.Module):
    """p(x|z): the trunk mirrored; returns the mean of a Gaussian."""

    def __init__(self, data_dim: int, hidden: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.layers = mlp((latent_dim, *reversed(hidden), data_dim))

    def forward(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b data_dim"]:
        return self.layers(z)


def elbo_terms(
    mean: Float[Tensor, "b d"], log_std: Float[Tensor, "b d"], noise: Float[Tensor, "b d"], log_prob: LogProb
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """E_q[ln p(x|z)] by one draw, and KL(q ‖ p(z)); the ELBO is their difference.

    Args:
        mean, log_std: q(z|x) of a batch.
        noise: Standard normal.
        log_prob: z (b, d) → ln p(x|z) (b,).
    """
    return log_prob(reparameterise(mean, log_std, noise)), kl_to_standard_normal(mean, log_std)


def importance_weighted_bound(
    mean: Float[Tensor, "b d"],
    log_std: Float[Tensor, "b d"],
    noises: Iterable[Float[Tensor, "b d"]],
    log_prob: LogProb,
) -> Float[Tensor, " b"]:
    """ln (1/K) Σ_k p(x|z_k) p(z_k) / q(z_k|x): a lower bound of ln p(x) in expectation, tighter with every draw.

    Args:
        mean, log_std: q(z|x) of a batch.
        noises: K batches of standard normal draws.
        log_prob: z (b, d) → ln p(x|z) (b,).

    Source: Burda, Grosse and Salakhutdinov, "Importance Weighted Autoencoders", 2016, eq. 8.
    """
    weights = []
    for noise in noises:
        z = reparameterise(mean, log_std, noise)
        prior, posterior = gaussian_log_prob(z, torch.zeros_like(z), 0.0), gaussian_log_prob(z, mean, log_std)
        weights.append(log_prob(z) + prior - posterior)
    return log_mean_exp(torch.stack(weights))
