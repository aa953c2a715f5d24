"""Numbers as colours: colour maps with a labelled scale, and the error of a render beside its photo."""

from __future__ import annotations

import difflib
import functools
import math

import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from torch import Tensor

from studio.errors import StudioError
from studio.export.pictures import INK, PAPER, caption, default_text_height, font, from_grey, side_by_side, text_strip

_ERROR_MAP = "inferno"
_SMALLEST_PANEL = 192
_ERROR_LIMITS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def value_range(
    values: Float[Tensor, "*shape"], valid: Bool[Tensor, "*shape"] | None = None, *, percentiles: float = 1.0
) -> tuple[float, float]:
    """A range that shows most of the values: from a low to a high percentile of the finite, valid ones.

    Compute it once and pass it to `colormap` for every frame of a video, else the colours flicker.

    Args:
        values: Depths, errors, ...
        valid: Which count, such as opacity > 0.5; default all.
        percentiles: How many percent to leave out at either end.

    Returns:
        (low, high) with low < high; (0, 1) where nothing is valid.
    """
    keep = values.isfinite() if valid is None else values.isfinite() & valid
    kept = values[keep].double().flatten()
    if kept.numel() == 0:
        return 0.0, 1.0
    # Order statistics by kthvalue: torch.quantile refuses more than 16 million values.
    skipped = int(percentiles / 100 * (kept.numel() - 1))
    low = kept.kthvalue(skipped + 1).values.item()
    high = kept.kthvalue(kept.numel() - skipped).values.item()
    if high > low:
        return low, high
    margin = max(abs(low), 1.0) * 1e-3
    return low - margin, high + margin


