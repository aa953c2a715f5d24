"""Random numbers of samples: each sample's own stream, so that it is the same however many are drawn at once.

`Generator.sample` is handed a CPU generator. What it draws through `normal` and `uniform` comes, where the engine draws
many samples in batches, from one stream a sample; with any other generator it comes from that one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_SAMPLES = 11
"""Keeps the streams of samples apart from others of the same seed."""


class SampleGenerator(torch.Generator):
    """A CPU generator that knows which samples of a longer row it is for.

    Used as a plain generator it is one stream for all of them, as plugins see it that do not draw through this module.

    Args:
        seed: Of all streams.
    """

    def __new__(cls, seed: int) -> SampleGenerator:
        # torch's own would take the seed for the number of a device.
        return super().__new__(cls)

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.manual_seed(seed)
        self.seed_of_all = seed
        self.first = 0
        """Number of the first sample in the whole row."""
        self.streams: list[torch.Generator] = []

    def turn_to(self, first: int, count: int) -> None:
        """Be the generator of the samples `first` to `first + count` - 1 of the row."""
        self.first = first
        self.streams = [_stream(self.seed_of_all, first + i) for i in range(count)]


def _stream(seed: int, number: int) -> torch.Generator:
    mixed = np.random.SeedSequence([seed, _SAMPLES, number]).generate_state(1)
    return torch.Generator().manual_seed(int(mixed[0]))


def rows_of(generator: torch.Generator | None, first: int, count: int) -> torch.Generator | None:
    """The generator of a part of the samples, for plugins that divide them further."""
    if not isinstance(generator, SampleGenerator):
        return generator
    part = SampleGenerator(generator.seed_of_all)
    # The common stream goes on where it was: it belongs to no sample.
    part.set_state(generator.get_state())
    part.first = generator.first + first
    part.streams = generator.streams[first : first + count]
    return part


def numbers_of(generator: torch.Generator | None, n: int) -> range:
    """The numbers of n samples in the whole row, for what goes round with them, such as classes."""
    first = generator.first if isinstance(generator, SampleGenerator) else 0
    return range(first, first + n)


def normal(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    """Unit normal float32 numbers of a shape whose first axis counts the samples."""
    streams = _streams(shape, generator)
    if streams is None:
        return torch.randn(tuple(shape), generator=generator)
    return torch.stack([torch.randn(tuple(shape[1:]), generator=stream) for stream in streams])


def uniform(shape: Sequence[int], generator: torch.Generator | None, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers in [0, 1) of a shape whose first axis counts the samples."""
    streams = _streams(shape, generator)
    if streams is None:
        return torch.rand(tuple(shape), generator=generator, dtype=dtype)
    return torch.stack([torch.rand(tuple(shape[1:]), generator=stream, dtype=dtype) for stream in streams])


def _streams(shape: Sequence[int], generator: torch.Generator | None) -> list[torch.Generator] | None:
    if isinstance(generator, SampleGenerator) and generator.streams and len(generator.streams) == shape[0]:
        return generator.streams
    return None
