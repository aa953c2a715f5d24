"""Density estimation using Real NVP (Dinh, Sohl-Dickstein and Bengio 2017)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from realnvp_plugin import FlowConfig
from studio.datasets import Dataset
from studio.errors import StudioError
from studio.plugin import DataInfo, Generator, SampleBatch, SampleRequest, TrainingContext

MARGIN = 0.01  # pictures are squeezed into (MARGIN, 1 - MARGIN) before the logit, which is infinite at 0 and 1


class Coupling(nn.Module):
    """y = x · exp(s) + t (eq. 9); s and t are zero where the mask is one, and see nothing else."""

    def __init__(self, mask: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.network = nn.Sequential(
            nn.Linear(len(mask), width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2 * len(mask))
        )
        nn.init.zeros_(self.network[-1].weight)  # the flow begins as the identity
        nn.init.zeros_(self.network[-1].bias)

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.network(x * self.mask).chunk(2, dim=-1)
        return (1 - self.mask) * 2 * torch.tanh(s / 2), (1 - self.mask) * t


class RealNVP(Generator):
    """A flow between points or small pictures and a normal distribution."""

    config: FlowConfig
    likelihood_kind = "exact"

    def __init__(self, config: FlowConfig, data_info: DataInfo) -> None:
        super().__init__(config, data_info)
        self.pictures = len(data_info.sample_shape) == 3
        if (size := math.prod(data_info.sample_shape)) < 2:
            raise StudioError("realnvp learns points of two or more numbers, and pictures.", fix="Choose other data.")
        draw = torch.Generator().manual_seed(0)
        halves = [torch.randperm(size, generator=draw) % 2 for _ in range(config.couplings // 2)]
        masks = [mask.float() for half in halves for mask in (half, 1 - half)]
        self.couplings = nn.ModuleList(Coupling(mask, config.width) for mask in masks)
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("spread", torch.ones(()))

    def initialize(self, dataset: Dataset, generator: torch.Generator) -> None:
        x = self._enter(dataset.batch(range(min(len(dataset), 2000)))[0], None)[0]
        self.center.copy_(x.mean(dim=0))
        self.spread.copy_((x - self.center).square().mean().sqrt())

    def setup_training(self, context: TrainingContext) -> None:
        self._context = context
        self._optimizer = torch.optim.Adam(self.parameters(), lr=self.config.lr)

    def batch_request(self, step: int) -> SampleRequest:
        return SampleRequest(self.config.batch)

    def training_step(self, batch: SampleBatch, step: int) -> dict[str, Tensor]:
        loss = -self.log_likelihood(batch.x, None, self._context.generator).mean() / len(self.center)
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.lr * 0.5 * (1 + math.cos(math.pi * self._context.progress(step)))
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self._optimizer.step()
        return {"loss": loss.detach()}

    def training_state(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict(dict(state["optimizer"]))

    @torch.no_grad()
    def sample(self, n: int, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        if condition is not None:
            raise StudioError("realnvp draws from all of the data; it knows no classes.", fix="Leave --cond out.")
        z = torch.randn(n, len(self.center), generator=generator or torch.Generator())
        return self.decode(z.to(self.device))

    @torch.no_grad()
    def encode(self, x: Tensor, condition: Any = None) -> Tensor:
        """Latents (b, d) of samples; classes make no difference."""
        return self._flow(self._enter(x, None)[0])[0]

    @torch.no_grad()
    def decode(self, z: Tensor, condition: Any = None) -> Tensor:
        """Samples of latents (b, d)."""
        for coupling in reversed(self.couplings):
            s, t = coupling.terms(z)
            z = (z - t) * torch.exp(-s)
        x = z * self.spread + self.center
        if self.pictures:
            x = ((x.sigmoid() - MARGIN) / (1 - 2 * MARGIN) * 256 - 0.5).div(255).clamp(0, 1)
        return x.unflatten(1, self.data_info.sample_shape)

    def log_likelihood(self, x: Tensor, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        """ln p(x) in nats; with a generator, noise fills the gaps between levels of pictures (Theis et al. 2016)."""
        entered, log_slope = self._enter(x, generator)
        z, log_det = self._flow(entered)
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(dim=1) + log_det + log_slope

    def _flow(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Latents, and the logarithm of the determinant of their Jacobian."""
        log_det = x.new_zeros(len(x))
        for coupling in self.couplings:
            s, t = coupling.terms(x)
            x, log_det = x * torch.exp(s) + t, log_det + s.sum(dim=1)
        return x, log_det

    def _enter(self, x: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Samples as rows of standardised numbers, and the logarithm of what that stretches volumes by."""
        x = x.to(self.device).flatten(1)
        log_slope = x.new_zeros(len(x)) - x.shape[1] * self.spread.log()
        if self.pictures:
            noise = torch.rand(x.shape, generator=generator).to(x) if generator is not None else 0.5
            inside = MARGIN + (1 - 2 * MARGIN) * (255 * x + noise) / 256
            slope = (1 - 2 * MARGIN) * (255 / 256) / (inside * (1 - inside))
            x, log_slope = torch.logit(inside), log_slope + slope.log().sum(dim=1)
        return (x - self.center) / self.spread, log_slope
