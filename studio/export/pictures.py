"""Saving pictures, and laying them out with captions into grids and comparisons.

Pictures are float tensors (H, W, 3) in [0, 1]; all functions here but `save_picture` give such tensors on the CPU.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from studio.errors import StudioError
from studio.files import atomic_write

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_SMALLEST_TEXT = 9
INK = 0.1
PAPER = 1.0


def to_uint8(picture: Float[Tensor, "h w *c"]) -> UInt8[np.ndarray, "h w *c"]:
    """Clamp to [0, 1] and round to the nearest of 256 levels; NaN becomes 0."""
    values = picture.detach().cpu().float().nan_to_num(nan=0.0).clamp(0.0, 1.0)
    return (values * 255.0 + 0.5).to(torch.uint8).numpy()


def save_picture(path: str | os.PathLike[str], picture: Float[Tensor, "h w *c"], *, quality: int = 95) -> None:
    """Save as PNG or JPEG, by the suffix; the file appears whole or not at all.

    Args:
        path: Ends in .png, .jpg or .jpeg.
        picture: (H, W) grey, (H, W, 1) grey, (H, W, 3) RGB or (H, W, 4) with straight alpha (PNG only), in [0, 1].
        quality: Of JPEG, 1 to 95; colour is not subsampled from 90 on.

    Raises:
        StudioError: Another suffix, alpha in a JPEG, or the file cannot be written.
        ValueError: Another shape.
    """
    kind = _FORMATS.get(Path(path).suffix.lower())
    if kind is None:
        raise StudioError(f"{path}: pictures are saved as {', '.join(_FORMATS)}.", fix="Choose one of these endings.")
    if picture.ndim not in (2, 3) or (picture.ndim == 3 and picture.shape[2] not in (1, 3, 4)) or 0 in picture.shape:
        raise ValueError(f"picture must be (H, W) or (H, W, 1, 3 or 4), got {tuple(picture.shape)}")
    if kind == "JPEG" and picture.ndim == 3 and picture.shape[2] == 4:
        raise StudioError(f"{path}: JPEG has no transparency.", fix="Save as .png, or composite on a background first.")
    levels = to_uint8(picture)
    image = Image.fromarray(levels[..., 0] if levels.shape[2:] == (1,) else levels)
    with atomic_write(path) as file:
        if kind == "JPEG":
            image.save(file, kind, quality=quality, subsampling=0 if quality >= 90 else -1)
        else:
            image.save(file, kind)


def caption(picture: Float[Tensor, "h w 3"], text: str, *, text_height: int | None = None) -> Float[Tensor, "h2 w 3"]:
    """The picture under a white strip with the text, which shrinks and at last is cut to fit the width.

    Args:
        picture: RGB.
        text: One line.
        text_height: Pixels; default by the picture's size.
    """
    height, width, _ = _rgb(picture).shape
    size = text_height or default_text_height(height, width)
    strip = text_strip(text, width, size)
    return torch.cat([strip, picture.detach().cpu().float().clamp(0, 1)], dim=0)


def side_by_side(pictures: Sequence[Float[Tensor, "h w 3"]], *, gap: int = 4) -> Float[Tensor, "h2 w2 3"]:
    """Pictures in a row on white, aligned at the bottom; heights may differ."""
    if not pictures:
        raise ValueError("pictures must not be empty")
    height = max(_rgb(picture).shape[0] for picture in pictures)
    parts = []
    for i, picture in enumerate(pictures):
        if i:
            parts.append(torch.full((height, gap, 3), PAPER))
        padded = torch.full((height, picture.shape[1], 3), PAPER)
        padded[height - picture.shape[0] :] = picture.detach().cpu().float().clamp(0, 1)
        parts.append(padded)
    return torch.cat(parts, dim=1)


def grid(
    pictures: Sequence[Float[Tensor, "h w 3"]],
    *,
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    cell_width: int | None = None,
    gap: int = 4,
) -> Float[Tensor, "h2 w2 3"]:
    """A contact sheet on white: pictures row by row, centred in cells of equal width, with captions if given.

    Args:
        pictures: Sizes may differ.
        captions: One each.
        columns: Default: about as many as rows.
        cell_width: Reduce wider pictures to this many pixels (area filter); narrower ones stay as they are.
        gap: Pixels between the cells.

    Raises:
        ValueError: No pictures, or not as many captions as pictures.
    """
    if not pictures:
        raise ValueError("pictures must not be empty")
    if captions is not None and len(captions) != len(pictures):
        raise ValueError(f"captions must be one for each of {len(pictures)} pictures, got {len(captions)}")
    cells = [_reduce(_rgb(picture).detach().cpu().float().clamp(0, 1), cell_width) for picture in pictures]
    width = max(cell.shape[1] for cell in cells)
    if captions is not None:
        size = default_text_height(max(cell.shape[0] for cell in cells), width)
        cells = [
            torch.cat([text_strip(text, width, size), _centred(cell, cell.shape[0], width)])
            for cell, text in zip(cells, captions, strict=True)
        ]
    columns = min(columns or math.ceil(math.sqrt(len(cells))), len(cells))
    rows = []
    for start in range(0, len(cells), columns):
        row = cells[start : start + columns]
        height = max(cell.shape[0] for cell in row)
        filled = [_centred(cell, height, width) for cell in row]
        filled += [torch.full((height, width, 3), PAPER)] * (columns - len(row))
        rows += [torch.full((gap, columns * (width + gap) - gap, 3), PAPER)] if start else []
        rows.append(side_by_side(filled, gap=gap))
    return torch.cat(rows)


def default_text_height(height: int, width: int) -> int:
    """A text size in pixels that is readable and does not dominate a picture of this size."""
    return int(min(max(min(height, width) / 18, 11), 28))


def text_strip(text: str, width: int, size: int) -> Float[Tensor, "h width 3"]:
    """One line of dark text centred on white, exactly `width` wide and about 1.6 `size` high.

    Text that is too long shrinks, and at last is cut.
    """
    strip = Image.new("L", (width, round(1.6 * size)), round(255 * PAPER))
    while size > _SMALLEST_TEXT and font(size).getlength(text) > width - 4:
        size -= 1
    if font(size).getlength(text) > width - 4:
        while text and font(size).getlength(text + "…") > width - 4:
            text = text[:-1]
        text += "…"
    middle = (width / 2, strip.height / 2)
    ImageDraw.Draw(strip).text(middle, text, fill=round(255 * INK), font=font(size), anchor="mm")
    return from_grey(strip)


@functools.lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib: names of photos have accents, and Pillow's own typeface has none."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def from_grey(image: Image.Image) -> Float[Tensor, "h w 3"]:
    """An 8-bit grey Pillow image as an RGB tensor."""
    grey = torch.from_numpy(np.array(image, dtype=np.float32) / 255.0)
    return grey.unsqueeze(-1).expand(-1, -1, 3)


def _rgb(picture: Tensor) -> Tensor:
    if picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError(f"a picture must be (H, W, 3), got {tuple(picture.shape)}")
    return picture


def _reduce(picture: Tensor, width: int | None) -> Tensor:
    if width is None or picture.shape[1] <= width:
        return picture
    height = max(round(picture.shape[0] * width / picture.shape[1]), 1)
    planes = picture.permute(2, 0, 1).unsqueeze(0)
    return torch.nn.functional.adaptive_avg_pool2d(planes, (height, width))[0].permute(1, 2, 0)


def _centred(picture: Tensor, height: int, width: int) -> Tensor:
    top, left = (height - picture.shape[0]) // 2, (width - picture.shape[1]) // 2
    cell = torch.full((height, width, 3), PAPER)
    cell[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return cell
