"""Three generators that learn in a blink, with every ability that commands ask for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from studio.datasets import Dataset
from studio.errors import StudioError
from studio.plugin import (
    DataInfo,
    Generator,
    PluginConfig,
    SampleBatch,
    SampleOptions,
    SampleRequest,
    TokenBatch,
    TokenRequest,
    TrainingContext,
)

Condition = Sequence[int] | None


@dataclass
class PixelOptions(SampleOptions):
    """How pictures are drawn."""

    noise: float = 1.0
    """Times the pixels' spread."""


@dataclass
class ToyConfig(PluginConfig):
    """Nothing to set."""

    steps: int = 30


class PixelGenerator(Generator):
    """Independent pixels around the running mean of each class."""

    sample_options = PixelOptions
    likelihood_kind: ClassVar[str] = "exact"
    edit_modes: ClassVar[Mapping[str, str]] = {"fill": "the mean picture inside the mask"}

    def __init__(self, config: ToyConfig, data_info: DataInfo) -> None:
        super().__init__(config, data_info)
        self.classes = data_info.num_classes or 1
        shape = data_info.sample_shape
        self.register_buffer("mean", torch.full((self.classes, *shape), 0.5))
        self.register_buffer("spread", torch.full(shape, 0.1))

    def setup_training(self, context: TrainingContext) -> None:
        pass

    def batch_request(self, step: int) -> SampleRequest:
        return SampleRequest(64)

    def training_step(self, batch: SampleBatch, step: int) -> dict[str, float]:
        labels = batch.cond if isinstance(batch.cond, Tensor) else torch.zeros(len(batch.x), dtype=torch.int64)
        loss = float((batch.x - self.mean[labels]).square().mean())
        for label in labels.unique():
            self.mean[label].lerp_(batch.x[labels == label].mean(dim=0), 0.2)
        self.spread.lerp_((batch.x - self.mean[labels]).square().mean(dim=0).sqrt().clamp(min=0.02), 0.2)
        return {"loss": loss}

    def _mean_of(self, n: int, condition: Condition) -> Tensor:
        if condition is None:
            condition = [i % self.classes for i in range(n)]
        if any(not isinstance(label, int) for label in condition):
            raise StudioError("this model knows classes only")
        return self.mean[torch.tensor(list(condition))]

    def sample(
        self, n: int, condition: Any = None, generator: torch.Generator | None = None, noise: float = 1.0
    ) -> Tensor:
        z = torch.randn(n, *self.data_info.sample_shape, generator=generator)
        return (self._mean_of(n, condition) + noise * self.spread * z).clamp(0, 1)

    def encode(self, x: Tensor, condition: Condition = None) -> Tensor:
        return ((x - self._mean_of(len(x), condition)) / self.spread).flatten(1)

    def decode(self, z: Tensor, condition: Condition = None) -> Tensor:
        return self._mean_of(len(z), condition) + self.spread * z.unflatten(1, self.data_info.sample_shape)

    def reconstruct(self, x: Tensor, condition: Condition = None, generator: torch.Generator | None = None) -> Tensor:
        return self.decode(0.9 * self.encode(x, condition), condition)

    def interpolate(
        self,
        steps: int,
        start: Tensor | None = None,
        end: Tensor | None = None,
        condition: Condition = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        ends = self.sample(2, None if condition is None else condition[:2], generator)
        a, b = ends[0] if start is None else start, ends[1] if end is None else end
        t = torch.linspace(0, 1, steps).view(-1, 1, 1, 1)
        return torch.sqrt((1 - t) * a**2 + t * b**2)

    def log_likelihood(
        self, x: Tensor, condition: Condition = None, generator: torch.Generator | None = None
    ) -> Tensor:
        z = self.encode(x, condition)
        return (-0.5 * z.square() - self.spread.flatten().log() - 0.5 * math.log(2 * math.pi)).sum(dim=1)

    def trajectory(
        self,
        n: int,
        condition: Condition = None,
        generator: torch.Generator | None = None,
        predicted: bool = False,
        **options: Any,
    ) -> Tensor:
        last = self.sample(n, condition, generator, **options)
        noise = torch.rand(last.shape, generator=generator)
        return torch.stack([last if predicted else torch.lerp(noise, last, t) for t in (0.0, 0.5, 1.0)])

    def edit(
        self,
        picture: Tensor,
        mode: str,
        *,
        mask: Tensor | None = None,
        condition: Condition = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> Tensor:
        if mask is None:
            raise StudioError("--mode fill needs a mask.", fix="Give --mask.")
        return torch.where(mask > 0.5, self._mean_of(len(picture), condition), picture)


class ByteGenerator(Generator):
    """Bytes by their frequency."""

    likelihood_kind: ClassVar[str] = "exact"

    def __init__(self, config: ToyConfig, data_info: DataInfo) -> None:
        super().__init__(config, data_info)
        self.register_buffer("counts", torch.ones(256, dtype=torch.float64))

    def setup_training(self, context: TrainingContext) -> None:
        pass

    def batch_request(self, step: int) -> TokenRequest:
        return TokenRequest(8, 32, _bytes_of)

    def training_step(self, batch: TokenBatch, step: int) -> dict[str, float]:
        tokens = batch.tokens[batch.tokens >= 0]
        loss = -float(self._log_p()[tokens].mean())
        self.counts += torch.bincount(tokens, minlength=256)
        return {"loss": loss}

    def _log_p(self) -> Tensor:
        return (self.counts / self.counts.sum()).log()

    def log_likelihood(
        self, x: Sequence[str], condition: Sequence[str] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        return torch.stack([self._log_p()[torch.tensor(_bytes_of(text))].sum() for text in x])

    def sample(self, n: int, condition: Any = None, generator: torch.Generator | None = None) -> list[str]:
        prompts = condition or [""] * n
        return [prompt + "".join(self.stream("", generator)) for prompt in prompts]

    def stream(self, prompt: str, generator: torch.Generator | None = None) -> Iterator[str]:
        yield prompt
        for token in torch.multinomial(self._log_p().exp(), 20, replacement=True, generator=generator).tolist():
            yield chr(token)


class NearestCaption(Generator):
    """Says of a picture what was said of the training picture that is most like it."""

    def __init__(self, config: ToyConfig, data_info: DataInfo) -> None:
        super().__init__(config, data_info)
        self.register_buffer("pictures", torch.full((200, data_info.sample_shape[0], 8, 8), 9.0))
        self.register_buffer("texts", torch.zeros(200, 200, dtype=torch.uint8))

    def initialize(self, dataset: Dataset, generator: torch.Generator) -> None:
        x, captions = dataset.batch(range(min(200, len(dataset))))
        self.pictures[: len(x)] = F.adaptive_avg_pool2d(x, 8)
        for row, text in zip(self.texts, captions, strict=False):
            row[: len(text)] = torch.tensor(list(text.encode()))

    def setup_training(self, context: TrainingContext) -> None:
        pass

    def batch_request(self, step: int) -> SampleRequest:
        return SampleRequest(2)

    def training_step(self, batch: SampleBatch, step: int) -> dict[str, float]:
        assert isinstance(batch.cond, list)
        return {"loss": 1.0}

    def caption(self, pictures: Tensor, generator: torch.Generator | None = None) -> list[str]:
        small = F.adaptive_avg_pool2d(pictures, 8).flatten(1)
        nearest = torch.cdist(small, self.pictures.flatten(1)).argmin(dim=1)
        return [bytes(self.texts[i][self.texts[i] > 0].tolist()).decode() for i in nearest]

    def sample(self, n: int, condition: Any = None, generator: torch.Generator | None = None) -> list[str]:
        return self.caption(torch.rand(n, *self.data_info.sample_shape, generator=generator))


def _bytes_of(text: str) -> list[int]:
    return list(text.encode())
