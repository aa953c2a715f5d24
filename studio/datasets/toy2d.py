"""Two-dimensional toy sets: distributions whose shape one sees at a glance."""

from __future__ import annotations

import difflib
import math

import torch

from studio.datasets.arrays import ArrayDataset
from studio.errors import StudioError

TOYS = ("swiss-roll", "moons", "gaussians")


def toy_dataset(name: str, n: int = 10_000, seed: int = 0) -> ArrayDataset:
    """`n` points of the named toy set, scaled to about unit standard deviation; equal seeds give equal points.

    The points of moons and gaussians carry the number of their arc or component as label.

    Raises:
        StudioError: Unknown name.
    """
    g = torch.Generator().manual_seed(seed)
    labels = None
    if name == "swiss-roll":
        # Arc from 1.5 pi to 4.5 pi, as in the usual 3D swiss roll with the height dropped.
        t = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=g))
        x = torch.stack([t * t.cos(), t * t.sin()], dim=1) + 0.5 * torch.randn(n, 2, generator=g)
        x = x / 8.0
    elif name == "moons":
        labels = torch.arange(n) % 2
        t = math.pi * torch.rand(n, generator=g)
        upper = torch.stack([t.cos(), t.sin()], dim=1)
        lower = torch.stack([1 - t.cos(), 0.5 - t.sin()], dim=1)
        x = torch.where(labels[:, None] == 0, upper, lower) + 0.08 * torch.randn(n, 2, generator=g)
        x = (x - torch.tensor([0.5, 0.25])) / 0.8
    elif name == "gaussians":
        labels = torch.arange(n) % 8
        angle = labels * (math.pi / 4)
        x = 1.4 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.1 * torch.randn(n, 2, generator=g)
    else:
        near = difflib.get_close_matches(name, TOYS, n=1)
        hint = f"Did you mean toy:{near[0]}?" if near else f"Toy sets: {', '.join(TOYS)}."
        raise StudioError(f"There is no toy set named '{name}'.", fix=hint)
    return ArrayDataset(name, x.float(), labels)
