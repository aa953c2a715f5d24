"""What lies where no photo looked: the mean colour that the photos have in a direction.

The first view from a new place shows parts of a scene that no photo does: corners of a wall above the frames, the floor
behind a table. No ray of a photo says anything about them, so they stay empty, and a black hole is the worst guess.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from studio.export.spherical_harmonics import sh_basis
from studio.scene import PhotoStore

_DEGREE = 1
"""Of the harmonics: up, down and around differ; more would learn what lies in front of the background."""
_MOST_PHOTOS, _PIXELS = 64, 1024
"""Evenly chosen photos, and pixels drawn from each."""
_STIFFNESS = 1e-3
"""Keeps harmonics of degree 1 small where all photos look the same way; relative to the number of pixels."""


class Ambient(nn.Module):
    """A colour for each direction, from harmonics of degree 0 and 1. Buffers only, saved with the field."""

    harmonics: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("harmonics", torch.zeros((_DEGREE + 1) ** 2, 3))

    @torch.no_grad()
    def fit(self, photos: PhotoStore, generator: torch.Generator) -> None:
        """Least squares over pixels of the photos."""
        looks, colors = [], []
        for index in range(0, len(photos), -(-len(photos) // _MOST_PHOTOS)):
            photo = photos[index]
            width, height = photo.camera.size
            allowed = None if photo.mask is None else photo.mask.flatten().nonzero()[:, 0]
            count = width * height if allowed is None else len(allowed)
            if count == 0:
                continue
            drawn = torch.randint(count, (_PIXELS,), generator=generator)
            flat = drawn if allowed is None else allowed[drawn]
            x, y = flat % width, flat // width
            looks.append(photo.camera.rays(torch.stack([x, y], dim=-1) + 0.5).directions.float())
            colors.append(photo.image[y, x, :3].float() / 255)
        if not looks:
            return
        basis = sh_basis(torch.cat(looks), _DEGREE)
        normal = basis.T @ basis
        normal.diagonal()[1:] += _STIFFNESS * len(basis)
        self.harmonics.copy_(torch.linalg.solve(normal, basis.T @ torch.cat(colors)))

    def colors(self, directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """sRGB in [0, 1] of unit directions."""
        return (sh_basis(directions, _DEGREE) @ self.harmonics).clamp(0, 1)
