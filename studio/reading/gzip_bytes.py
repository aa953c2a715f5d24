"""Gzip streams, read in pieces so that memory grows with what they really hold."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator

from studio.reading.files import open_regular, unreadable

_PIECE = 1 << 18
_GZIP = 31


def read_gzip(path: str | os.PathLike[str], most: int, *, longest: str = "") -> bytes:
    """All bytes that a gzip file stands for, of all its members.

    Args:
        path: The file.
        most: Bytes beyond which it is refused.
        longest: What it would be too long for, for the message.

    Raises:
        StudioError: Unreadable, damaged, cut off, or more bytes than `most`.
    """
    found = bytearray()
    for piece in gzip_pieces(path):
        found += piece
        if len(found) > most:
            raise unreadable(path, f"holds more than {most:,} bytes{longest}", fix="Unpack it, and look into it.")
    return bytes(found)


def gzip_pieces(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The unpacked bytes in pieces of at most a quarter of a mebibyte; raises as `read_gzip`."""
    with open_regular(path) as file:
        inflate = zlib.decompressobj(_GZIP)
        try:
            packed = file.read(_PIECE)
            if not packed:
                raise unreadable(path, "is empty")
            while packed:
                if piece := inflate.decompress(packed, _PIECE):
                    yield piece
                packed = inflate.unconsumed_tail
                if inflate.eof:
                    # Another member may follow, and tape archives fill the last block with zeros.
                    packed = inflate.unused_data or file.read(_PIECE)
                    while packed and not packed.strip(b"\0"):
                        packed = file.read(_PIECE)
                    packed = packed.lstrip(b"\0")
                    if packed:
                        inflate = zlib.decompressobj(_GZIP)
                elif not packed:
                    packed = file.read(_PIECE)
            # A little of the output can be left when all of the input is taken in.
            if not inflate.eof and (piece := inflate.flush()):
                yield piece
        except zlib.error as error:
            raise unreadable(path, f"is damaged ({error})") from error
        except OSError as error:
            raise unreadable(path, f"cannot be read ({error.strerror or error})") from error
        if not inflate.eof:
            raise unreadable(path, "is cut off")
