"""Decoding photo files into plain 8-bit arrays, and reading their sizes without decoding.

Pixels are taken as stored: EXIF orientation is not applied, because camera poses and intrinsics refer to stored pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from studio.reading.pictures import grey_values, is_transparent, opened_picture

PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""File name endings that count as photos, in the order in which they are tried."""

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".gif")
"""File name endings that count as videos."""


def photo_size(path: Path) -> tuple[int, int]:
    """``(width, height)`` in pixels from the file's header; nothing is decoded.

    Raises:
        StudioError: The file is missing or its header is not that of a picture.
    """
    with _opened(path) as picture:
        return picture.size


def has_alpha(path: Path) -> bool:
    """Whether a photo has transparency, by its header; raises as `photo_size`."""
    with _opened(path) as picture:
        return is_transparent(picture)


def decode_photo(path: Path) -> npt.NDArray[np.uint8]:
    """Decode a photo to (height, width, 3) or, where it has transparency, (height, width, 4).

    Grey, palette, CMYK and 16-bit pictures are brought to 8-bit sRGB values; alpha stays straight.

    Raises:
        StudioError: The file is missing, truncated, damaged, or of a pixel type that is no photo.
    """
    with _opened(path) as picture:
        picture.load()
        return _to_rgb(picture, path)


def decode_mask(path: Path) -> npt.NDArray[np.bool_]:
    """Decode a mask to (height, width) bool: True where the photo counts (value >= 128 of 255).

    A mask stored as a transparent picture counts where it is opaque and bright.

    Raises:
        StudioError: As `decode_photo`.
    """
    pixels = decode_photo(path)
    bright = pixels[..., :3].max(axis=-1) >= 128
    return bright & (pixels[..., 3] >= 128) if pixels.shape[-1] == 4 else bright


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The picture with its header read; whatever its decoder raises in the block becomes a StudioError."""
    with opened_picture(path, fix="Replace the file with an undamaged copy or remove its frame.") as picture:
        yield picture


def _to_rgb(picture: Image.Image, path: Path) -> npt.NDArray[np.uint8]:
    grey = grey_values(picture, path)
    if grey is not None:
        return np.repeat(grey[..., None], 3, axis=-1)
    return np.array(picture.convert("RGBA" if is_transparent(picture) else "RGB"))
