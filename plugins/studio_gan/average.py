"""A moving average of a network's weights, whose samples are steadier than those of the newest weights.

Source: Yazıcı et al., "The Unusual Effectiveness of Averaging in GAN Training", 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

_SPECTRAL = ("._u", "._v")


class MovingAverage(nn.Module):
    """Averaged parameters and running statistics of a network, kept as buffers: saved, but not trained or counted.

    Args:
        network: What is averaged; not made a part of this module.
        decay: Weight of the past at each update. Early on (1 + t) / (10 + t) is used where it is smaller, which
            forgets the random start.
    """

    updates: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._keys = {name: name.replace(".", "/") for name in network.state_dict()}
        for name, value in network.state_dict().items():
            self.register_buffer(self._keys[name], value.detach().clone())

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network's present state."""
        self.updates += 1
        done = int(self.updates)
        share = 1 - min(self.decay, (1 + done) / (10 + done))
        for name, value in network.state_dict().items():
            average = self._buffers[self._keys[name]]
            assert average is not None
            # Counters are no averages, and the mean of two unit vectors is no unit vector.
            if value.is_floating_point() and not name.endswith(_SPECTRAL):
                average.lerp_(value, share)
            else:
                average.copy_(value)

    def run(self, network: nn.Module, *inputs: Tensor | float) -> Tensor:
        """The network's output with the averaged weights."""
        state = {name: getattr(self, key) for name, key in self._keys.items()}
        return functional_call(network, state, inputs)
