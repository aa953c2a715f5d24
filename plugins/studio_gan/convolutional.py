"""DCGAN: all-convolutional generator and discriminator, and the initial weights that GANs start from.

Strided convolutions instead of pooling, batch norm except on the generator's output and the discriminator's input, no
hidden dense layers. Kernels of the transposed convolutions are multiples of the stride (4 and 2), so that every output
pixel is reached by equally many inputs and no checkerboard appears.

Source: Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional GANs", 2016; Odena,
Dumoulin and Olah, "Deconvolution and Checkerboard Artifacts", 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

_SLOPE = 0.2
_SMALLEST = 4


def stage_widths(side: int, width: int) -> list[int]:
    """Channels from the largest feature maps (half of `side`) to the 4x4 ones, doubling each time."""
    return [width * 2**i for i in range(int(math.log2(side // _SMALLEST)))]


class ConvolutionalGenerator(nn.Module):
    """z → 4x4 → … → side/2 → side, each step a transposed convolution; tanh: pictures in [−1, 1]."""

    def __init__(self, latent_dim: int, channels: int, side: int, width: int) -> None:
        super().__init__()
        widths = stage_widths(side, width)[::-1]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent_dim, widths[0], _SMALLEST, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for before, after in pairwise(widths):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Tanh())

    def forward(self, z: Float[Tensor, "b latent_dim"]) -> Float[Tensor, "b c side side"]:
        return self.layers(z[:, :, None, None])


class ConvolutionalDiscriminator(nn.Module):
    """Picture → side/2 → … → 4x4 → one logit, each step a strided convolution.

    Args:
        channels, side, width: As in the generator.
        norm: Makes the normalising layer of so many channels: batch norm, or one that keeps samples apart, which a
            gradient penalty needs.
    """

    def __init__(self, channels: int, side: int, width: int, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        widths = stage_widths(side, width)
        layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(_SLOPE)]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), norm(after), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, _SMALLEST))

    def forward(self, x: Float[Tensor, "b c side side"]) -> Float[Tensor, " b"]:
        return self.layers(x).flatten()


def layer_norm(channels: int) -> nn.Module:
    """Layer norm of feature maps: one mean and variance a sample."""
    return nn.GroupNorm(1, channels)


def initialise(network: nn.Module, std: float = 0.02) -> None:
    """Weights of linear layers and convolutions from N(0, 0.02²), scales of batch norms from N(1, 0.02²), biases 0."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.weight, 1.0, std)
            nn.init.zeros_(module.bias)
