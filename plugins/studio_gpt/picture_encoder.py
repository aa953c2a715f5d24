"""A small convolutional network from a picture to a grid of vectors, for the GPT to read as a prefix.

Residual blocks (He et al., "Deep Residual Learning for Image Recognition", CVPR 2016) after each halving of the size.
On a CPU this trains far quicker than a vision transformer: weights are shared over places, so few pictures suffice.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_MOST_DOUBLINGS = 2


class ResidualBlock(nn.Module):
    """x + two convolutions of relu(norm(x)), at one size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.body(x)


class PictureEncoder(nn.Module):
    """Halves the size until the map is `grid` cells wide, and projects each cell to a vector.

    Args:
        sample_shape: (c, h, w) of the pictures.
        width: Length of the vectors.
        grid: Cells along each side; the map is averaged to that where halving does not lead there.
        channels: Of the first stage; they double at each halving, twice at most.
    """

    def __init__(self, sample_shape: tuple[int, int, int], *, width: int, grid: int, channels: int) -> None:
        super().__init__()
        self.sample_shape = sample_shape
        self.grid = grid
        halvings = max(int(math.log2(max(min(sample_shape[1:]) / grid, 1.0))), 0)
        stages: list[nn.Module] = []
        given = sample_shape[0]
        for i in range(max(halvings, 1)):
            made = channels * 2 ** min(i, _MOST_DOUBLINGS)
            stride = 2 if i < halvings else 1
            stages.append(nn.Conv2d(given, made, 3, stride=stride, padding=1, bias=False))
            # The first map is large and its features are simple: no block there.
            if i > 0 or halvings <= 1:
                stages.append(ResidualBlock(made))
            else:
                stages += [nn.BatchNorm2d(made), nn.ReLU()]
            given = made
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(given)
        self.project = nn.Linear(given, width)

    @property
    def num_cells(self) -> int:
        return self.grid**2

    def forward(self, pictures: Float[Tensor, "b c h w"]) -> Float[Tensor, "b cells width"]:
        """Vectors of the cells, row by row; pictures in [0, 1]."""
        # Activations only: weights in this layout would not match the moments of a loaded optimiser.
        x = (2 * pictures - 1).contiguous(memory_format=torch.channels_last)
        x = self.norm(self.stages(x)).relu()
        if x.shape[-2:] != (self.grid, self.grid):
            x = F.adaptive_avg_pool2d(x, self.grid)
        return self.project(x.flatten(2).transpose(1, 2))

    def fit(self, pictures: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """Pictures of any size as the encoder takes them: the middle of its aspect, resized; grey or RGB as trained.

        Raises:
            ValueError: Not 1 or 3 channels.
        """
        channels, height, width = self.sample_shape
        if pictures.ndim != 4 or pictures.shape[1] not in (1, 3):
            raise ValueError(f"pictures must have shape (b, 1 or 3, h, w), got {tuple(pictures.shape)}")
        pictures = pictures.float()
        if pictures.shape[1] != channels:
            pictures = pictures.expand(-1, 3, -1, -1) if channels == 3 else pictures.mean(dim=1, keepdim=True)
        h, w = pictures.shape[-2:]
        if (h, w) == (height, width):
            return pictures
        scale = min(h / height, w / width)
        cut_h, cut_w = round(height * scale), round(width * scale)
        top, left = (h - cut_h) // 2, (w - cut_w) // 2
        cut = pictures[..., top : top + cut_h, left : left + cut_w]
        resized = F.interpolate(cut, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
        return resized.clamp(0, 1)


def shifted(pictures: Float[Tensor, "b c h w"], dx: int, dy: int) -> Float[Tensor, "b c h w"]:
    """Pictures moved by whole pixels, their edges repeated into the gap."""
    if dx == 0 and dy == 0:
        return pictures
    height, width = pictures.shape[-2:]
    padded = F.pad(pictures, (max(dx, 0), max(-dx, 0), max(dy, 0), max(-dy, 0)), mode="replicate")
    return padded[..., max(-dy, 0) : max(-dy, 0) + height, max(-dx, 0) : max(-dx, 0) + width]
