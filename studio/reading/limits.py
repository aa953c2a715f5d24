"""How much a file may claim before its data have been seen: the bounds of all readers.

**A header alone never makes a reader allocate more than `HEADER_ROOM`, or `*_EXPANSION` bytes for each byte that its
file has, whichever is more.** Beyond that memory grows with the data that are really there.
"""

from __future__ import annotations

HEADER_ROOM = 64 << 20
"""Bytes that a header may ask for, however short its file is."""
DEFLATE_EXPANSION = 1032
"""Bytes that one byte of a deflate stream (zip, gzip, PNG) can stand for at most, by its format."""
PICTURE_EXPANSION = 2 * DEFLATE_EXPANSION
"""Bytes of decoded pixels for each byte of a picture's file: room for decoders that pad RGB to four bytes."""
TEXT_EXPANSION = 256
"""Bytes of text for each byte of its gzip file; real texts reach ten."""

LARGEST_JSON = 64 << 20
"""Bytes of a JSON document. Parsed it takes some ten to thirty times as much."""
LARGEST_YAML = 1 << 20
"""Bytes of a YAML document, a run's configuration."""
LARGEST_ROWS = 1 << 30
"""Bytes of a file with one JSON object a line."""
LARGEST_TEXT = 1 << 32
"""Bytes of a text to learn from."""
LARGEST_ENTRY = 1 << 28
"""Bytes of one picture or metadata file inside a zip archive."""
LARGEST_PHOTO = 1 << 30
"""Bytes of the file of one picture."""
LARGEST_BINARY = 1 << 34
"""Bytes of a binary file that is read whole (COLMAP models, splats)."""
LARGEST_HEADER = 1 << 20
"""Bytes of the text header of a PLY file."""
MOST_PROPERTIES = 4096
"""Properties of all elements of a PLY file."""
DEEPEST = 64
"""Levels of nesting of JSON, YAML and array headers."""

MOST_CLASSES = 1 << 16
"""Class labels of a data set: 0 to this, less one."""
LARGEST_SIDE = 1 << 20
"""Pixels along a side of a camera's picture."""
MOST_PIXELS = 1 << 30
"""Pixels of a camera's picture."""
LARGEST_LENGTH = 1e15
"""Largest coordinate, focal length, or depth. Its square still fits into float32, its cube into float64."""


def room_for(file_size: int, expansion: int) -> int:
    """Bytes that the header of a file of this size may ask for."""
    return max(HEADER_ROOM, expansion * file_size)
