"""How much of the data a generator covers and how much of what it makes is like data, by nearest neighbours.

Precision and recall: Kynkäänniemi et al. 2019. Density and coverage: Naeem et al. 2020.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK = 2048


class Manifold(NamedTuple):
    """All four; a perfect generator has 1, 1, 1 and nearly 1."""

    precision: float
    """Share of the generated that lie within the k-th-neighbour ball of some real sample."""
    recall: float
    """Share of the real that lie within such a ball of a generated sample."""
    density: float
    """In how many balls of real samples a generated one lies, over k; may exceed 1."""
    coverage: float
    """Share of the real whose own ball holds a generated sample."""


def manifold_scores(
    real: Float[Tensor, "n d"], generated: Float[Tensor, "m d"], *, k_precision: int = 3, k_density: int = 5
) -> Manifold:
    """Precision and recall with balls to the `k_precision`-th neighbour, density and coverage with `k_density`.

    Raises:
        ValueError: Not more samples than neighbours.
    """
    most = max(k_precision, k_density)
    if min(len(real), len(generated)) <= most:
        raise ValueError(f"more than {most} samples are needed, got {len(real)} and {len(generated)}")
    real, generated = real.double(), generated.double()
    real_radii, generated_radii = _radii(real, most), _radii(generated, most)
    precise = torch.zeros(len(generated), dtype=torch.bool)
    balls = torch.zeros(len(generated), dtype=torch.float64)
    recalled, covered = [], []
    for start in range(0, len(real), _CHUNK):
        rows = slice(start, start + _CHUNK)
        distance = torch.cdist(real[rows], generated)
        precise |= (distance <= real_radii[rows, k_precision - 1, None]).any(dim=0)
        balls += (distance <= real_radii[rows, k_density - 1, None]).sum(dim=0)
        recalled.append((distance <= generated_radii[None, :, k_precision - 1]).any(dim=1))
        covered.append(distance.amin(dim=1) <= real_radii[rows, k_density - 1])
    return Manifold(
        float(precise.double().mean()),
        float(torch.cat(recalled).double().mean()),
        float(balls.mean()) / k_density,
        float(torch.cat(covered).double().mean()),
    )


def _radii(x: Tensor, k: int) -> Float[Tensor, "n k"]:
    """Distances of the 1st to k-th neighbour of each sample among the others."""
    parts = []
    for start in range(0, len(x), _CHUNK):
        distance = torch.cdist(x[start : start + _CHUNK], x)
        rows = torch.arange(len(distance))
        # Itself is no neighbour; equal samples are.
        distance[rows, rows + start] = torch.inf
        parts.append(distance.topk(k, dim=1, largest=False).values)
    return torch.cat(parts)
