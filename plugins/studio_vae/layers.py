"""Fully connected stacks, and pictures brought to the side of a network and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}


def mlp(sizes: Sequence[int], activation: str = "relu", *, activate_last: bool = False) -> nn.Sequential:
    """Linear layers of the given widths with the activation between them, and after the last one where asked for."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
    return nn.Sequential(*(layers if activate_last else layers[:-1]))


def pad_to(x: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c side side"]:
    """Black borders around pictures, as even as can be."""
    down, right = side - x.shape[-2], side - x.shape[-1]
    return F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))


def crop_to(x: Float[Tensor, "b c side side"], height: int, width: int) -> Float[Tensor, "b c {height} {width}"]:
    """Inverse of `pad_to`."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
