"""Schedules of a splat training, all as functions of its progress in [0, 1]."""

from __future__ import annotations

import math
from dataclasses import dataclass

from studio_splat.config import SplatConfig

REFERENCE_STEPS = 10_000
"""Length of the training that the configured learning rates are for."""
FEWEST_STEPS = 3_000
"""Shorter trainings do not get higher rates than one of this length."""


_UNIT_PIXELS, _SECONDS_A_UNIT, _USUAL_COUNT = 160_000, 7e-4, 30_000
_MOST_TIMES_AS_MANY = 3.0
_LEVELS, _LARGE_PHOTO, _COARSE_SHARE = 2, 1 << 20, 0.25
_WANTED_STEPS, _MOST_COARSE = 3_500, 0.8


@dataclass(frozen=True)
class LearningRates:
    """Adam's learning rates at one step, by parameter."""

    means: float
    quats: float
    scales: float
    opacities: float
    sh0: float
    shN: float

    def as_dict(self) -> dict[str, float]:
        return {
            "means": self.means,
            "quats": self.quats,
            "scales": self.scales,
            "opacities": self.opacities,
            "sh0": self.sh0,
            "shN": self.shN,
        }


def learning_rates(config: SplatConfig, extent: float, progress: float, total_steps: float) -> LearningRates:
    """The rates at a point of a training of a certain length.

    Exponential decay of the means' rate (in units of the scene's extent), and of all others by `lr_decay`. What few
    steps must cover in strides, many cover better in small ones: all rates are those of `REFERENCE_STEPS` steps, times
    (REFERENCE_STEPS / total_steps)^lr_stretch.

    Args:
        total_steps: Expected length of the training.
    """
    stretch = (REFERENCE_STEPS / max(total_steps, FEWEST_STEPS)) ** config.lr_stretch
    means = config.lr_means * (config.lr_means_final / config.lr_means) ** progress
    fade = stretch * config.lr_decay**progress
    return LearningRates(
        means=means * extent * stretch,
        quats=config.lr_quats * fade,
        scales=config.lr_scales * fade,
        opacities=config.lr_opacities * fade,
        sh0=config.lr_sh0 * fade,
        shN=config.lr_shN * fade,
    )


def active_sh_degree(config: SplatConfig, progress: float) -> int:
    """Degree of the colour in use: rises by one every `sh_start` of the training."""
    if config.sh_start <= 0:
        return config.sh_degree
    return min(config.sh_degree, int(progress / config.sh_start))


@dataclass(frozen=True)
class CoarseStages:
    """Reduced photos at the start of a training: soon seen as a whole, and many steps for the time."""

    levels: int
    """Halvings at first."""
    share: float
    """Share of the training before full resolution."""

    @classmethod
    def plan(cls, config: SplatConfig, pixels: float, budget_seconds: float | None) -> CoarseStages:
        """What the configuration says, and else what suits photos of a size and a budget.

        A short budget on large photos buys so few steps at full resolution that most of them must be coarser: as many
        as it takes for `_WANTED_STEPS`, at most `_MOST_COARSE` of all. The speed is that of a small machine, whatever
        this one's is, so that equal commands mean equal schedules.

        Args:
            pixels: Of a photo.
            budget_seconds: For the training; None: it ends by steps.
        """
        levels = config.coarse_levels
        if levels is None:
            levels = _LEVELS if pixels < _LARGE_PHOTO else _LEVELS + 1
        if config.coarse_share is not None:
            return cls(levels, config.coarse_share)
        stages = cls(levels, _COARSE_SHARE)
        if budget_seconds is None or levels <= 0:
            return stages
        while stages.share < _MOST_COARSE and stages._steps(pixels, budget_seconds) < _WANTED_STEPS:
            stages = cls(levels, min(stages.share + 0.05, _MOST_COARSE))
        return stages

    def downscale(self, progress: float) -> int:
        """Reduction of the photos at a point of the training: one halving less at each equal part of `share`."""
        if self.levels <= 0 or progress >= self.share:
            return 1
        part = int(progress / self.share * self.levels)
        return 2 ** (self.levels - part)

    def _steps(self, pixels: float, seconds: float) -> float:
        """How many steps of `_USUAL_COUNT` Gaussians a small machine does in a time."""
        full = (1 - self.share) * relative_cost(pixels, _USUAL_COUNT)
        coarse = [relative_cost(pixels / 4**level, _USUAL_COUNT) for level in range(1, self.levels + 1)]
        return seconds / (_SECONDS_A_UNIT * (full + self.share * sum(coarse) / len(coarse)))


def gaussians_per_step(config: SplatConfig, pixels: float) -> float:
    """Cap on the number of Gaussians for each step of the training, infinite where there is none.

    Large photos have more to show in each step, whose time their pixels take, not the Gaussians: the configured number,
    times how much wider they are than 400 pixels of a square one, at most `_MOST_TIMES_AS_MANY`.

    Args:
        pixels: Of a photo.
    """
    wider = math.sqrt(pixels / _UNIT_PIXELS)
    return (config.gaussians_per_step or math.inf) * min(max(wider, 1.0), _MOST_TIMES_AS_MANY)


def relative_cost(pixels: float, count: float) -> float:
    """What a step costs on the CPU kernels, in parts of about 0.7 ms of two cores with AVX2.

    Measured: a part for every pixel, a larger one for the Gaussians, which small photos halve at most.
    """
    size = pixels / _UNIT_PIXELS
    return 1.0 + 3.0 * size + (0.05 + 0.055 * min(size, 1.0)) * count / 1_000
