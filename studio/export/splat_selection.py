"""Fewer and simpler Gaussians: a box, an opacity threshold, a lower degree, and the most important of a number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from studio.errors import StudioError
from studio.export.gaussians import GaussianCloud

_SURFACE_POWER = 1.6075


@dataclass(frozen=True)
class SplatSelection:
    """What shall remain of a cloud; each field left out changes nothing."""

    crop: tuple[float, float, float, float, float, float] | None = None
    """Lower and upper corner of the box that centres must lie in."""
    min_opacity: float | None = None
    """Least opacity, in [0, 1]."""
    sh_degree: int | None = None
    """Highest degree of the spherical harmonics, 0 to 4."""
    max_gaussians: int | None = None
    """Most Gaussians; those of the largest `contribution` stay."""

    def apply(self, cloud: GaussianCloud) -> GaussianCloud:
        """The remaining Gaussians in their order. The same input gives the same output.

        Raises:
            StudioError: An impossible field, or nothing remains.
        """
        self._check()
        if self.crop is not None:
            low, high = cloud.means.new_tensor(self.crop).reshape(2, 3)
            cloud = _kept(cloud, ((cloud.means >= low) & (cloud.means <= high)).all(dim=1), "--crop")
        if self.min_opacity is not None:
            cloud = _kept(cloud, cloud.logit_opacities.double().sigmoid() >= self.min_opacity, "--min-opacity")
        if self.sh_degree is not None:
            cloud = cloud.truncated(min(self.sh_degree, cloud.sh_degree))
        if self.max_gaussians is not None and len(cloud) > self.max_gaussians:
            order = contribution(cloud).argsort(descending=True, stable=True)
            cloud = cloud.select(order[: self.max_gaussians].sort().values)
        return cloud

    def _check(self) -> None:
        if self.crop is not None and not all(a < b for a, b in zip(self.crop[:3], self.crop[3:], strict=True)):
            raise StudioError(
                f"--crop: the box from {self.crop[:3]} to {self.crop[3:]} has no volume.",
                fix="Give the lower corner first: X0 Y0 Z0 X1 Y1 Z1.",
            )
        if self.min_opacity is not None and not 0 <= self.min_opacity <= 1:
            raise StudioError(f"--min-opacity: {self.min_opacity:g} is not between 0 and 1.", fix="0.05 is usual.")
        if self.sh_degree is not None and not 0 <= self.sh_degree <= 4:
            raise StudioError(f"--sh-degree: {self.sh_degree} is not between 0 and 4.", fix="0 keeps plain colours.")
        if self.max_gaussians is not None and self.max_gaussians < 1:
            raise StudioError(f"--max-gaussians: {self.max_gaussians} is too few.", fix="Give 1 or more.")


def contribution(cloud: GaussianCloud) -> Float[Tensor, " n"]:
    """How much each Gaussian shows, as a logarithm: its opacity times the mean area of its shadows.

    The mean area of a convex body's shadows over all directions is a quarter of its surface (Cauchy 1832); that of an
    ellipsoid is Thomsen's, good to 1.1%. Nothing is known of what hides it, or how near cameras come.
    """
    a, b, c = cloud.log_scales.double().unbind(-1)
    pairs = torch.stack([a + b, a + c, b + c], dim=-1)
    area = torch.logsumexp(_SURFACE_POWER * pairs, dim=-1) / _SURFACE_POWER
    return torch.nn.functional.logsigmoid(cloud.logit_opacities.double()) + area


def _kept(cloud: GaussianCloud, mask: Tensor, option: str) -> GaussianCloud:
    if not bool(mask.any()):
        raise StudioError(f"{option}: none of {len(cloud):,} Gaussians remains.", fix="Choose a wider one.")
    return cloud.select(mask)
