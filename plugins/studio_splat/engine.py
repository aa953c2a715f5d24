"""What trains and renders a set of Gaussians: one interface, a fused CPU engine and an autograd engine behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras import Cameras
from studio.scene import Photo
from studio_splat.backends import BackendName
from studio_splat.config import SplatConfig
from studio_splat.schedule import LearningRates
from studio_splat.strategy import Edit, RefineStats

PARAMETERS = ("means", "quats", "scales", "opacities", "sh0", "shN")
"""Names of the parameters, as gsplat has them; scales are logs, opacities logits."""


@dataclass(frozen=True)
class Target:
    """What one training step compares with."""

    photo: Photo
    """Its pixels, mask and camera; not composited."""
    index: int
    """The photo's position in the training split."""
    background: Float[Tensor, " 3"]
    """Colour behind photo and Gaussians, on the CPU."""


@dataclass(frozen=True)
class StepOptions:
    """What the schedules say about one training step."""

    rates: LearningRates
    sh_degree: int
    ssim_weight: float
    smooth_l1: float
    opacity_reg: float
    scale_reg: float
    collect_stats: bool
    """Whether density control will still read the statistics."""
    eps2d: float | None = None
    """Dilation on screen, pixels squared; None: the configuration's."""
    weigh: bool = False
    """Whether to count what each Gaussian shows and costs, too."""


class Engine(Protocol):
    """Owns the parameters while training; the field reads them back with `parameters`."""

    @property
    def count(self) -> int:
        """Gaussians now."""
        ...

    def load(self, params: Mapping[str, Tensor]) -> None:
        """Take over parameters; optimiser moments and statistics start at zero.

        Raises:
            StudioError: There is not enough memory for them.
        """
        ...

    def parameters(self) -> dict[str, Tensor]:
        """The present parameters, before activation."""
        ...

    def step(self, target: Target, options: StepOptions) -> dict[str, float | Tensor]:
        """One optimisation step on the Gaussians that the photo touches.

        Returns:
            loss (without regularisers), l1, ssim and psnr, of the picture before the step. The PSNR is that of
            evaluation: values clamped to [0, 1], masked pixels left out.
        """
        ...

    def stats(self) -> RefineStats:
        """Statistics since the last edit."""
        ...

    def apply(self, edit: Edit) -> None:
        """Replace the Gaussians; moments follow, statistics start anew."""
        ...

    def explore(self, strength: float, generator: torch.Generator) -> None:
        """Add the position noise of MCMC density control."""
        ...

    def average(self) -> None:
        """Take the present parameters into the mean of those since the last edit (Polyak and Juditsky, 1992)."""
        ...

    def settle(self) -> None:
        """Replace the parameters by their mean, if one was begun; it is then forgotten."""
        ...

    def render(
        self, camera: Cameras, outputs: Sequence[str], background: Float[Tensor, " 3"]
    ) -> dict[str, Float[Tensor, "h w c"]]:
        """Draw one camera."""
        ...

    def state(self) -> dict[str, Any]:
        """Moments, counters, statistics and corrections, not the parameters; the same for all engines.

        'steps', 'first' and 'second' (n, 11 + 3 (degree + 1)^2) with the columns of the training layout, 'statistics'
        (n, 3), 'weighed' (n, 2) or None with 'tiles', 'mean' (like 'first') or None of 'averaged' parameters,
        'exposure' and 'poses'.
        """
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state`, after `load` of the parameters that belong to it."""
        ...


def make_engine(backend: BackendName, config: SplatConfig, num_photos: int) -> Engine:
    """The engine of a backend: 'cpu' is the fused one, 'cuda' and 'reference' go through autograd."""
    if backend == "cpu":
        from studio_splat.engine_cpu import CpuEngine

        return CpuEngine(config, num_photos)
    from studio_splat.engine_torch import TorchEngine

    return TorchEngine(config, num_photos, backend)


def psnr_from_mse(mse: Tensor | float) -> Tensor | float:
    """Peak signal-to-noise ratio in dB of values in [0, 1]."""
    return -10 * torch.log10(torch.as_tensor(mse).clamp(min=1e-10))
