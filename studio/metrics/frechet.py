"""The Fréchet distance between Gaussians fitted to two sets of features (FID: Heusel et al. 2017)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def gaussian_of(features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Mean and unbiased covariance in float64.

    Raises:
        ValueError: Fewer than two samples.
    """
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"features must be (n, d) with n >= 2, got {tuple(features.shape)}")
    x = features.double()
    mean = x.mean(dim=0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def frechet_distance(
    mean_a: Float[Tensor, " d"],
    covariance_a: Float[Tensor, "d d"],
    mean_b: Float[Tensor, " d"],
    covariance_b: Float[Tensor, "d d"],
) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2): the squared 2-Wasserstein distance of two Gaussians
    (Dowson and Landau 1982). Symmetric roots keep it real also where a covariance is singular.
    """
    mean_a, covariance_a, mean_b, covariance_b = (t.double() for t in (mean_a, covariance_a, mean_b, covariance_b))
    root = _root(covariance_a)
    product = root @ covariance_b @ root
    overlap = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * overlap
    return max(float(distance), 0.0)


def fid(real: Float[Tensor, "n d"], generated: Float[Tensor, "m d"]) -> float:
    """Fréchet distance of features. Biased upwards for few samples: compare at equal counts only.

    Raises:
        ValueError: Fewer than two samples on a side.
    """
    return frechet_distance(*gaussian_of(real), *gaussian_of(generated))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
