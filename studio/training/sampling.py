"""Drawing many samples of a trained generator, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from studio.plugin.base import Generator
from studio.plugin.noise import SampleGenerator

_BATCH_VALUES = 256 * 3 * 32 * 32
_LARGEST_BATCH, _TEXTS = 4096, 16

Condition = Sequence[int] | Sequence[str] | None


def default_batch(generator: Generator) -> int:
    """Samples at once: as many as 256 small pictures hold values."""
    shape = generator.data_info.sample_shape
    values = 1
    for side in shape:
        values *= side
    return max(min(_BATCH_VALUES // values, _LARGEST_BATCH), 1) if shape else _TEXTS


@torch.no_grad()
def draw_samples(
    generator: Generator,
    n: int,
    condition: Condition = None,
    *,
    seed: int = 0,
    batch: int | None = None,
    options: Mapping[str, Any] | None = None,
    on_batch: Callable[[int], None] = lambda drawn: None,
) -> Tensor | list[str]:
    """Samples (n, *shape) on the CPU, or strings; equal seeds give equal samples, whatever the batch.

    So far as the plugin draws through `studio.plugin.noise`; one that does not gives equal samples for equal batches.

    Args:
        generator: Trained, in evaluation mode.
        n: How many.
        condition: One each, or None.
        seed: Of the samples' random streams, one each.
        batch: Samples at once; default: `default_batch`.
        options: Fields of the generator's `sample_options`.
        on_batch: Told after each batch how many it had.
    """
    noise = SampleGenerator(seed)
    size = batch or default_batch(generator)
    tensors: list[Tensor] = []
    texts: list[str] = []
    for start in range(0, n, size):
        count = min(size, n - start)
        part = None if condition is None else condition[start : start + count]
        noise.turn_to(start, count)
        drawn = generator.sample(count, part, noise, **(options or {}))
        if isinstance(drawn, Tensor):
            tensors.append(drawn.float().cpu())
        else:
            texts += drawn
        on_batch(count)
    return torch.cat(tensors) if tensors else texts
