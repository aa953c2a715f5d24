"""Captioned pictures of coloured primitives, made on the fly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.datasets.held_out import SHARE, Split
from studio.datasets.shapes.rendering import render_scenes
from studio.datasets.shapes.scenes import ShapeScene, draw_shape_scenes
from studio.errors import StudioError

DEFAULT_SAMPLES = 18_000
_STREAM = {"train": 0, "test": 1}
_CACHE_BYTES = 1 << 29
_SMALLEST, _LARGEST = 16, 2048


class ShapesDataset:
    """Picture `i` of a split is a function of (seed, split, i); more samples continue the same row.

    Args:
        size: Side of the pictures, pixels.
        split: Scenes of the splits come from different streams.
        samples: How many.
        seed: Another seed gives another set.
    """

    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    has_captions: bool = True

    def __init__(self, size: int, split: Split = "train", samples: int = DEFAULT_SAMPLES, seed: int = 0) -> None:
        self.name = f"shapes-{size}"
        self.size = size
        self.split = split
        self.seed = seed
        self.sample_shape: tuple[int, ...] = (3, size, size)
        self._samples = samples
        # Zeroed pages cost nothing until a picture is kept in them.
        shape = (samples, size, size, 3)
        self._kept = np.zeros(shape, np.uint8) if int(np.prod(shape)) <= _CACHE_BYTES else None
        self._known = np.zeros(samples, bool)

    def __len__(self) -> int:
        return self._samples

    def scenes(self, indices: Sequence[int]) -> list[ShapeScene]:
        """The descriptions of samples: objects, relations and camera; `ShapeScene.caption` is their caption."""
        return draw_shape_scenes(self.seed, _STREAM[self.split], np.asarray(indices, dtype=np.int64))

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """Of all samples."""
        return tuple(scene.caption for scene in self.scenes(range(len(self))))

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Any]:
        rows = np.asarray(indices, dtype=np.int64)
        captions = self.captions
        pixels = self._pixels(rows)
        x = torch.from_numpy(pixels).movedim(-1, 1).float().div_(255).contiguous()
        return x, [captions[row] for row in rows]

    def _pixels(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if self._kept is None:
            return render_scenes(self.scenes(rows.tolist()), self.size)[0]
        missing = np.unique(rows[~self._known[rows]])
        if len(missing):
            self._kept[missing] = render_scenes(self.scenes(missing.tolist()), self.size)[0]
            self._known[missing] = True
        return self._kept[rows]


def load_shapes(name: str, split: Split, *, samples: int | None = None) -> ShapesDataset:
    """Open ``shapes:SIZE``; the test split has a tenth as many samples as both together.

    Raises:
        StudioError: Not a size.
    """
    text = name.removeprefix("shapes:")
    if not text.isdecimal() or not _SMALLEST <= int(text) <= _LARGEST:
        raise StudioError(
            f"{name}: '{text}' is not a picture size from {_SMALLEST} to {_LARGEST}.",
            fix="Write shapes:32 or shapes:64.",
        )
    train = DEFAULT_SAMPLES if samples is None else samples
    return ShapesDataset(int(text), split, train if split == "train" else max(train // (SHARE - 1), 1))
