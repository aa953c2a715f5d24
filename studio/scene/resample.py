"""Area resampling: each new pixel is the mean of exactly the area of the photo that it covers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from torch import Tensor

_STRIP_VALUES = 1 << 22
"""Float values worked on at a time; bounds the memory beside the photo itself to some tens of MB."""

_ALL = 1 - 1e-4
"""Share of a pixel's area from which on it counts as all of it (float32 sums of weights are not exactly 1)."""


def downscaled_size(size: tuple[int, int], downscale: float) -> tuple[int, int]:
    """``(width, height)`` divided by `downscale`, rounded to whole pixels (halves up), at least 1."""
    width, height = (max(1, math.floor(n / downscale + 0.5)) for n in size)
    return width, height


def resize_area(image: UInt8[Tensor, "h w c"], size: tuple[int, int]) -> UInt8[Tensor, "h2 w2 c"]:
    """Resize an 8-bit photo to ``size = (width, height)`` by exact area averaging.

    Four channels are RGB with straight alpha: colours are averaged with their alpha as weight, so what is transparent
    does not bleed into the edges, and compositing the result equals resizing the composited photo up to rounding.
    """
    with_alpha = image.shape[-1] == 4

    def prepare(strip: Tensor) -> Tensor:
        values = strip.float()
        if with_alpha:
            alpha = values[..., 3:]
            values = torch.cat([values[..., :3] * alpha, alpha], dim=-1)
        return values

    def finish(strip: Tensor) -> Tensor:
        if with_alpha:
            alpha = strip[..., 3:]
            # Where all is transparent the colours are zero too, and any positive divisor will do.
            strip = torch.cat([strip[..., :3] / alpha.clamp(min=1e-6), alpha], dim=-1)
        return (strip + 0.5).clamp_(0, 255.5).to(torch.uint8)

    return _resample_strips(image, size, prepare, finish)


def resize_mask(mask: Bool[Tensor, "h w"], size: tuple[int, int]) -> Bool[Tensor, "h2 w2"]:
    """Resize a mask to ``size = (width, height)``: True only where all of the covered area is True.

    So a resized pixel never mixes in what was masked out.
    """
    resized = _resample_strips(mask[..., None], size, lambda strip: strip.float(), lambda strip: strip >= _ALL)
    return resized[..., 0]


def _resample_strips(
    image: Shaped[Tensor, "h w c"],
    size: tuple[int, int],
    prepare: Callable[[Tensor], Tensor],
    finish: Callable[[Tensor], Tensor],
) -> Shaped[Tensor, "h2 w2 c"]:
    """Area resampling in strips of rows; `prepare` makes floats of a strip, `finish` the final type of the result."""
    height, width, channels = image.shape
    new_width, new_height = size
    if (width, height) == (new_width, new_height):
        return image
    rows_at_a_time = max(1, math.floor(_STRIP_VALUES / (width * channels) * new_height / height))
    strips = []
    for top in range(0, new_height, rows_at_a_time):
        bottom = min(top + rows_at_a_time, new_height)
        first = top * height // new_height
        last = -(-bottom * height // new_height)
        values = prepare(image[first:last])
        values = _average(values, 0, height, new_height, range(top, bottom), first)
        values = _average(values, 1, width, new_width, range(new_width), 0)
        strips.append(finish(values))
    return torch.cat(strips)


def _average(
    values: Float[Tensor, "*shape"], dim: int, length: int, new_length: int, wanted: range, first: int
) -> Float[Tensor, "*shape"]:
    """Mean over the area of each wanted new pixel along one axis.

    Args:
        values: The old pixels from `first` on, as far as the wanted ones reach.
        length, new_length: Pixels of the whole axis before and after.
    """
    start = torch.arange(wanted.start, wanted.stop + 1, dtype=torch.float64) * length / new_length
    low, high = start[:-1], start[1:]
    base = low.floor()
    taps = int((high.ceil() - base).max())
    shape = [1] * values.ndim
    shape[dim] = len(wanted)
    total: Tensor | None = None
    for tap in range(taps):
        pixel = base + tap
        weight = (torch.minimum(high, pixel + 1) - torch.maximum(low, pixel)).clamp(min=0) / (high - low)
        index = (pixel.long() - first).clamp(max=values.shape[dim] - 1)
        share = values.index_select(dim, index).mul_(weight.to(values).reshape(shape))
        total = share if total is None else total.add_(share)
    assert total is not None
    return total
