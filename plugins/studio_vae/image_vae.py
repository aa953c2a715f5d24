"""The convolutional VAE of pictures, conditional on a class where there is one.

Every stage of the encoder halves the side down to 4; the decoder mirrors it. The class enters the encoder as one
constant plane a class beside the colours (one-hot, or a blend), and the decoder as the same numbers beside z.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

_SMALLEST = 4


def side_of(widths: Sequence[int]) -> int:
    """Side of the pictures that a network of these stages takes."""
    return _SMALLEST * 2 ** len(widths)


class PictureEncoder(nn.Module):
    """q(z|x, y): strided convolutions, then one linear head each for μ and ln σ."""

    def __init__(
        self, channels: int, num_classes: int, widths: Sequence[int], latent_dim: int, kernel_size: int = 3
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((channels + num_classes, *widths)):
            layers += [nn.Conv2d(before, after, kernel_size, stride=2, padding=1), nn.ReLU()]
        self.trunk = nn.Sequential(*layers, nn.Flatten())
        features = widths[-1] * _SMALLEST**2
        self.mean = nn.Linear(features, latent_dim)
        self.log_std = nn.Linear(features, latent_dim)

    def forward(
        self, x: Float[Tensor, "b c side side"], classes: Float[Tensor, "b k"] | None = None
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        if classes is not None:
            planes = classes[:, :, None, None].expand(-1, -1, *x.shape[2:])
            x = torch.cat([x, planes], dim=1)
        features = self.trunk(x)
        return self.mean(features), self.log_std(features)


class PictureDecoder(nn.Module):
    """p(x|z, y): a linear layer to 4x4, then transposed convolutions; returns Bernoulli logits or Gaussian means."""

    def __init__(
        self, channels: int, num_classes: int, widths: Sequence[int], latent_dim: int, kernel_size: int = 3
    ) -> None:
        super().__init__()
        self.width = widths[-1]
        self.project = nn.Linear(latent_dim + num_classes, self.width * _SMALLEST**2)
        layers: list[nn.Module] = [nn.ReLU()]
        for before, after in pairwise((*reversed(widths), channels)):
            # The output padding makes a kernel of 3 double the side exactly; one of 4 does so without.
            layers.append(
                nn.ConvTranspose2d(before, after, kernel_size, stride=2, padding=1, output_padding=4 - kernel_size)
            )
            layers.append(nn.ReLU())
        self.layers = nn.Sequential(*layers[:-1])

    def forward(
        self, z: Float[Tensor, "b d"], classes: Float[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b c side side"]:
        if classes is not None:
            z = torch.cat([z, classes], dim=1)
        return self.layers(self.project(z).unflatten(1, (self.width, _SMALLEST, _SMALLEST)))
