"""The paper's adaptive density control (Kerbl et al., *3D Gaussian Splatting*, 2023, section 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from studio_splat.strategy.base import Edit, Params, RefineStats, compose, keep_all, revised_opacity, rotation_matrices

_REFINEMENTS_TO_RECOVER = 5
"""Opacities are reset only where at least this many refinements follow before the next reset; the paper has 30."""


@dataclass
class AdaptiveStrategy:
    """Clone small and split large Gaussians whose screen-space gradient is high; prune faint and huge ones.

    Intervals are in steps of a 30,000-step training and stretch with the real length.
    """

    extent: float
    """Scene extent that sizes are relative to (`Scene.camera_extent`)."""
    total_steps: int
    """Length of the training; a very short one has no opacity resets."""
    max_gaussians: int
    uses_absgrad: bool = False
    grad_threshold: float = 2e-4
    """Mean gradient above which a Gaussian is densified; 8e-4 suits absolute gradients."""
    dense_fraction: float = 0.01
    """Gaussians larger than this share of the extent are split, smaller ones cloned."""
    prune_opacity: float = 0.005
    prune_fraction: float = 0.1
    """Gaussians larger than this share of the extent are removed, once opacities have been reset."""
    use_revised_opacity: bool = False
    refine_every: int = 100
    start: float = 500 / 30_000
    stop: float = 0.5
    reset_every: float = 3_000 / 30_000
    _resets: int = 0

    def due(self, step: int, progress: float) -> bool:
        return self._refine_due(step, progress) or self._reset_due(progress)

    def _refine_due(self, step: int, progress: float) -> bool:
        return step % self.refine_every == 0 and self.start < progress < self.stop

    def _reset_due(self, progress: float) -> bool:
        # A short training has no time to win the opacities back: the next refinements would prune everything.
        if self.reset_every * self.total_steps < _REFINEMENTS_TO_RECOVER * self.refine_every:
            return False
        return progress < self.stop and math.floor(progress / self.reset_every) > self._resets

    def after_step(
        self, step: int, progress: float, params: Params, stats: RefineStats, generator: torch.Generator
    ) -> Edit | None:
        edit = self._refine(params, stats, generator) if self._refine_due(step, progress) else None
        if self._reset_due(progress):
            self._resets = math.floor(progress / self.reset_every)
            edit = edit or keep_all(params)
            # Faint again, so that those the photos need must earn their opacity and the rest can be pruned.
            edit.params["opacities"].clamp_(max=math.log(0.01 / 0.99))
            edit.reset_opacity_moments = True
        return edit

    def _refine(self, params: Params, stats: RefineStats, generator: torch.Generator) -> Edit:
        size = params["scales"].amax(dim=-1).exp()
        high = stats.mean_grad > self.grad_threshold
        high &= self._within_cap(stats.mean_grad, high)
        split = high & (size > self.dense_fraction * self.extent)
        clone = high & ~split
        opacity = torch.sigmoid(params["opacities"])
        remove = opacity < self.prune_opacity
        if self._resets:
            remove |= size > self.prune_fraction * self.extent
        # A faint Gaussian is not worth densifying; if all are faint, statistics have failed and nothing is removed.
        if bool(remove.all()):
            return keep_all(params)
        kept = (~remove & ~split).nonzero()[:, 0]
        cloned, parted = (clone & ~remove).nonzero()[:, 0], (split & ~remove).nonzero()[:, 0]
        children = [{name: value[cloned] for name, value in params.items()}]
        children += [self._child(params, parted, generator) for _ in range(2)]
        parents = torch.cat([cloned, parted, parted])
        merged = {name: torch.cat([child[name] for child in children]) for name in params}
        edit = compose(params, kept, parents, merged)
        if self.use_revised_opacity:
            doubled = clone[edit.source] | edit.fresh
            edit.params["opacities"][doubled] = revised_opacity(edit.params["opacities"][doubled])
        return edit

    def _within_cap(self, score: Tensor, chosen: Tensor) -> Tensor:
        """Limit how many are densified so that the cap holds: the highest gradients first."""
        room = max(self.max_gaussians - len(score), 0)
        if int(chosen.sum()) <= room:
            return chosen
        allowed = torch.zeros_like(chosen)
        if room:
            ranked = torch.where(chosen, score, torch.full_like(score, -1.0))
            allowed[ranked.topk(room).indices] = True
        return allowed

    def _child(self, params: Params, parents: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Half of a split: a sample of the parent's own distribution, 1.6 times smaller."""
        child = {name: value[parents].clone() for name, value in params.items()}
        # Drawn on the CPU, so that a seed gives the same split on every device.
        noise = torch.randn(len(parents), 3, generator=generator).to(child["means"])
        offset = rotation_matrices(child["quats"]) @ (child["scales"].exp() * noise)[..., None]
        child["means"] += offset[..., 0]
        child["scales"] -= math.log(1.6)
        return child

    def reads_stats(self, progress: float) -> bool:
        return progress < self.stop

    def weighs(self, progress: float) -> bool:
        return False

    def expect(self, total_steps: float) -> None:
        """Nothing here follows the number of steps."""

    def state(self) -> dict[str, Any]:
        return {"resets": self._resets}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._resets = state["resets"]
