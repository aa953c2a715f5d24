"""3D Gaussian splatting as Markov chain Monte Carlo (Kheradmand et al., 2024): relocation, noise, a fixed cap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from studio_splat.strategy.base import Edit, Params, RefineStats, rotation_matrices

MAX_COPIES = 51


@dataclass
class McmcStrategy:
    """Dead Gaussians are moved onto live ones without changing the picture; noise makes all of them explore."""

    max_gaussians: int
    uses_absgrad: bool = False
    refine_every: int = 100
    start: float = 500 / 30_000
    stop: float = 25_000 / 30_000
    min_opacity: float = 0.005
    growth: float = 1.05
    """Factor by which the count grows at each refinement, up to the cap."""
    noise: float = 5e5
    """Strength of the position noise, relative to the learning rate of the means."""

    def due(self, step: int, progress: float) -> bool:
        return step % self.refine_every == 0 and self.start < progress < self.stop

    def after_step(
        self, step: int, progress: float, params: Params, stats: RefineStats, generator: torch.Generator
    ) -> Edit | None:
        if not self.due(step, progress):
            return None
        opacity = torch.sigmoid(params["opacities"])
        n = len(opacity)
        dead = (opacity <= self.min_opacity).nonzero()[:, 0]
        weights = torch.where(opacity > self.min_opacity, opacity, torch.zeros_like(opacity)).cpu().double()
        if float(weights.sum()) == 0:
            return None
        added = max(min(self.max_gaussians, int(self.growth * n)) - n, 0)
        if len(dead) + added == 0:
            return None
        # Dead Gaussians are replaced, new ones appended: both become copies of live ones drawn by opacity.
        drawn = torch.multinomial(weights, len(dead) + added, replacement=True, generator=generator).to(opacity.device)
        source = torch.cat([torch.arange(n, device=drawn.device), drawn[len(dead) :]])
        source[dead] = drawn[: len(dead)]
        copies = torch.bincount(source, minlength=n)
        changed = copies[source] > 1
        new = {name: value[source].clone() for name, value in params.items()}
        if bool(changed.any()):
            logits, log_scales = split_in_place(
                new["opacities"][changed], new["scales"][changed], copies[source][changed]
            )
            new["opacities"][changed] = logits.clamp(min=math.log(self.min_opacity / (1 - self.min_opacity)))
            new["scales"][changed] = log_scales
        fresh = changed.clone()
        return Edit(source, fresh, new)

    def reads_stats(self, progress: float) -> bool:
        return False

    def weighs(self, progress: float) -> bool:
        return False

    def expect(self, total_steps: float) -> None:
        """Nothing here follows the number of steps."""

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        pass


def split_in_place(
    logits: Float[Tensor, " n"], log_scales: Float[Tensor, "n 3"], copies: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Opacity and scale that `copies` coincident Gaussians need to look like the one they replace.

    Kheradmand et al. 2024, eq. 9: o' = 1 - (1 - o)^(1/N), and the scale is multiplied by
    o / sum_{i=1..N} sum_{k=0..i-1} binom(i-1, k) (-1)^k o'^(k+1) / sqrt(k+1).
    """
    opacity = torch.sigmoid(logits.double())
    count = copies.clamp(max=MAX_COPIES)
    new = -torch.expm1(torch.log1p(-opacity.clamp(max=1 - 1e-9)) / count)
    # Summed over i first (hockey stick): sum_{i=1..N} binom(i-1, k) = binom(N, k+1), so the double sum is a single one.
    k = torch.arange(MAX_COPIES, dtype=torch.float64, device=logits.device)
    n = count.double()[:, None]
    log_binomial = torch.lgamma(n + 1) - torch.lgamma(k + 2) - torch.lgamma((n - k).clamp(min=1))
    terms = torch.where(k < n, log_binomial.exp() * new[:, None] ** (k + 1) / torch.sqrt(k + 1), torch.zeros_like(n))
    denominator = (terms * (1 - 2 * (k % 2))).sum(dim=1)
    factor = opacity / denominator
    return torch.logit(new, eps=1e-7).to(logits.dtype), log_scales + torch.log(factor)[:, None].to(log_scales.dtype)


def position_noise(params: Params, strength: float, generator: torch.Generator) -> Float[Tensor, "n 3"]:
    """Position noise of one step (Kheradmand et al. 2024, eq. 8): large for the faint, elongated along each Gaussian.

    covariance @ normal * sigmoid(-100 (opacity - 0.005)) * strength; the strength is `McmcStrategy.noise` times the
    learning rate of the means. Drawn on the generator's device.
    """
    scales = params["scales"].exp()
    rotation = rotation_matrices(params["quats"])
    gate = torch.sigmoid(-100.0 * (torch.sigmoid(params["opacities"]) - 0.005))
    normal = torch.randn(len(gate), 3, generator=generator, device=generator.device).to(scales)
    local = (rotation.transpose(-1, -2) @ normal[..., None])[..., 0] * scales**2
    return (rotation @ local[..., None])[..., 0] * (gate * strength)[:, None]
