"""Muon: momentum whose matrices are made orthogonal, so that a step moves all directions of a weight alike.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (https://kellerjordan.github.io/posts/muon);
the length of a step follows Liu et al. 2025, "Muon is Scalable for LLM Training". Diffusion models were seen to need
fewer steps than with AdamW (Schaipp 2025, "Optimization Benchmark for Diffusion Models on Dynamical Systems").
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SMALLEST_NORM = 1e-7
_STEP_OF_ADAMW = 0.2
"""Root mean square of AdamW's steps as a multiple of its rate, as Liu et al. 2025 chose it."""


def orthogonalized(matrices: Float[Tensor, "b m n"], dtype: torch.dtype = torch.float32) -> Float[Tensor, "b m n"]:
    """About U Vᵀ of each matrix U S Vᵀ: the singular values come to lie between some 0.7 and 1.2.

    Five steps X ← a X + (b A + c A²) X with A = X Xᵀ and the coefficients of Jordan et al. 2024, which lift small
    singular values fast, and do not converge to 1, as training need not have it.

    Args:
        dtype: Of the products; bfloat16 is enough.
    """
    a, b, c = _COEFFICIENTS
    norm = matrices.flatten(1).norm(dim=1)[:, None, None].clamp(min=_SMALLEST_NORM)
    x = (matrices / norm).to(dtype)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2).contiguous()
    for _ in range(_ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.transpose(1, 2) if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """For the inner weights of a network: matrices, and convolutions as matrices of (outputs, inputs · places).

    Args:
        parameters: Of at least two dimensions.
        lr: A step's root mean square is that of AdamW at the same rate.
        momentum: Memory of the gradients' average, which is looked ahead of (Nesterov).
        weight_decay: As AdamW's.
        dtype: Of the products that make orthogonal.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """As any optimizer's; a `closure` is called first, and its loss is returned."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for parameters in alike.values():
                self._move(parameters, group["lr"], group["momentum"], group["weight_decay"])
        return loss

    def _move(self, parameters: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        """One step of parameters of the same shape, whose products are computed at once."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if "average" not in self.state[parameter]:
                self.state[parameter]["average"] = torch.zeros_like(parameter)
        averages = [self.state[parameter]["average"] for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        ahead = torch.stack(torch._foreach_lerp(gradients, averages, momentum))
        steps = orthogonalized(ahead.flatten(2), self._dtype)
        # An orthogonal (m, n) matrix has min(m, n) singular values of 1, so the root mean square max(m, n)^(−1/2).
        length = lr * _STEP_OF_ADAMW * max(steps.shape[1:]) ** 0.5
        torch._foreach_mul_(parameters, 1 - lr * weight_decay)
        torch._foreach_add_(parameters, list(steps.reshape(ahead.shape).unbind()), alpha=-length)
