"""Corrections of training photos that are learnt beside the scene: poses, and the embeddings of their look."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def corrected_rays(
    poses: Float[Tensor, "n 6"],
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Rays of moved cameras, differentiable in `poses`.

    Args:
        poses: Of each ray's camera: rotation vector about its centre, and translation, in the scene's frame.
        origins: Camera centres.
        directions: Of unit length; they stay so.
    """
    turn, shift = poses.split(3, dim=-1)
    # Rodrigues' formula through functions that are smooth at 0: torch.sinc(a) is sin(pi a) / (pi a).
    square = turn.square().sum(dim=-1, keepdim=True)
    angle = torch.where(square > 0, square, torch.ones_like(square)).sqrt() * (square > 0)
    across = torch.linalg.cross(turn, directions)
    twice = torch.linalg.cross(turn, across)
    half = 0.5 * torch.sinc(0.5 * angle / torch.pi).square()
    return origins + shift, directions + torch.sinc(angle / torch.pi) * across + half * twice


def centred(values: Float[Tensor, "photos c"]) -> Float[Tensor, "photos c"]:
    """Without their mean: a change that all photos share is the scene's own freedom."""
    return values - values.mean(dim=0)
