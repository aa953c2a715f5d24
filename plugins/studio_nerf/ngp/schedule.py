"""What changes during training: learning rates, and the number of rays that makes up the wanted number of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from studio.marching import PackedSamples
from studio_nerf.ngp.config import NgpConfig
from studio_nerf.ngp.settled import Settled

_FEWEST_RAYS, _MOST_RAYS = 256, 16_384
_RAY_MULTIPLE = 64
_FIRST_SAMPLES_A_RAY = 256.0
_MOST_MARCHED = 12
"""Marched samples of a step, as a multiple of those wanted; rays beyond wait for a grid that knows more."""
_WARMUP = 20
"""Steps over which the learning rate rises."""
_SHORTEST_REACH, _SHORTEST_IN_FOG, _LONGEST_REACH = 64, 128, 1024
_REACHED, _REACH_MARGIN = 0.995, 2.0
"""Share of the rays whose last visible sample counts, and by how much more is looked at."""
_FOGGY_STEPS, _FORMING_STEPS, _LOOSE = 250, 1600, 0.25
"""Steps in which the distortion loss has this share of its weight, and those in which it then rises: surfaces that a
strong one forms out of fog stay where they first were, before anything behind them."""
_SMALL, _FULL_STEPS = 0.25, 800
"""Least share of a batch, and the steps until whole ones: fog needs many steps and hardly minds their noise."""
_SETTLED_STEPS = 768
"""Steps after which the occupancy grid is looked at less often."""
_HAZY_STEPS = 256
"""Steps before haze is cleared away."""
_WIDEST = 8.0
_FEW_SAMPLES = 20.0
"""Samples of a ray at which steps are as long as they are wanted; longer while there are more."""
_STRIDE_RATE = 0.2
_ANCHOR_SHARE, _ANCHOR_STEPS, _CLEARED_SHARE = 0.2, 600, 0.3
"""Rays around sparse points, as a share of those of photos; the steps until they become fewer, in as many again; and
the share of rays on the way to points, which stay, as nothing else clears what few photos see. They cost one sample
each, a tenth of what a ray of a photo does."""
_NEARNESS, _PUSHED_STEPS = 2e-3, 1200
"""Weight of the preference for what is far, and the steps until it fades, in as many again. What few cameras see from
one side, like the wall of a room, fog right before the others explains as well; later nothing would move it."""
_SURE = 0.02
"""Weight of a sample in its ray's colour from which it takes part in each step among cameras, once there are surfaces.
Half of the samples of a ray are lighter and make up 4 % of its colour together."""
_QUICK, _SLOW = 0.5, 0.1
"""Share of a new figure in the mean of samples a ray, while the grid changes quickly and after."""
_QUICK_STEPS = 20


class Schedule:
    """Learning-rate factor and batch size of each step.

    Args:
        config: Of the field.
        foggy: Whether the field begins as fog among the cameras: steps are then longer while light goes a long way,
            the first batches smaller, and the distortion loss weaker at first.
        levels: Of the occupancy grid, all of which an update looks at.
    """

    def __init__(self, config: NgpConfig, *, foggy: bool = False, levels: int = 1) -> None:
        self.config = config
        self._foggy, self._levels = foggy, levels
        settled = Settled.of(config, contracted=foggy)
        self.samples = settled.samples
        """Samples of a step that light reaches."""
        self._decay = settled.lr_decay
        self.samples_a_ray = _FIRST_SAMPLES_A_RAY
        """Samples of a ray that light reaches, a moving mean."""
        self._last_seen = float(_LONGEST_REACH)
        self.stride = _WIDEST if foggy else 1.0
        """Length of marching steps, in those of rendering. Light goes a long way through the fog that a field among
        cameras begins as, and the fog is smooth: long steps through it leave time for many more rays."""

    def rate_factor(self, step: int, progress: float) -> float:
        """Factor on all learning rates: a short rise, a plateau, an exponential fall."""
        config = self.config
        late = max(progress - config.decay_start, 0.0) / max(1.0 - config.decay_start, 1e-9)
        return min(1.0, (step + 1) / _WARMUP) * self._decay ** min(late, 1.0)

    def least_thickness(self, step: int, final: float) -> float:
        """Optical thickness of a sample that is worth looking at: everything, until surfaces have begun to form."""
        return final if step >= _HAZY_STEPS else 0.0

    def distortion(self, step: int, final: float) -> float:
        """Weight of the distortion loss."""
        formed = min(max((step - _FOGGY_STEPS) / _FORMING_STEPS, 0.0), 1.0)
        return final * (_LOOSE + (1 - _LOOSE) * formed) if self._foggy else final

    def nearness(self, step: int) -> float:
        """Weight of the preference for what is far."""
        left = min(1.0, max(0.0, 2 - step / _PUSHED_STEPS))
        return _NEARNESS * left if self._foggy else 0.0

    def sure_weight(self, step: int) -> float:
        """Weight from which a sample takes part in a step for certain; 0: all do."""
        return _SURE if self._foggy and step >= _FULL_STEPS else 0.0

    def anchors(self, step: int) -> tuple[float, float]:
        """Rays around sparse points and rays on the way there, as shares of the others."""
        return _ANCHOR_SHARE * min(1.0, max(0.0, 2 - step / _ANCHOR_STEPS)), _CLEARED_SHARE

    def updates_grid(self, step: int) -> bool:
        """Whether a step begins with a look at the occupancy grid."""
        # A new field is about equally thin everywhere, which says nothing about where it will be empty.
        every = self.config.grid_every * (self._levels if step >= _SETTLED_STEPS else 1)
        return step > 0 and step % every == 0

    def rays(self, step: int) -> int:
        """Rays of a step."""
        share = min(max(step / _FULL_STEPS, _SMALL), 1.0) if self._foggy else 1.0
        count = int(share * self.samples / self.samples_a_ray) // _RAY_MULTIPLE * _RAY_MULTIPLE
        return min(max(count, _FEWEST_RAYS), _MOST_RAYS)

    def affordable(self, samples: PackedSamples) -> int:
        """How many of the marched rays, from the first on, fit into a step's memory; at least 1."""
        limit = _MOST_MARCHED * self.samples
        if len(samples) <= limit:
            return samples.rays
        bound = torch.tensor(limit, device=samples.offsets.device)
        return max(int(torch.searchsorted(samples.offsets, bound, right=True)) - 1, 1)

    @property
    def reach(self) -> int:
        """Occupied samples of a ray that are looked at; behind them light has ended for nearly all rays."""
        shortest = _SHORTEST_IN_FOG if self._foggy else _SHORTEST_REACH
        return min(max(math.ceil(_REACH_MARGIN * self._last_seen), shortest), _LONGEST_REACH)

    def observe(self, step: int, visible: PackedSamples, deepest: Int[Tensor, " n"]) -> None:
        """Take note of where on the rays of this step the light ended.

        Args:
            step: The step.
            visible: The samples that light reaches.
            deepest: Samples of each ray up to the last of these.
        """
        share = _QUICK if step < _QUICK_STEPS else _SLOW
        mean = max(len(visible.starts) / visible.rays, 1.0)
        self.samples_a_ray += share * (mean - self.samples_a_ray)
        if self.stride > 1:
            change = (self.samples_a_ray / _FEW_SAMPLES) ** _STRIDE_RATE
            self.stride = min(max(self.stride * change, 1.0), _WIDEST)
        last = deepest[deepest > 0]
        if len(last):
            seen = float(last.kthvalue(max(int(_REACHED * len(last)), 1)).values)
            # Up at once, as rays that are cut short are judged wrongly; down slowly.
            self._last_seen += (1.0 if seen > self._last_seen else _SLOW) * (seen - self._last_seen)

    def state(self) -> dict[str, Any]:
        return {"samples_a_ray": self.samples_a_ray, "last_seen": self._last_seen, "stride": self.stride}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.samples_a_ray = float(state["samples_a_ray"])
        self._last_seen = float(state["last_seen"])
        self.stride = float(state["stride"])
