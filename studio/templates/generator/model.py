"""Flow matching (Lipman et al. 2023): a network learns the straight way from noise to data, and sampling follows it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from studio.datasets import Dataset
from studio.errors import StudioError
from studio.plugin import DataInfo, Generator, SampleBatch, SampleRequest, TrainingContext
from studio.plugin.conditions import class_labels
from studio.templates.generator.config import TemplateConfig, TemplateSampling

_LEAST_TIME_LEFT = 0.05
"""The velocity is the way left over the time left; near the end that quotient says nothing."""


class Denoiser(nn.Module):
    """What the sample will be, from a point on the way to it."""

    def __init__(self, size: int, width: int, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.enter = nn.Linear(size, width)
        self.time = nn.Linear(32, width)
        self.label = nn.Embedding(num_classes + 1, width)  # the last one stands for no class
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
            for _ in range(blocks)
        )
        self.leave = nn.Linear(width, size)

    def forward(
        self, x: Float[Tensor, "b size"], t: Float[Tensor, "b 1"], labels: Int[Tensor, " b"]
    ) -> Float[Tensor, "b size"]:
        angles = t * torch.exp2(torch.linspace(0, 8, 16, device=t.device))
        given = F.silu(self.time(torch.cat([angles.sin(), angles.cos()], dim=-1)) + self.label(labels))
        hidden = self.enter(x)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            hidden = hidden + block(torch.cat([norm(hidden), given], dim=-1))
        return self.leave(hidden)


class TemplateGenerator(Generator):
    """Points or small pictures."""

    config: TemplateConfig
    sample_options = TemplateSampling

    def __init__(self, config: TemplateConfig, data_info: DataInfo) -> None:
        super().__init__(config, data_info)
        if not data_info.sample_shape:
            raise StudioError("This plugin learns points and pictures, not text.", fix="Train 'gpt' on it.")
        self.num_classes = data_info.num_classes or 0
        size = math.prod(data_info.sample_shape)
        self.network = Denoiser(size, config.width, config.blocks, self.num_classes)
        # Buffers are saved with the parameters, so a run opens without its data.
        self.register_buffer("center", torch.zeros(size))
        self.register_buffer("spread", torch.ones(()))

    center: Tensor
    spread: Tensor

    def initialize(self, dataset: Dataset, generator: torch.Generator) -> None:
        x = dataset.batch(range(min(len(dataset), 2000)))[0].flatten(1)
        self.center.copy_(x.mean(dim=0))
        self.spread.copy_((x - self.center).square().mean().sqrt().clamp(min=1e-3))

    # ---- training
    def setup_training(self, context: TrainingContext) -> None:
        self._context = context
        self._optimizer = torch.optim.AdamW(self.parameters(), lr=self.config.lr, weight_decay=0.01)

    def batch_request(self, step: int) -> SampleRequest:
        return SampleRequest(self.config.batch)

    def training_step(self, batch: SampleBatch, step: int) -> dict[str, Tensor]:
        draw = self._context.generator
        data = (batch.x.flatten(1) - self.center) / self.spread
        noise = torch.randn(data.shape, generator=draw).to(data)
        t = torch.sigmoid(torch.randn(len(data), 1, generator=draw)).to(data)
        labels = batch.cond if isinstance(batch.cond, Tensor) else torch.zeros(len(data), dtype=torch.int64)
        hidden = torch.rand(len(data), generator=draw) < self.config.label_dropout
        labels = torch.where(hidden.to(labels.device), self.num_classes, labels).to(self.device)
        found = self.network(torch.lerp(noise, data, t), t, labels)
        # The squared error of the velocity (data - noise), written as that of the sample.
        loss = ((found - data) / (1 - t).clamp(min=_LEAST_TIME_LEFT)).square().mean()
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.lr * 0.5 * (1 + math.cos(math.pi * self._context.progress(step)))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return {"loss": loss.detach()}

    def training_state(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict(dict(state["optimizer"]))

    # ---- use
    @torch.no_grad()
    def sample(
        self,
        n: int,
        condition: Sequence[int] | Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Float[Tensor, " n *shape"]:
        """Draw samples; of all classes in turn, where the data has any and no condition is given."""
        *_, last = self._way(n, condition, generator, TemplateSampling(**options))
        return last

    @torch.no_grad()
    def trajectory(
        self,
        n: int,
        condition: Sequence[int] | Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        *,
        predicted: bool = False,
        **options: Any,
    ) -> Float[Tensor, " frames n *shape"]:
        """The way of `sample` from noise to the samples; or what the network expects at each step of it."""
        return torch.stack(list(self._way(n, condition, generator, TemplateSampling(**options), predicted)))

    def _way(
        self,
        n: int,
        condition: Sequence[int] | Sequence[str] | None,
        generator: torch.Generator | None,
        options: TemplateSampling,
        predicted: bool = False,
    ) -> Iterator[Tensor]:
        if condition is None:
            labels = torch.arange(n) % self.num_classes if self.num_classes else torch.zeros(n, dtype=torch.int64)
        else:
            labels = class_labels(condition, n, self.data_info)
        labels = labels.to(self.device)
        x = torch.randn(n, len(self.center), generator=generator or torch.Generator()).to(self.device)
        for i in range(options.ode_steps):
            t = torch.full((n, 1), i / options.ode_steps, device=self.device)
            expected = self.network(x, t, labels)
            # An Euler step along the straight way; the last one arrives.
            x = torch.lerp(x, expected, 1 / (options.ode_steps - i))
            yield self._as_data(expected if predicted else x)

    def _as_data(self, x: Float[Tensor, "n size"]) -> Float[Tensor, " n *shape"]:
        shape = self.data_info.sample_shape
        samples = (x * self.spread + self.center).unflatten(1, shape)
        return samples.clamp(0, 1) if len(shape) == 3 else samples
