"""Decoding photo files into plain 8-bit arrays, and reading their sizes without decoding.

Pixels are taken as stored: EXIF orientation is not applied, because camera poses and intrinsics refer to stored pixels.
"""

from __future__ import annotations

import contextlib
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from studio.errors import StudioError

PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""File name endings that count as photos, in the order in which they are tried."""

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow's decoders raise on files that are truncated, damaged or no pictures (SyntaxError: broken PNG)."""

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes of 16-bit grey pictures; "I" is what some versions and TIFF files use for the same range."""


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
        return _is_transparent(picture)


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(path)
        with picture:
            yield picture
    except _BROKEN as error:
        raise _unreadable(path, error) from error


def _to_rgb(picture: Image.Image, path: Path) -> npt.NDArray[np.uint8]:
    mode = picture.mode
    if mode in _SIXTEEN_BIT:
        wide = np.asarray(picture).astype(np.int64)
        if wide.min(initial=0) < 0 or wide.max(initial=0) > 65535:
            raise StudioError(f"{path}: holds 32-bit integers, not a photo.", fix="Save it as an 8- or 16-bit picture.")
        grey = ((wide * 255 + 32767) // 65535).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if mode == "F":
        raise StudioError(f"{path}: holds floating-point values, not sRGB.", fix="Save it as an 8- or 16-bit picture.")
    return np.array(picture.convert("RGBA" if _is_transparent(picture) else "RGB"))


def _is_transparent(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info


def _unreadable(path: Path, error: BaseException) -> StudioError:
    if isinstance(error, FileNotFoundError):
        return StudioError(f"{path}: there is no such photo.", fix="Put the file there or remove its frame.")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "empty file" if path.stat().st_size == 0 else "not a picture in a known format"
    return StudioError(
        f"{path}: the photo cannot be read ({reason}).",
        fix="Replace the file with an undamaged copy or remove its frame.",
    )
