"""What changes during training: learning rates, and the number of rays that makes up the wanted number of samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from studio.marching import PackedSamples
from studio_nerf.ngp.config import NgpConfig

_FEWEST_RAYS, _MOST_RAYS = 256, 16_384
_RAY_MULTIPLE = 64
_FIRST_SAMPLES_A_RAY = 256.0
_MOST_MARCHED = 12
"""Marched samples of a step, as a multiple of those wanted; rays beyond wait for a grid that knows more."""
_WARMUP = 20
"""Steps over which the learning rate rises."""
_QUICK, _SLOW = 0.5, 0.1
"""Share of a new figure in the mean of samples a ray, while the grid changes quickly and after."""
_QUICK_STEPS = 20


class Schedule:
    """Learning-rate factor and batch size of each step.

    Args:
        config: Of the field.
    """

    def __init__(self, config: NgpConfig) -> None:
        self.config = config
        self.samples_a_ray = _FIRST_SAMPLES_A_RAY
        """Samples of a ray that light reaches, a moving mean."""

    def rate_factor(self, step: int, progress: float) -> float:
        """Factor on all learning rates: a short rise, a plateau, an exponential fall."""
        config = self.config
        late = max(progress - config.decay_start, 0.0) / max(1.0 - config.decay_start, 1e-9)
        return min(1.0, (step + 1) / _WARMUP) * config.lr_decay ** min(late, 1.0)

    def rays(self) -> int:
        """Rays of the next step."""
        count = int(self.config.samples / self.samples_a_ray) // _RAY_MULTIPLE * _RAY_MULTIPLE
        return min(max(count, _FEWEST_RAYS), _MOST_RAYS)

    def affordable(self, samples: PackedSamples) -> int:
        """How many of the marched rays, from the first on, fit into a step's memory; at least 1."""
        limit = _MOST_MARCHED * self.config.samples
        if len(samples) <= limit:
            return samples.rays
        bound = torch.tensor(limit, device=samples.offsets.device)
        return max(int(torch.searchsorted(samples.offsets, bound, right=True)) - 1, 1)

    def observe(self, step: int, samples_a_ray: float) -> None:
        """Take note of how many samples a ray of this step had."""
        share = _QUICK if step < _QUICK_STEPS else _SLOW
        self.samples_a_ray += share * (max(samples_a_ray, 1.0) - self.samples_a_ray)

    def state(self) -> dict[str, Any]:
        return {"samples_a_ray": self.samples_a_ray}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.samples_a_ray = float(state["samples_a_ray"])
