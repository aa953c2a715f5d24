"""Adam for the field's parameters, whose moments either the kernels or torch may step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BETA1, BETA2, EPSILON = 0.9, 0.99, 1e-15


class LazyAdam:
    """Adam (Kingma and Ba, 2015); values whose gradient is exactly 0 stay as they are (instant-ngp's tables).

    Args:
        parameters: By name.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = {name: p.detach() for name, p in parameters.items()}
        self.first = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.steps = 0

    def rebound(self, parameters: Mapping[str, Tensor]) -> LazyAdam:
        """The same optimiser for the same parameters at another place (moved to another device)."""
        other = LazyAdam(parameters)
        other.load_state(self.state())
        return other

    def coefficients(self, rate: float) -> NDArray[np.float32]:
        """What a kernel needs for the step counted last: rate / (1 - b1^t), b1, b2, 1 / (1 - b2^t), epsilon."""
        t = self.steps
        return np.array([rate / (1 - BETA1**t), BETA1, BETA2, 1 / (1 - BETA2**t), EPSILON], np.float32)

    def arrays(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Value, first and second moment of a parameter on the CPU, sharing its memory."""
        value, first, second = (table[name].numpy() for table in (self.parameters, self.first, self.second))
        return value, first, second

    def step(self, name: str, gradient: Tensor, rate: float, decay: Tensor | float = 0.0) -> None:
        """Step one parameter, with torch; `decay` is the share of itself that a stepped value loses (AdamW)."""
        first, second, value = self.first[name], self.second[name], self.parameters[name]
        touched = gradient != 0
        new_first = torch.lerp(first, gradient, 1 - BETA1)
        new_second = torch.lerp(second, gradient.square(), 1 - BETA2)
        scale = rate / (1 - BETA1**self.steps)
        step = scale * new_first / ((new_second / (1 - BETA2**self.steps)).sqrt() + EPSILON) + decay * value
        first.copy_(torch.where(touched, new_first, first))
        second.copy_(torch.where(touched, new_second, second))
        value.sub_(torch.where(touched, step, torch.zeros_like(step)))

    def state(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "first": {name: t.clone() for name, t in self.first.items()},
            "second": {name: t.clone() for name, t in self.second.items()},
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.steps = int(state["steps"])
        for mine, saved in ((self.first, state["first"]), (self.second, state["second"])):
            for name, tensor in mine.items():
                tensor.copy_(saved[name])
