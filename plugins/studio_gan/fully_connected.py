"""The fully connected GANs: of points, and of small pictures with a class.

Source of the game: Goodfellow et al., "Generative Adversarial Nets", 2014; of the condition: Mirza and Osindero,
"Conditional Generative Adversarial Nets", 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

_SLOPE = 0.2


class PointGenerator(nn.Module):
    """z → hidden, each with ReLU → point."""

    def __init__(self, latent_dim: int, hidden: Sequence[int], data_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((latent_dim, *hidden)):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], data_dim))

    def forward(self, z: Float[Tensor, "b latent_dim"]) -> Float[Tensor, "b data_dim"]:
        return self.layers(z)


class PointDiscriminator(nn.Module):
    """Point → hidden, each with LeakyReLU → one logit."""

    def __init__(self, data_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((data_dim, *hidden)):
            layers += [nn.Linear(before, after), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))

    def forward(self, x: Float[Tensor, "b data_dim"]) -> Float[Tensor, " b"]:
        return self.layers(x).squeeze(1)


class ConditionalGenerator(nn.Module):
    """cat(z, embedded class) → hidden, each with batch norm and LeakyReLU → tanh: a picture in [−1, 1], as a row."""

    def __init__(
        self, latent_dim: int, hidden: Sequence[int], data_dim: int, num_classes: int, embedding_dim: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, embedding_dim)
        layers: list[nn.Module] = []
        for before, after in pairwise((latent_dim + embedding_dim, *hidden)):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], data_dim), nn.Tanh())

    def forward(
        self, z: Float[Tensor, "b latent_dim"], classes: Float[Tensor, "b num_classes"]
    ) -> Float[Tensor, "b data_dim"]:
        # One-hot rows pick a row of the table; blends of classes give blends of rows.
        return self.layers(torch.cat([z, classes @ self.embedding.weight], dim=1))


class ConditionalDiscriminator(nn.Module):
    """cat(picture, embedded class) → hidden, each with LeakyReLU and dropout → one logit."""

    def __init__(
        self, data_dim: int, hidden: Sequence[int], num_classes: int, embedding_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, embedding_dim)
        layers: list[nn.Module] = []
        for before, after in pairwise((data_dim + embedding_dim, *hidden)):
            layers += [nn.Linear(before, after), nn.LeakyReLU(_SLOPE), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden[-1], 1))

    def forward(self, x: Float[Tensor, "b data_dim"], classes: Float[Tensor, "b num_classes"]) -> Float[Tensor, " b"]:
        return self.layers(torch.cat([x, classes @ self.embedding.weight], dim=1)).squeeze(1)
