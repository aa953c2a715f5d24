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
from jaxtyping import Bool
from torch import Tensor

from studio_splat.strategy.base import Edit, Params, RefineStats, compose, keep_all, rotation_matrices

FEWEST_VIEWS = 5
"""Photos that must have had a Gaussian in view before it is removed for showing too little."""


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
    per_step: float = math.inf
    """Gaussians for each step of the training, where that makes fewer than `target`: short ones cannot teach many."""
    prune_weight: float = 0.0
    """Gaussians that show less than this share of the mean, in the photos that could see them, are removed."""
    tile_budget: float = 0.0
    """Gaussians in a tile, on average, above which those that show least for their tiles are removed; 0: no limit."""
    weigh_start: float = 0.25
    weigh_every: float = 0.125
    """What Gaussians show is counted for one interval between refinements at the start and at every such share."""
    _goal: int | None = None
    _weighings: int = 0
    _weighing: bool = False

    def due(self, step: int, progress: float) -> bool:
        return step % self.refine_every == 0 and self.start < progress < self.stop

    def count_at(self, progress: float) -> int:
        """Target count at a point of the training."""
        share = min(max((progress - self.start) / (self.stop - self.start), 0.0), 1.0)
        goal = self.target if self._goal is None else self._goal
        return round(self.initial + max(goal - self.initial, 0) * share**self.growth)

    def expect(self, total_steps: float) -> None:
        self._goal = min(self.target, max(int(min(self.per_step * total_steps, self.target)), self.initial))

    def after_step(
        self, step: int, progress: float, params: Params, stats: RefineStats, generator: torch.Generator
    ) -> Edit | None:
        if not self.due(step, progress):
            return None
        size = params["scales"].amax(dim=-1).exp()
        remove = (torch.sigmoid(params["opacities"]) < self.prune_opacity) | (size > self.prune_fraction * self.extent)
        over_budget = False
        if stats.weight is not None:
            idle, over_budget = self._idle(stats)
            remove |= idle
            self._weighings += 1
        due = self.weigh_start + self.weigh_every * self._weighings
        self._weighing = (self.prune_weight > 0 or self.tile_budget > 0) and progress >= due
        kept = ~remove
        # When everything looks prunable, the statistics have failed, not the Gaussians.
        if not bool(kept.any()):
            return keep_all(params)
        if not over_budget:
            kept = self._enough(kept, params, stats)
        count = int(kept.sum())
        score = torch.where(kept, stats.mean_grad, torch.zeros_like(stats.mean_grad))
        wanted = 0 if over_budget else max(self.count_at(progress) - count, 0)
        wanted = min(wanted, count, int((score > 0).sum()))
        parents = score.topk(wanted).indices.sort().values
        kept[parents] = False
        children = [self._child(params, parents, side) for side in (-1.0, 1.0)]
        merged = {name: torch.cat([child[name] for child in children]) for name in params}
        return compose(params, kept.nonzero()[:, 0], torch.cat([parents, parents]), merged)

    def _enough(self, kept: Bool[Tensor, " n"], params: Params, stats: RefineStats) -> Bool[Tensor, " n"]:
        """As many as training began with stay, or take the place of others: a short one has no time to win back more.

        Those that training moved least are hardly worth splitting; of what was to go, the most opaque come back.
        """
        splittable = int((kept & (stats.mean_grad > 0)).sum())
        short = self.initial - int(kept.sum()) - splittable
        gone = (~kept).nonzero()[:, 0]
        if short <= 0 or not len(gone):
            return kept
        back = params["opacities"][gone].topk(min(short, len(gone))).indices
        kept = kept.clone()
        kept[gone[back]] = True
        return kept

    def _idle(self, stats: RefineStats) -> tuple[Bool[Tensor, " n"], bool]:
        """Gaussians that show too little, and whether tiles listed more of them than the budget allows.

        Of those that few photos could see, little is known: they stay.
        """
        assert stats.weight is not None
        assert stats.pairs is not None
        judged = stats.count >= FEWEST_VIEWS
        if not bool(judged.any()):
            return judged, False
        shown = stats.weight / stats.count.clamp(min=1)
        idle = judged & (shown < self.prune_weight * shown[judged].mean())
        excess = float(stats.pairs.sum()) - self.tile_budget * stats.tiles
        if self.tile_budget <= 0 or excess <= 0:
            return idle, False
        # Those removed already count towards it: they come first.
        worth = torch.where(judged, stats.weight / stats.pairs.clamp(min=1), torch.inf)
        order = torch.where(idle, -1.0, worth).argsort()
        before = stats.pairs[order].cumsum(0) - stats.pairs[order]
        idle[order[before < excess]] = True
        return idle & judged, True

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

    def weighs(self, progress: float) -> bool:
        return self._weighing and progress < self.stop

    def reads_stats(self, progress: float) -> bool:
        return progress < self.stop

    def state(self) -> dict[str, Any]:
        return {"initial": self.initial, "weighings": self._weighings, "weighing": self._weighing}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.initial = state["initial"]
        self._weighings, self._weighing = state["weighings"], state["weighing"]
