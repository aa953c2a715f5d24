"""The sliced Wasserstein distance of two sets of points (Rabin et al. 2011)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def wasserstein_1d(a: Float[Tensor, "n k"], b: Float[Tensor, "m k"]) -> Float[Tensor, " k"]:
    """Squared 2-Wasserstein distance of each column's two samples: the integral of the squared difference of their
    quantile functions, exact for any n and m.
    """
    a, b = a.double().sort(dim=0).values, b.double().sort(dim=0).values
    n, m = len(a), len(b)
    # Both quantile functions are constant between neighbouring multiples of 1/n and of 1/m.
    edges = torch.cat([torch.arange(n + 1).double() / n, torch.arange(m + 1).double() / m]).unique()
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1:] - edges[:-1]
    first = a[(middle * n).long().clamp(max=n - 1)]
    second = b[(middle * m).long().clamp(max=m - 1)]
    return ((first - second).square() * width[:, None]).sum(dim=0)


def sliced_wasserstein(
    a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], *, directions: int = 256, seed: int = 0
) -> float:
    """Root of the mean squared 2-Wasserstein distance over random directions, in units of the points."""
    draw = torch.Generator().manual_seed(seed)
    along = torch.randn(a.shape[1], directions, generator=draw, dtype=torch.float64)
    along = along / along.norm(dim=0)
    return float(wasserstein_1d(a.double() @ along, b.double() @ along).mean().sqrt())
