"""What density-control strategies share: the statistics they read and the edits they make.

Parameters are a dict of tensors with gsplat's names, before activation: means (n, 3), quats (n, 4) wxyz, scales (n, 3)
log, opacities (n,) logit, sh0 (n, 1, 3), shN (n, k - 1, 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Params = Mapping[str, Tensor]


@dataclass
class RefineStats:
    """What the training steps since the last refinement saw of each Gaussian."""

    grad_sum: Float[Tensor, " n"]
    """Sum over views of the norm of the screen-space mean gradient, in gsplat's units: per half image size, not per
    pixel, so that it does not depend on the resolution."""
    count: Float[Tensor, " n"]
    """Views in which it was visible."""
    max_radius: Float[Tensor, " n"]
    """Largest half extent on screen, as a share of the longer image side."""
    weight: Float[Tensor, " n"] | None = None
    """Blending weight, summed over the pixels of the photos; None unless the strategy wants it (`weighs`)."""
    pairs: Float[Tensor, " n"] | None = None
    """Tiles that it was listed in, summed over the photos; given with `weight`."""
    tiles: float = 0.0
    """Tiles of these photos in all."""

    @property
    def mean_grad(self) -> Float[Tensor, " n"]:
        return self.grad_sum / self.count.clamp(min=1)


@dataclass
class Edit:
    """A new set of Gaussians made from the old one.

    Each new Gaussian continues an old one (`source`), possibly with changed parameters; where `fresh`, its optimiser
    moments start at zero, else they are carried over.
    """

    source: Int[Tensor, " m"]
    fresh: Bool[Tensor, " m"]
    params: dict[str, Tensor]
    """All parameters of the new set."""
    reset_opacity_moments: bool = False
    """Forget the optimiser's moments of all opacities (after an opacity reset)."""


class Strategy(Protocol):
    """Called after every training step; decides when and how to edit the set of Gaussians."""

    uses_absgrad: bool
    """Whether `RefineStats.grad_sum` holds absolute gradients (Ye et al., AbsGS, 2024)."""

    def after_step(
        self, step: int, progress: float, params: Params, stats: RefineStats, generator: torch.Generator
    ) -> Edit | None:
        """The edit due after this step (counted from 1), or None."""
        ...

    def due(self, step: int, progress: float) -> bool:
        """Whether `after_step` wants to look at the parameters after this step."""
        ...

    def reads_stats(self, progress: float) -> bool:
        """Whether statistics of training steps at this point will still be read; collecting them takes time."""
        ...

    def weighs(self, progress: float) -> bool:
        """Whether training steps at this point shall also count what each Gaussian shows and costs; takes time."""
        ...

    def expect(self, total_steps: float) -> None:
        """Told before each step how many steps the whole training will have (a guess where a budget ends it)."""
        ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


def keep_all(params: Params) -> Edit:
    """The edit that changes nothing; a start for changes in place."""
    n = params["means"].shape[0]
    device = params["means"].device
    return Edit(
        torch.arange(n, device=device),
        torch.zeros(n, dtype=torch.bool, device=device),
        {k: v.clone() for k, v in params.items()},
    )


def compose(params: Params, kept: Int[Tensor, " k"], parents: Int[Tensor, " c"], children: Params) -> Edit:
    """Old Gaussians `kept` as they are, followed by `children` (fresh moments) made from `parents`."""
    source = torch.cat([kept, parents])
    fresh = torch.zeros(len(source), dtype=torch.bool, device=source.device)
    fresh[len(kept) :] = True
    return Edit(source, fresh, {name: torch.cat([value[kept], children[name]]) for name, value in params.items()})


def rotation_matrices(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Rotation matrices of quaternions (w, x, y, z) of any length but zero."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


def revised_opacity(logits: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Logit of the opacity that two coincident copies need to look like one of the given opacity.

    1 - (1 - o')^2 = o (Rota Bulò et al., *Revising Densification in Gaussian Splatting*, 2024, eq. 9).
    """
    opacity = torch.sigmoid(logits)
    return torch.logit(1 - torch.sqrt((1 - opacity).clamp(min=0)), eps=1e-6)
