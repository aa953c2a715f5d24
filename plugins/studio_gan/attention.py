"""SAGAN: convolutional GANs whose layers also look across the whole picture.

Both networks have spectral norm on every layer, are trained by the hinge loss, and insert `SelfAttention` at one
resolution. The generator doubles the side by nearest-neighbour upsampling and a 3x3 convolution.

Sources: Zhang et al., "Self-Attention Generative Adversarial Networks", 2019; Miyato et al., "Spectral Normalization
for Generative Adversarial Networks", 2018.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from studio_gan.convolutional import stage_widths

_SLOPE = 0.1
_SMALLEST = 4
_REDUCTION = 8


class SelfAttention(nn.Module):
    """y = γ o + x, where o mixes the features of all places by how well they match; γ starts at 0: the identity.

    With f = W_f x, g = W_g x, h = W_h x (1x1 convolutions to C/8 channels) at the N places of a feature map,

        β_ji = exp(s_ij) / Σ_i exp(s_ij),   s_ij = f(x_i)ᵀ g(x_j),   o_j = W_v Σ_i β_ji h(x_i).

    The dot products are not scaled (eq. 1 to 3 of the paper).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // _REDUCTION, 1)
        self.f = nn.Conv2d(channels, inner, 1, bias=False)
        self.g = nn.Conv2d(channels, inner, 1, bias=False)
        self.h = nn.Conv2d(channels, inner, 1, bias=False)
        self.v = nn.Conv2d(inner, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def weights(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n n"]:
        """β (b, j, i): how much place j looks at place i; rows sum to 1; places count row by row."""
        return (self.g(x).flatten(2).transpose(1, 2) @ self.f(x).flatten(2)).softmax(-1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        mixed = self.h(x).flatten(2) @ self.weights(x).transpose(1, 2)
        return self.gamma * self.v(mixed.unflatten(2, x.shape[2:])) + x


class AttentionGenerator(nn.Module):
    """z → 4x4 → … → side, with attention at one resolution; tanh: pictures in [−1, 1]."""

    def __init__(self, latent_dim: int, channels: int, side: int, width: int, attention_side: int) -> None:
        super().__init__()
        widths = stage_widths(side, width)[::-1]
        self.first = nn.ConvTranspose2d(latent_dim, widths[0], _SMALLEST, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.ReLU()]
        at = _SMALLEST
        for before, after in pairwise(widths):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
            at *= 2
            if at == attention_side:
                layers.append(SelfAttention(after))
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(widths[-1], channels, 3, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Float[Tensor, "b latent_dim"]) -> Float[Tensor, "b c side side"]:
        return self.layers(self.first(z[:, :, None, None]))


class AttentionDiscriminator(nn.Module):
    """Picture → … → 4x4 → one logit, with attention at one resolution and no batch norm."""

    def __init__(self, channels: int, side: int, width: int, attention_side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, at = channels, side
        for after in stage_widths(side, width):
            layers += [nn.Conv2d(before, after, 4, 2, 1), nn.LeakyReLU(_SLOPE)]
            before, at = after, at // 2
            if at == attention_side:
                layers.append(SelfAttention(after))
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, _SMALLEST))

    def forward(self, x: Float[Tensor, "b c side side"]) -> Float[Tensor, " b"]:
        return self.layers(x).flatten()


def normalise_spectrally(network: nn.Module) -> None:
    """Divide the weight of every convolution and linear layer by its largest singular value.

    The value is estimated by one power iteration a training step; the vectors belong to the network's state. A weight
    enters as a matrix with one row an output channel.
    """
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            spectral_norm(module)
