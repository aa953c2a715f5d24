"""Shuffled orders that are a pure function of a seed and a position, so that a resumed run sees the same data."""

from __future__ import annotations

import torch

from studio.training.randomness import stream_seed


class ShuffledOrder:
    """Endless stream of indices in [0, n): every index once an epoch, in an order drawn from (seed, epoch).

    The whole state is one number, `position`.
    """

    def __init__(self, n: int, seed: int) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self.n = n
        self.seed = seed
        self.position = 0
        self._epoch = -1
        self._permutation: list[int] = []

    def take(self, count: int) -> list[int]:
        """The next `count` indices."""
        return [self._next() for _ in range(count)]

    def peek(self, count: int) -> list[int]:
        """The next `count` indices within this epoch, without consuming them (for prefetching)."""
        epoch, offset = divmod(self.position, self.n)
        return self._epoch_order(epoch)[offset : offset + count]

    def _next(self) -> int:
        epoch, offset = divmod(self.position, self.n)
        self.position += 1
        return self._epoch_order(epoch)[offset]

    def _epoch_order(self, epoch: int) -> list[int]:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(stream_seed(self.seed, epoch))
            self._permutation = torch.randperm(self.n, generator=generator).tolist()
            self._epoch = epoch
        return self._permutation
