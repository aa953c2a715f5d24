"""ProGAN: both networks grow from 4x4 pictures to full size while they train.

A `stage` s says how far they have grown: at a whole number l they work on pictures of side 4 · 2^l; in between, the
layers of the next resolution fade in with α = s − ⌊s⌋,

    G: (1 − α) up(toRGB_l(h)) + α toRGB_{l+1}(block_{l+1}(h)),
    D: (1 − α) fromRGB_l(down(x)) + α block_{l+1}(fromRGB_{l+1}(x)).

The faded-out term uses the lower resolution's own toRGB: so α = 0 is the old network, and α = 1 the new one. As in the
paper, weights are scaled when they are used (equalised learning rate) and the generator's features are normalised pixel
by pixel; its minibatch standard deviation is left out, as it would tie the samples of a gradient penalty together.

Source: Karras et al., "Progressive Growing of GANs for Improved Quality, Stability, and Variation", 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_SLOPE = 0.2
_SMALLEST = 4


def last_level(side: int) -> int:
    """How often 4x4 is doubled on the way to a side."""
    return int(math.log2(side // _SMALLEST))


def level_widths(side: int, width: int) -> list[int]:
    """Channels at 4x4, 8x8, …, side: half as many at each, `width` at the last."""
    levels = last_level(side)
    return [width * 2 ** (levels - level) for level in range(levels + 1)]


def stage_at(progress: float, last: int, growth: float) -> float:
    """How far the networks have grown: each level is held as long as it then takes to fade into the next.

    Args:
        progress: Share of the training done.
        last: The level at which growing ends.
        growth: Share of the training at which it does.
    """
    if progress >= growth:
        return float(last)
    level, part = divmod(2 * last * progress / growth, 2)
    return level + max(part - 1, 0.0)


def shrink(x: Float[Tensor, "b c side side"], stage: float) -> Float[Tensor, "b c small small"]:
    """Full-size pictures as the discriminator sees real ones at a stage: averaged down, and blended as G's are."""
    low, alpha = int(stage), stage - int(stage)
    size = _SMALLEST * 2**low
    small = F.adaptive_avg_pool2d(x, size)
    if alpha == 0:
        return small
    return (1 - alpha) * _up(small) + alpha * F.adaptive_avg_pool2d(x, 2 * size)


class EqualisedConv(nn.Conv2d):
    """A convolution whose weights are N(0, 1) at the start and scaled by √(gain² / fan_in) at each use.

    So all weights have the same range, and Adam the same effect on each.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, padding: int = 0, gain: float = math.sqrt(2)) -> None:
        super().__init__(inputs, outputs, kernel, padding=padding)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]
        self.scale = gain / math.sqrt(inputs * kernel**2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class PixelNorm(nn.Module):
    """Features of each pixel divided by their root mean square."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


class ProgressiveGenerator(nn.Module):
    """z → 4x4 → …: pictures of side 4 · 2^⌈stage⌉, about [−1, 1]; no tanh, as in the paper."""

    def __init__(self, latent_dim: int, channels: int, side: int, width: int) -> None:
        super().__init__()
        widths = level_widths(side, width)
        # A 4x4 kernel on a 1x1 map with a border of 3 is a dense layer to 4x4.
        self.blocks = nn.ModuleList([_features(latent_dim, widths[0], first=True)])
        for before, after in pairwise(widths):
            self.blocks.append(_features(before, after))
        self.to_rgb = nn.ModuleList([EqualisedConv(width, channels, 1, gain=1.0) for width in widths])

    def forward(self, z: Float[Tensor, "b latent_dim"], stage: float) -> Float[Tensor, "b c side side"]:
        low, alpha = int(stage), stage - int(stage)
        x = self.blocks[0](PixelNorm()(z[:, :, None, None]))
        for block in self.blocks[1 : low + 1]:
            x = block(_up(x))
        picture = self.to_rgb[low](x)
        if alpha == 0:
            return picture
        return (1 - alpha) * _up(picture) + alpha * self.to_rgb[low + 1](self.blocks[low + 1](_up(x)))


class ProgressiveDiscriminator(nn.Module):
    """Pictures of side 4 · 2^⌈stage⌉ → … → 4x4 → one logit (of a critic)."""

    def __init__(self, channels: int, side: int, width: int) -> None:
        super().__init__()
        widths = level_widths(side, width)
        self.blocks = nn.ModuleList()
        for after, before in pairwise(widths):
            self.blocks.append(_chain([(before, before, 3, 1), (before, after, 3, 1)]))
        self.from_rgb = nn.ModuleList([_chain([(channels, width, 1, 0)]) for width in widths])
        self.last = _chain([(widths[0], widths[0], 3, 1), (widths[0], widths[0], _SMALLEST, 0)])
        self.logit = EqualisedConv(widths[0], 1, 1, gain=1.0)

    def forward(self, x: Float[Tensor, "b c side side"], stage: float) -> Float[Tensor, " b"]:
        low, alpha = int(stage), stage - int(stage)
        if alpha == 0:
            features = self.from_rgb[low](x)
        else:
            new = F.avg_pool2d(self.blocks[low](self.from_rgb[low + 1](x)), 2)
            features = (1 - alpha) * self.from_rgb[low](F.avg_pool2d(x, 2)) + alpha * new
        for level in range(low - 1, -1, -1):
            features = F.avg_pool2d(self.blocks[level](features), 2)
        return self.logit(self.last(features)).flatten()


def _features(before: int, after: int, *, first: bool = False) -> nn.Sequential:
    """Two convolutions of the generator, each with LeakyReLU and pixel norm."""
    kernel, padding = (_SMALLEST, _SMALLEST - 1) if first else (3, 1)
    layers: list[nn.Module] = []
    for inputs, size, border in ((before, kernel, padding), (after, 3, 1)):
        layers += [EqualisedConv(inputs, after, size, border), nn.LeakyReLU(_SLOPE), PixelNorm()]
    return nn.Sequential(*layers)


def _chain(sizes: Sequence[tuple[int, int, int, int]]) -> nn.Sequential:
    """Convolutions (inputs, outputs, kernel, padding) of the discriminator, each with LeakyReLU."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, padding in sizes:
        layers += [EqualisedConv(inputs, outputs, kernel, padding), nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*layers)


def _up(x: Tensor) -> Tensor:
    """Each pixel as 2x2."""
    return F.interpolate(x, scale_factor=2, mode="nearest")


def enlarge(x: Float[Tensor, "b c small small"], side: int) -> Float[Tensor, "b c side side"]:
    """Pictures of an early stage at full size, pixels as squares."""
    return x if x.shape[-1] == side else F.interpolate(x, size=(side, side), mode="nearest")
