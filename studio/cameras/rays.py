"""Rays: what a camera hands to a renderer that marches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rays:
    """A batch of rays in world coordinates.

    Attributes:
        origins: Where each ray starts.
        directions: Unit length.
        depth_scale: Depth gained per unit of distance along the ray (the cosine to the optical axis for perspective
            cameras, 1 for equirectangular and orthographic ones), so ``depth = distance * depth_scale``.
        valid: False where the lens has no ray for the pixel (its direction is finite but means nothing); None when
            every pixel has one.
    """

    origins: Float[Tensor, "*rays 3"]
    directions: Float[Tensor, "*rays 3"]
    depth_scale: Float[Tensor, "*rays"]
    valid: Bool[Tensor, "*rays"] | None = None

    @property
    def shape(self) -> torch.Size:
        return self.depth_scale.shape

    def __len__(self) -> int:
        return len(self.depth_scale)

    def __getitem__(self, index: Any) -> Rays:
        """Index the ray axes (an integer, slice, mask or tensor; a tuple of them without ``...``)."""
        return self._each(lambda t: t[index])

    def reshape(self, *shape: int) -> Rays:
        return self._each(lambda t: t.reshape((*shape, *t.shape[len(self.shape) :])))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Rays:
        return self._each(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None))

    def at(self, distance: Float[Tensor, "*rays"]) -> Float[Tensor, "*rays 3"]:
        """World points at a distance (not a depth) along each ray."""
        return self.origins + self.directions * distance[..., None]

    def _each(self, function: Callable[[Tensor], Tensor]) -> Rays:
        return Rays(
            function(self.origins),
            function(self.directions),
            function(self.depth_scale),
            None if self.valid is None else function(self.valid),
        )


def pixel_centres(
    width: int, height: int, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "height width 2"]:
    """Pixel coordinates (column + 0.5, row + 0.5) of every pixel."""
    columns = torch.arange(width, device=device, dtype=dtype) + 0.5
    rows = torch.arange(height, device=device, dtype=dtype) + 0.5
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
