"""What a plugin asks the engine for at a training step, and what it gets.

A plugin's `batch_request(step)` returns a request; the engine owns the data, its order and its cache, and answers with
the matching batch. Orders are a function of the seed, so a resumed run sees the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from studio.scene import Photo


@dataclass(frozen=True)
class PhotoRequest:
    """Whole photos, each training photo once an epoch in a shuffled order."""

    count: int = 1
    downscale: int = 1
    """Area-filtered reduction on top of the run's own `--downscale` (for coarse-to-fine schedules)."""
    shifted: bool = False
    """Where the run's own `--downscale` is a whole number, reduce each photo at a random offset of whole pixels, so
    that in time all of the full photos is learnt from. Sizes then differ by a pixel; each photo's camera fits it."""


@dataclass(frozen=True)
class RayRequest:
    """Single pixels drawn uniformly from all training photos (masked pixels are never drawn)."""

    count: int = 4096


@dataclass(frozen=True)
class SampleRequest:
    """Samples of a data set, each once an epoch in a shuffled order."""

    count: int = 32


@dataclass(frozen=True)
class TokenRequest:
    """Windows of a text data set, as token ids.

    One long document: windows at uniformly random places of its token stream. One sample a line: whole lines in a
    shuffled order, cut to the length and padded.
    """

    count: int
    length: int
    """Tokens to predict: each window has one more."""
    encode: Callable[[str], Sequence[int]]
    """The plugin's tokenizer, the same function in each request; called once for each text, the tokens are kept."""
    padding: int = -1
    """Id that fills short lines."""


@dataclass(frozen=True, eq=False)
class PhotoBatch:
    """Answer to a `PhotoRequest`."""

    photos: tuple[Photo, ...]
    indices: tuple[int, ...]
    """Positions in the training split (for per-photo parameters such as exposure)."""


@dataclass(frozen=True, eq=False)
class RayBatch:
    """Answer to a `RayRequest`; all tensors on the run's device."""

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    """Unit vectors, world frame."""
    rgb: Float[Tensor, "n 3"]
    """sRGB in [0, 1], straight (not composited)."""
    alpha: Float[Tensor, "n 1"]
    """1 where the photo has no alpha channel."""
    indices: Int[Tensor, " n"]
    """Position of each ray's photo in the training split."""
    pixels: Float[Tensor, "n 2"]
    """(x, y) pixel coordinates, centres at .5."""


@dataclass(frozen=True, eq=False)
class SampleBatch:
    """Answer to a `SampleRequest`."""

    x: Float[Tensor, " b *shape"]
    """Samples on the run's device; pictures are (b, c, h, w) in [0, 1]."""
    cond: Any = None
    """Class labels (b,), captions (list of str), or None."""


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Answer to a `TokenRequest`."""

    tokens: Int[Tensor, "b length+1"]
    """int64 on the run's device."""


Request = PhotoRequest | RayRequest | SampleRequest | TokenRequest
Batch = PhotoBatch | RayBatch | SampleBatch | TokenBatch
