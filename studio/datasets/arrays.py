"""A data set that lies in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from studio.datasets.held_out import Split, split_rows


@dataclass(frozen=True, eq=False)
class ArrayDataset:
    """Samples with optional class labels or captions.

    Args:
        x: (n, *shape) float32, or pictures (n, c, h, w) uint8, which batches give as float32 in [0, 1].
        y: Labels (n,) int64.
        captions: One each, instead of labels.
    """

    name: str
    x: Float[Tensor, " n *shape"] | UInt8[Tensor, "n c h w"]
    y: Int[Tensor, " n"] | None = None
    class_names: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What a user should know about how the data was read, a line each."""

    @property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    @property
    def num_classes(self) -> int | None:
        if self.y is None:
            return None
        return max(len(self.class_names), int(self.y.max()) + 1)

    @property
    def has_captions(self) -> bool:
        return bool(self.captions)

    def __len__(self) -> int:
        return self.x.shape[0]

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Any]:
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        x = self.x[chosen]
        if x.dtype == torch.uint8:
            x = x.float().div_(255)
        if self.captions:
            return x, [self.captions[i] for i in chosen.tolist()]
        return x, None if self.y is None else self.y[chosen]

    def part(self, split: Split, where: str) -> ArrayDataset:
        """The training or the held-out samples; raises StudioError as `split_rows`."""
        rows = split_rows(len(self), split, where)
        names = self.class_names or tuple(str(i) for i in range(self.num_classes or 0))
        chosen = torch.from_numpy(np.ascontiguousarray(rows))
        return replace(
            self,
            x=self.x[chosen],
            y=None if self.y is None else self.y[chosen],
            class_names=names,
            captions=tuple(self.captions[i] for i in rows) if self.captions else (),
        )
