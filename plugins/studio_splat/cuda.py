"""The CUDA backend: gsplat, imported only when it is used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rasterize(**arguments: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Call gsplat's rasterization with arguments that our own function has checked already."""
    from gsplat import rasterization

    return rasterization(**arguments)


def smoke_test() -> None:
    """Render and differentiate two Gaussians on the GPU; an exception or a crash means that gsplat does not work."""
    device = torch.device("cuda")
    means = torch.tensor([[0.0, 0.0, 2.0], [0.1, 0.0, 3.0]], device=device, requires_grad=True)
    colors, alphas, _ = rasterize(
        means=means,
        quats=torch.tensor([[1.0, 0.0, 0.0, 0.0]] * 2, device=device),
        scales=torch.full((2, 3), 0.2, device=device),
        opacities=torch.full((2,), 0.8, device=device),
        colors=torch.ones(2, 3, device=device),
        viewmats=torch.eye(4, device=device)[None],
        Ks=torch.tensor([[[32.0, 0.0, 16.0], [0.0, 32.0, 16.0], [0.0, 0.0, 1.0]]], device=device),
        width=32,
        height=32,
    )
    (colors.sum() + alphas.sum()).backward()
    torch.cuda.synchronize()
    if means.grad is None or not bool(torch.isfinite(means.grad).all()) or alphas.max().item() < 0.5:
        raise RuntimeError("gsplat runs, but renders a wrong picture of two Gaussians")
