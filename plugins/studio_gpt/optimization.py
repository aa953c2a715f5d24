"""How the language models are optimised: AdamW, warm-up and cosine, clipped gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from studio.devices import Precision, precision_for, select
from studio.plugin import TrainingContext
from studio_gpt.config import LanguageConfig

_BETA1 = 0.9


def learning_rate_factor(progress: float, first: float, warmup: float, final: float) -> float:
    """Share of the peak learning rate: rises linearly during the warm-up, then falls to `final` along half a cosine.

    Args:
        progress: Share of the training done, in [0, 1].
        first: Share that one step is, so that the first step already learns.
        warmup: Share that the rise takes.
        final: The share of the peak at the end.
    """
    if progress < warmup:
        return min((progress + first) / (warmup + first), 1.0)
    share = (progress - warmup) / max(1.0 - warmup, 1e-9)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


class Optimization:
    """AdamW on a network's parameters, with decay on matrices only: a decayed bias or norm gains nothing.

    Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019).
    """

    def __init__(self, network: nn.Module, config: LanguageConfig, context: TrainingContext) -> None:
        self._config = config
        self._context = context
        self._parameters = list(network.parameters())
        matrices = [p for p in self._parameters if p.ndim >= 2]
        others = [p for p in self._parameters if p.ndim < 2]
        self._optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.lr,
            betas=(_BETA1, config.beta2),
            fused=context.device.type in ("cpu", "cuda"),
        )
        self.precision = _precision(context.device, config.precision)

    def step(self, loss: Tensor, step: int) -> dict[str, float | Tensor]:
        """Follow the gradient of `loss`; the figures to log besides it."""
        config = self._config
        factor = learning_rate_factor(
            self._context.progress(step), 1 / max(self._context.total_steps, 1), config.warmup, config.lr_final
        )
        for group in self._optimizer.param_groups:
            group["lr"] = config.lr * factor
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        limit = config.clip if config.clip > 0 else math.inf
        norm = nn.utils.clip_grad_norm_(self._parameters, limit)
        self._optimizer.step()
        return {"lr": config.lr * factor, "gradient_norm": norm.detach()}

    def state(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict(dict(state["optimizer"]))


def _precision(device: torch.device, wanted: str) -> Precision:
    """bf16 only where the device computes in it: elsewhere it is slower than float32, not faster."""
    return precision_for(select(str(device)), wanted)
