"""Contraction of unbounded space into a ball of radius 2 (or a cube of half side 2).

Barron et al. 2022 (mip-NeRF 360), eq. 10: what lies within the unit ball stays, a point at distance r beyond it moves
to distance 2 − 1/r. With the maximum norm (as in nerfstudio) the unit ball is the cube [-1, 1]³ and its image fills
(-2, 2)³, which suits a hash grid.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Norm = Literal["l2", "linf"]


def contract(x: Float[Tensor, "*b 3"], norm: Norm = "l2") -> Float[Tensor, "*b 3"]:
    """Contracted points, of norm below 2 (at most 2 where rounding makes them so); infinite ones are not allowed."""
    size = _size(x, norm)
    # Where the point stays, 1 stands in: the branch that is not taken must have finite gradients too.
    outside = size > 1.0
    r = torch.where(outside, size, torch.ones_like(size))
    return torch.where(outside, (2.0 - 1.0 / r) * (x / r), x)


def uncontract(y: Float[Tensor, "*b 3"], norm: Norm = "l2") -> Float[Tensor, "*b 3"]:
    """Inverse of `contract`; points of norm 2 or more, which stand for infinity, give very distant ones."""
    size = _size(y, norm)
    outside = size > 1.0
    r = torch.where(outside, size, torch.ones_like(size))
    return torch.where(outside, y / (r * (2.0 - r).clamp_min(torch.finfo(y.dtype).eps)), y)


def _size(x: Tensor, norm: Norm) -> Tensor:
    largest = x.abs().amax(-1, keepdim=True)
    if norm == "linf":
        return largest
    if norm != "l2":
        raise ValueError(f"norm: expected l2 or linf, got {norm!r}")
    # Squares of far points overflow in float32, so they are scaled first; near ones are not, for the gradient at 0.
    scale = largest.detach().clamp_min(1.0)
    square = (x / scale).square().sum(-1, keepdim=True)
    safe = torch.where(square > 0, square, torch.ones_like(square))
    return torch.where(square > 0, safe.sqrt() * scale, torch.zeros_like(square))
