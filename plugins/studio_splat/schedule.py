"""Schedules of a splat training, all as functions of its progress in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

from studio_splat.config import SplatConfig

REFERENCE_STEPS = 10_000
"""Length of the training that the configured learning rates are for."""
FEWEST_STEPS = 3_000
"""Shorter trainings do not get higher rates than one of this length."""


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


def photo_downscale(config: SplatConfig, progress: float) -> int:
    """Reduction of the training photos: 2^levels at first, one halving less at each equal part of `coarse_share`."""
    if config.coarse_levels <= 0 or progress >= config.coarse_share:
        return 1
    part = int(progress / config.coarse_share * config.coarse_levels)
    return 2 ** (config.coarse_levels - part)
