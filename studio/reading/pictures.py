"""Pictures by way of Pillow: a few formats, and nothing decoded that the file is too short for."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from typing import IO, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from studio.errors import StudioError
from studio.reading.files import decoding, open_regular, unreadable
from studio.reading.limits import PICTURE_EXPANSION, room_for

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM")
"""Pillow's names of what is read, whatever a file's ending is. Its other decoders are old, and one starts a program."""

_FIX = "Replace it with an undamaged copy, or remove it."
_BYTES = {"1": 1, "L": 1, "P": 1, "PA": 4, "LA": 4, "La": 4, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
"""Bytes of a pixel in Pillow's memory; four for all other modes."""
_BITS_PER_SAMPLE = 258
"""TIFF's tag."""


@contextlib.contextmanager
def opened_picture(
    source: str | os.PathLike[str] | IO[bytes] | bytes,
    where: str | os.PathLike[str] | None = None,
    *,
    formats: tuple[str, ...] = FORMATS,
    fix: str = _FIX,
) -> Iterator[Image.Image]:
    """A picture whose header has been read; whatever its decoder raises in the block becomes `StudioError`.

    The header has been judged: a file of its length can hold that many pixels.

    Args:
        source: A path, a seekable stream, or the file's bytes.
        where: The file, for messages; needed where the source is no path.
        formats: Pillow's names of the formats to try.
        fix: What the user can do.

    Raises:
        StudioError: No regular file, no picture of these formats, damaged, or of more pixels than its file can
            hold.
    """
    with contextlib.ExitStack() as stack:
        if isinstance(source, (str, os.PathLike)):
            stream = stack.enter_context(open_regular(source, fix=fix))
            where = source if where is None else where
        else:
            stream = io.BytesIO(source) if isinstance(source, bytes) else source
        place = where if where is not None else "picture"
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        size = stream.seek(0, 2)
        stream.seek(0)
        if size == 0:
            raise unreadable(place, "cannot be read as a picture (empty file)", fix=fix)
        try:
            with decoding(place, "cannot be read as a picture", fix=fix):
                picture = stack.enter_context(Image.open(cast(IO[bytes], _Clipped(stream, size)), formats=formats))
        except StudioError as error:
            if isinstance(error.__cause__, Image.UnidentifiedImageError):
                raise unreadable(
                    place, "cannot be read as a picture (not a picture in a known format)", fix=fix
                ) from error
            raise
        _check_room(picture, size, place, fix)
        with decoding(place, "cannot be read as a picture", fix=fix):
            yield picture


def grey_values(picture: Image.Image, where: str | os.PathLike[str]) -> npt.NDArray[np.uint8] | None:
    """Pictures of one wide channel (h, w) brought to 8 bits; None for all others, which Pillow converts.

    16-bit grey is divided by 257; floating point must lie in [0, 1].

    Raises:
        StudioError: 32-bit integers, or floating point outside of [0, 1]: such files do not say what white is.
    """
    fix = "Save it as an 8- or 16-bit picture, whose range is known."
    if has_unknown_range(picture):
        raise unreadable(where, "holds 32-bit integers, which do not say what white is", fix=fix)
    if picture.mode == "F":
        values = np.asarray(picture)
        low, high = float(values.min(initial=0.0)), float(values.max(initial=0.0))
        if not (low >= 0.0 and high <= 1.0):  # also where they are not numbers
            raise unreadable(
                where, f"holds floating-point values from {low:g} to {high:g}; those in [0, 1] are read", fix=fix
            )
        return np.rint(values * np.float32(255)).astype(np.uint8)
    if picture.mode.startswith("I"):
        wide = np.asarray(picture)
        if wide.dtype.itemsize > 2 and (wide.min(initial=0) < 0 or wide.max(initial=0) > 65535):
            raise unreadable(where, "holds 32-bit integers, which do not say what white is", fix=fix)
        return ((wide.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return None


def has_unknown_range(picture: Image.Image) -> bool:
    """Whether the header tells of 32-bit integers (TIFF); in PNG and PGM the same mode of Pillow stands for 16 bits."""
    if picture.mode != "I" or picture.format != "TIFF":
        return False
    bits = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, (32,))
    return max(bits, default=32) > 16


def is_transparent(picture: Image.Image) -> bool:
    """Whether the header tells of transparency."""
    return picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info


class _Clipped:
    """A stream for Pillow, which asks for as many bytes as a chunk's header states.

    Python's buffered files take room for all of them before they read the few that are there.
    """

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._size = stream, size
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int | None = -1) -> bytes:
        left = max(self._size - self._stream.tell(), 0)
        return self._stream.read(left if count is None or count < 0 else min(count, left))

    def readline(self, count: int | None = -1) -> bytes:
        left = max(self._size - self._stream.tell(), 0)
        return self._stream.readline(left if count is None or count < 0 else min(count, left))


def _check_room(picture: Image.Image, file_size: int, place: str | os.PathLike[str], fix: str) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise unreadable(place, f"has {width} x {height} pixels", fix=fix)
    needed, room = width * height * _BYTES.get(picture.mode, 4), room_for(file_size, PICTURE_EXPANSION)
    if needed > room:
        raise unreadable(
            place, f"states {width} x {height} pixels, more than its {file_size:,} bytes can hold", fix=fix
        )
