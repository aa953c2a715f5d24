"""A data set that lies in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """Samples (n, *shape) float32 with optional class labels (n,) int64."""

    name: str
    x: Float[Tensor, n * shape]
    y: Int[Tensor, " n"] | None = None
    class_names: tuple[str, ...] = ()

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    @property
    def num_classes(self) -> int | None:
        if self.y is None:
            return None
        return max(len(self.class_names), int(self.y.max()) + 1)

    def __len__(self) -> int:
        return self.x.shape[0]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return self.x[chosen], None if self.y is None else self.y[chosen]
