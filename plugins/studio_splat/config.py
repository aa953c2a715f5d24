"""Configuration of the splat plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from studio.plugin import PluginConfig
from studio.plugin.ranges import LearningRate, NonNegativeNumber, PositiveCount, PositiveNumber, Range, Share


@dataclass
class SplatConfig(PluginConfig):
    """3D Gaussian splatting. Schedules are shares of the training, so they stretch with --steps and --budget."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"steps": 6_000},
        "default": {},
        "quality": {
            "steps": 30_000,
            "strategy": "adaptive",
            "max_gaussians": 1_000_000,
            "lr_means": 1.6e-4,
            "lr_means_final": 1.6e-6,
            "lr_scales": 5e-3,
            "lr_quats": 1e-3,
            "lr_opacities": 5e-2,
            "lr_sh0": 2.5e-3,
            "lr_shN": 2.5e-3 / 20,
            "lr_decay": 1.0,
            "lr_stretch": 0.0,
            "smooth_l1": 0.0,
            "eps2d": 0.3,
            "sh_start": 1 / 30,
            "coarse_levels": 0,
            "initial_count": 100_000,
        },
        "mcmc": {
            "steps": 30_000,
            "strategy": "mcmc",
            "max_gaussians": 200_000,
            "opacity_reg": 0.01,
            "scale_reg": 0.01,
            # The noise grows with the rate of the means, so this must be the paper's.
            "lr_means": 1.6e-4,
            "lr_means_final": 1.6e-6,
            "lr_stretch": 0.0,
            "smooth_l1": 0.0,
        },
    }
    CHECK: ClassVar[Mapping[str, Any]] = {
        "initial_count": 400,
        "max_gaussians": 1000,
        "refine_every": 2,
        "coarse_levels": 0,
    }

    steps: int = 18_000
    """Training steps, one photo each; with --budget, at most this many."""

    # ---- model
    sh_degree: Annotated[int, Range(0, 3)] = 3
    """Degree of the view-dependent colour, 0 to 3."""
    sh_start: Share = 0.05
    """Share of the training between rises of the colour's degree, from 0 up to sh-degree."""
    max_gaussians: PositiveCount = 350_000
    """Cap on the number of Gaussians."""
    gaussians_per_step: NonNegativeNumber = 22.0
    """Cap on the number of Gaussians for each step of the training, which a short one reaches first, on photos of
    400x400; up to three times as many on larger ones; 0: none (budget strategy)."""
    initial: Literal["auto", "points", "hull", "random"] = "auto"
    """First Gaussians: the scene's points, the visual hull of alpha photos, or random in the bounds."""
    initial_count: PositiveCount = 20_000
    """How many to start with at most."""
    initial_opacity: Annotated[float, Range(1e-4, 0.9999)] = 0.1
    """Opacity to start with."""

    # ---- rendering
    eps2d: NonNegativeNumber = 0.3
    """Dilation of each Gaussian on screen, pixels squared; all viewers of exported files have 0.3."""
    antialiased: bool = False
    """Keep a Gaussian's total opacity when it is dilated (Mip-Splatting)."""
    near: PositiveNumber = 0.01
    """Nearest depth drawn, in scene units."""

    # ---- loss
    ssim_weight: Share = 0.2
    """Share of D-SSIM in the loss; the rest is L1."""
    smooth_l1: NonNegativeNumber = 0.03
    """Colour differences below it count quadratically in L1, those above linearly; 0: plain L1, as in the paper."""
    opacity_reg: NonNegativeNumber = 0.0
    """Pull towards transparency, times mean opacity."""
    scale_reg: NonNegativeNumber = 0.0
    """Pull towards small Gaussians, times mean scale."""
    random_background: bool = False
    """Composite photos with alpha on a random colour each step, instead of the fixed background."""

    # ---- optimiser (Adam, eps 1e-15)
    lr_means: LearningRate = 3e-4
    """Learning rate of positions at the start, times the scene's extent."""
    lr_means_final: LearningRate = 9e-6
    """The same at the end (exponential decay)."""
    lr_scales: LearningRate = 1e-2
    """Learning rate of log-scales."""
    lr_quats: LearningRate = 3e-3
    """Learning rate of rotations."""
    lr_opacities: LearningRate = 5e-2
    """Learning rate of opacities (logits)."""
    lr_sh0: LearningRate = 5e-3
    """Learning rate of the base colour."""
    lr_shN: LearningRate = 3e-4
    """Learning rate of the view-dependent colour."""
    lr_decay: Annotated[float, Range(0, 1, open=True)] = 0.9
    """Factor on all other learning rates at the end of training."""
    average_share: Share = 0.05
    """Share of the training, at its end, over which the Gaussians are averaged: one step follows one photo, their mean
    all of them; 0: the last step counts."""
    lr_stretch: Annotated[float, Range(0, 10)] = 0.6
    """All rates are for 10,000 steps, and times (10,000 / steps) to this power; 0 leaves them alone."""

    # ---- density control
    strategy: Literal["budget", "adaptive", "mcmc"] = "budget"
    """budget: towards max-gaussians by score; adaptive: the paper's; mcmc: relocation and noise."""
    refine_every: PositiveCount = 100
    """Steps between refinements."""
    refine_stop: Share = 0.8
    """Share of the training after which the count stays (budget strategy)."""
    prune_weight: NonNegativeNumber = 0.1
    """Gaussians that show less than this share of what the mean one does, by blending weight over the photos, make room
    for others (budget strategy); 0: none."""
    tile_budget: NonNegativeNumber = 0.0
    """Most Gaussians in a screen tile, on average; beyond, those that show least for the tiles they cost are removed
    (budget strategy). Tiles are 8x8 pixels on the CPU, 16x16 elsewhere; 0: no limit."""
    absgrad: bool = True
    """Rank and threshold by absolute screen-space gradients (AbsGS)."""
    revised_opacity: bool = False
    """Give copies the opacity that keeps the picture (adaptive strategy)."""

    # ---- schedule
    coarse_levels: Annotated[int | None, Range(0, 8)] = None
    """Halvings of the photos at the start of training; default: 2, or 3 for photos above a megapixel."""
    coarse_share: Share | None = None
    """Share of the training before full resolution; default: a quarter, and more where a budget is short for the size
    of the photos."""

    shifted_photos: bool = True
    """Where photos are read at a half (a third ...) of their size, reduce them at another offset each time, so that all
    of their detail is learnt from."""

    # ---- per-photo corrections
    exposure: Literal["none", "affine", "bilateral"] = "none"
    """Colour correction learnt for every training photo: one affine transform, or a bilateral grid of them."""
    pose_refinement: bool = False
    """Learn a small correction of every training camera's pose."""

    # ---- where
    backend: Literal["auto", "cpu", "cuda", "reference"] = "auto"
    """Rasteriser: auto takes cuda (gsplat) on a GPU and our kernels on a CPU."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "config") -> SplatConfig:
        if isinstance(data, Mapping) and isinstance(data.get("exposure"), bool):
            # Runs from before there were two kinds say yes or no.
            data = {**data, "exposure": "affine" if data["exposure"] else "none"}
        return super().from_dict(data, source=source)
