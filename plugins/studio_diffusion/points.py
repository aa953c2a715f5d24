"""The network that predicts noise in points: residual layers, each told the noise level."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from studio_diffusion.unet import LevelMLP


class PointNetwork(nn.Module):
    """Predicts (b, d) for noisy points (b, d)."""

    def __init__(self, dim: int, channels: int = 128, layers: int = 4) -> None:
        super().__init__()
        self.embedding_dim = channels
        self.level = LevelMLP(channels, self.embedding_dim)
        self.input = nn.Linear(dim, channels)
        self.layers = nn.ModuleList(nn.Linear(channels, channels) for _ in range(layers))
        self.embed = nn.ModuleList(nn.Linear(self.embedding_dim, channels) for _ in range(layers))
        self.output = nn.Linear(channels, dim)

    def forward(
        self,
        x: Float[Tensor, "b d"],
        t: Tensor,
        condition: Float[Tensor, "b e"] | None = None,
        words: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Float[Tensor, "b d"]:
        """As `UNet.forward`; points have no captions."""
        embedding = self.level(t)
        if condition is not None:
            embedding = embedding + condition
        embedding = F.silu(embedding)
        x = self.input(x)
        for layer, embed in zip(self.layers, self.embed, strict=True):
            x = x + layer(F.silu(x + embed(embedding)))
        return self.output(F.silu(x))
