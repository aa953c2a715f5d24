"""Density control towards a target count: the best use of a fixed budget of Gaussians and time.

In the spirit of Mallick et al., *Taming 3DGS* (2024): instead of a gradient threshold, the number of Gaussians follows
a curve to the target, and at each refinement the Gaussians with the highest score are split to fill it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio_splat.strategy.base import Edit, Params, RefineStats, compose, keep_all, rotation_matrices


@dataclass
class BudgetStrategy:
    """Split the highest-scoring Gaussians along their long axis until the count reaches its target."""

    extent: float
    target: int
    """Gaussians at the end of densification."""
    initial: int
    """Gaussians at the start."""
    uses_absgrad: bool = True
    refine_every: int = 100
    start: float = 0.01
    stop: float = 0.75
    """Share of the training after which the count stays."""
    growth: float = 0.6
    """Exponent of the count's curve over that time: below 1, most are added early."""
    prune_opacity: float = 0.01
    prune_fraction: float = 0.5
    """Gaussians larger than this share of the scene's extent are removed."""

    def due(self, step: int, progress: float) -> bool:
        return step % self.refine_every == 0 and self.start < progress < self.stop

    def count_at(self, progress: float) -> int:
        """Target count at a point of the training."""
        share = min(max((progress - self.start) / (self.stop - self.start), 0.0), 1.0)
        return round(self.initial + max(self.target - self.initial, 0) * share**self.growth)

    def after_step(
        self, step: int, progress: float, params: Params, stats: RefineStats, generator: torch.Generator
    ) -> Edit | None:
        if not self.due(step, progress):
            return None
        size = params["scales"].amax(dim=-1).exp()
        remove = (torch.sigmoid(params["opacities"]) < self.prune_opacity) | (size > self.prune_fraction * self.extent)
        kept = ~remove
        count = int(kept.sum())
        # When everything looks prunable, the statistics have failed, not the Gaussians.
        if count == 0:
            return keep_all(params)
        score = torch.where(kept, stats.mean_grad, torch.zeros_like(stats.mean_grad))
        wanted = min(max(self.count_at(progress) - count, 0), count, int((score > 0).sum()))
        parents = score.topk(wanted).indices.sort().values
        kept[parents] = False
        children = [self._child(params, parents, side) for side in (-1.0, 1.0)]
        merged = {name: torch.cat([child[name] for child in children]) for name in params}
        return compose(params, kept.nonzero()[:, 0], torch.cat([parents, parents]), merged)

    def _child(self, params: Params, parents: Tensor, side: float) -> dict[str, Tensor]:
        """One of two halves beside each other on the long axis, so that together they cover the parent."""
        child = {name: value[parents].clone() for name, value in params.items()}
        scales = child["scales"].exp()
        long = scales.argmax(dim=-1, keepdim=True)
        step = torch.zeros_like(scales).scatter_(-1, long, 0.5 * scales.gather(-1, long))
        child["means"] += side * (rotation_matrices(child["quats"]) @ step[..., None])[..., 0]
        shrink = torch.full_like(scales, math.log(0.85)).scatter_(-1, long, math.log(0.6))
        child["scales"] += shrink
        return child

    def reads_stats(self, progress: float) -> bool:
        return progress < self.stop

    def state(self) -> dict[str, Any]:
        return {"initial": self.initial}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.initial = state["initial"]