def colormap(
    values: Float[Tensor, "h w"],
    name: str = "turbo",
    limits: tuple[float, float] | None = None,
    *,
    valid: Bool[Tensor, "h w"] | None = None,
    invalid_color: float = 0.0,
    label: str | None = None,
) -> Float[Tensor, "h w2 3"]:
    """Colours of a scalar picture such as depth.

    Args:
        values: Any range; values beyond `limits` get the end colours.
        name: One of matplotlib's colour maps: turbo, viridis, magma, inferno, plasma, gray, Spectral, ...
        limits: Values of the first and last colour; default `value_range(values, valid)`.
        valid: Where there is a value at all; elsewhere, and where not finite, is `invalid_color`.
        invalid_color: A grey level in [0, 1].
        label: If given, a colour bar with numbers and this label is drawn on the right ("" for numbers only).

    Raises:
        StudioError: No such colour map; names similar ones.
        ValueError: Shapes do not fit, or an empty range.
    """
    if values.ndim != 2 or (valid is not None and valid.shape != values.shape):
        shapes = f"{tuple(values.shape)} and {None if valid is None else tuple(valid.shape)}"
        raise ValueError(f"values and valid must be (H, W), got {shapes}")
    values = values.detach().cpu().float()
    keep = values.isfinite() if valid is None else values.isfinite() & valid.cpu()
    low, high = limits if limits is not None else value_range(values, keep)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"limits must be finite and increasing, got ({low}, {high})")
    table = _table(name)
    position = ((values - low) / (high - low)).nan_to_num(nan=0.0).clamp(0.0, 1.0)
    index = (position * len(table)).long().clamp(max=len(table) - 1)
    colors = torch.where(keep.unsqueeze(-1), table[index], torch.tensor(float(invalid_color)))
    if label is None:
        return colors
    return side_by_side(
        [colors, color_bar(values.shape[0], name, (low, high), label)], gap=max(values.shape[1] // 50, 4)
    )


def color_bar(height: int, name: str, limits: tuple[float, float], label: str = "") -> Float[Tensor, "height w 3"]:
    """A vertical colour bar with round numbers beside it and the label along it, on white.

    Args:
        height: Pixels of the whole.
        name: See `colormap`.
        limits: Values at the bottom and the top.
        label: What the numbers are, with their unit.
    """
    from matplotlib.ticker import MaxNLocator

    low, high = limits
    size = min(default_text_height(height, height), max(height // 4, 6))
    edge = (size + 1) // 2
    length = max(height - 2 * edge, 1)
    locator = MaxNLocator(nbins=max(min(length // (3 * size), 6), 1), steps=[1, 2, 2.5, 5, 10])
    slack = 1e-9 * (high - low)
    ticks = [float(t) for t in locator.tick_values(low, high) if low - slack <= t <= high + slack]
    if len(ticks) < 2:
        ticks = [low, high]
    texts = [f"{0.0 if abs(tick) < slack else tick:.4g}" for tick in ticks]
    typeface = font(size)
    bar_width = max(size, 8)
    number_left = bar_width + size // 2 + 2
    number_width = math.ceil(max(typeface.getlength(text) for text in texts))
    ink = Image.new("L", (number_left + number_width + 2, height), round(255 * PAPER))
    draw = ImageDraw.Draw(ink)
    dark = round(255 * INK)
    for tick, text in zip(ticks, texts, strict=True):
        y = edge + (1 - (tick - low) / (high - low)) * (length - 1)
        draw.line([(bar_width, y), (bar_width + size // 4, y)], fill=dark)
        draw.text((number_left, y), text, fill=dark, font=typeface, anchor="lm")
    picture = from_grey(ink).clone()
    table = _table(name)
    index = (torch.linspace(1, 0, length) * len(table)).long().clamp(max=len(table) - 1)
    picture[edge : edge + length, :bar_width] = table[index].unsqueeze(1)
    if label:
        picture = torch.cat([picture, text_strip(label, height, size).rot90(dims=(0, 1))], dim=1)
    return picture


def comparison(
    photo: Float[Tensor, "h w 3"],
    render: Float[Tensor, "h w 3"],
    *,
    title: str = "",
    mask: Bool[Tensor, "h w"] | None = None,
    error_limit: float | None = None,
) -> Float[Tensor, "h2 w2 3"]:
    """Photo, render and absolute error side by side, captioned, with the error's scale.

    Pictures below 192 pixels are enlarged by a whole factor (pixels repeated), so that the captions can be read.

    Args:
        photo: What was measured against.
        render: Clamped to [0, 1].
        title: Stands behind "render", such as "PSNR 31.42 dB".
        mask: Where the photo counts; the error is drawn black elsewhere.
        error_limit: The error of the brightest colour. Default: the least of 0.02, 0.05, 0.1, 0.2, 0.5, 1 that is above
            99 of 100 pixels' error; pass one value to compare photos with each other.
    """
    if photo.shape != render.shape or photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(f"photo and render must both be (H, W, 3), got {tuple(photo.shape)} and {tuple(render.shape)}")
    photo, render = (t.detach().cpu().float().clamp(0, 1) for t in (photo, render))
    error = (photo - render).abs().mean(dim=-1)
    if error_limit is None:
        high = value_range(error, None if mask is None else mask.cpu())[1]
        error_limit = next((limit for limit in _ERROR_LIMITS if limit >= high), _ERROR_LIMITS[-1])
    factor = math.ceil(_SMALLEST_PANEL / min(error.shape))
    panels = [
        picture.repeat_interleave(factor, dim=0).repeat_interleave(factor, dim=1)
        for picture in (photo, render, colormap(error, _ERROR_MAP, (0.0, error_limit), valid=mask))
    ]
    captions = ["photo", f"render   {title}" if title else "render", "error"]
    bar = color_bar(panels[0].shape[0], _ERROR_MAP, (0.0, error_limit), "mean |photo − render| over RGB")
    captioned = [caption(panel, text) for panel, text in zip(panels, captions, strict=True)]
    return side_by_side([*captioned, bar], gap=max(panels[0].shape[1] // 50, 4))


@functools.lru_cache(maxsize=16)
def _table(name: str) -> Float[Tensor, "n 3"]:
    from matplotlib import colormaps

    if name not in colormaps:
        near = difflib.get_close_matches(name, list(colormaps), n=3, cutoff=0.4) or ["turbo", "viridis", "gray"]
        raise StudioError(f"There is no colour map '{name}'.", fix=f"Did you mean {', '.join(near)}?")
    chosen = colormaps[name]
    return torch.tensor(chosen([*range(chosen.N)])[:, :3], dtype=torch.float32)
