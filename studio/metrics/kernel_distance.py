"""Maximum mean discrepancy (Gretton et al. 2012); with the cubic kernel over subsets KID (Bińkowski et al. 2018)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Kid(NamedTuple):
    """The mean over subsets, and the standard error of that mean."""

    value: float
    error: float


def mmd2_from_kernels(xx: Float[Tensor, "n n"], yy: Float[Tensor, "m m"], xy: Float[Tensor, "n m"]) -> Tensor:
    """The unbiased estimate of MMD^2; may be below zero.

    sum_{i != j} k(x_i, x_j) / (n (n-1)) + sum_{i != j} k(y_i, y_j) / (m (m-1)) - 2 mean k(x_i, y_j)
    """
    n, m = len(xx), len(yy)
    if n < 2 or m < 2:
        raise ValueError(f"two samples on each side are needed, got {n} and {m}")
    within_x = (xx.sum() - xx.diagonal().sum()) / (n * (n - 1))
    within_y = (yy.sum() - yy.diagonal().sum()) / (m * (m - 1))
    return within_x + within_y - 2 * xy.mean()


def cubic_mmd2(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Unbiased MMD^2 with the kernel (x . y / d + 1)^3."""
    x, y = x.double(), y.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1).pow(3)

    return float(mmd2_from_kernels(kernel(x, x), kernel(y, y), kernel(x, y)))


def kid(
    real: Float[Tensor, "n d"],
    generated: Float[Tensor, "m d"],
    *,
    subsets: int = 50,
    subset_size: int = 500,
    seed: int = 0,
) -> Kid:
    """Mean cubic MMD^2 of random subsets (drawn without repeats) of both sides; unbiased at any number of samples.

    Raises:
        ValueError: Fewer than two samples on a side, or subsets that small.
    """
    size = min(subset_size, len(real), len(generated))
    draw = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets):
        a = real[torch.randperm(len(real), generator=draw)[:size]]
        b = generated[torch.randperm(len(generated), generator=draw)[:size]]
        values.append(cubic_mmd2(a, b))
    result = torch.tensor(values, dtype=torch.float64)
    error = float(result.std()) / subsets**0.5 if subsets > 1 else 0.0
    return Kid(float(result.mean()), error)
