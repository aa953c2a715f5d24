"""Pictures brought to the square side that a network works at, and back."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def pad_to(x: Float[Tensor, "b c h w"], side: int, value: float = 0.0) -> Float[Tensor, "b c side side"]:
    """Borders around pictures, as even as can be.

    Args:
        x: Pictures, at most `side` high and wide.
        side: Of the square.
        value: Of the border.

    Raises:
        ValueError: A picture is larger than the square.
    """
    down, right = side - x.shape[-2], side - x.shape[-1]
    if min(down, right) < 0:
        raise ValueError(f"x must be at most {side} high and wide, got {tuple(x.shape)}")
    return F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2), value=value)


def crop_to(x: Float[Tensor, "b c side side"], height: int, width: int) -> Float[Tensor, "b c {height} {width}"]:
    """Inverse of `pad_to`."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
