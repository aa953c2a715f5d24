"""What lies beside the pictures of a data set: metadata with captions, and files that are not used."""

from __future__ import annotations

import csv
import io
import posixpath
from collections import Counter
from collections.abc import Sequence
from typing import Any

from studio.datasets.trees import FileTree
from studio.errors import StudioError
from studio.reading.files import decode_text, decoding
from studio.reading.json_text import kind_of, parse_json
from studio.reading.limits import LARGEST_ENTRY
from studio.scene.decode import PHOTO_SUFFIXES

PICTURE_SUFFIXES = (*PHOTO_SUFFIXES, ".gif", ".ppm", ".pgm", ".pnm")
"""Endings of pictures that are read."""
METADATA = ("metadata.jsonl", "metadata.csv")
"""Names of files that caption the pictures beside and below them."""

_UNREAD_PICTURES = frozenset(
    (
        *(".jfif", ".jpe", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".tga", ".dds", ".psd", ".svg", ".eps"),
        *(".ico", ".apng", ".pbm", ".pfm", ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf"),
        ".rw2",
    )
)
_OTHER_METADATA = frozenset(
    (
        *("metadata.parquet", "metadata.json", "metadata.txt", "metadata.tsv"),
        *("captions.json", "captions.jsonl", "captions.csv", "captions.txt"),
    )
)
_SIDE_TEXTS = (".txt", ".caption", ".json")


def ignored_notes(files: Sequence[str]) -> list[str]:
    """A note for each kind of file that a user may take for used: pictures of other endings, captions of other forms.

    Args:
        files: All names in the tree.
    """
    notes = []
    suffixes = Counter(posixpath.splitext(name)[1].lower() for name in files)
    unread = {suffix: n for suffix, n in sorted(suffixes.items()) if suffix in _UNREAD_PICTURES}
    if unread:
        total, shown = sum(unread.values()), ", ".join(f"{n:,} {suffix}" for suffix, n in unread.items())
        what = "picture of a format that is" if total == 1 else "pictures of formats that are"
        notes.append(f"{total:,} {what} not read left out ({shown}): convert to PNG or JPEG")
    for name in files:
        base = posixpath.basename(name)
        if base.lower() in _OTHER_METADATA or (base.lower() in METADATA and base not in METADATA):
            notes.append(f"{name} is not used: captions stand in {' or '.join(METADATA)}, in small letters")
    pictures = {stem for stem, suffix in map(posixpath.splitext, files) if suffix.lower() in PICTURE_SUFFIXES}
    beside = [name for name in files if _is_side_text(name, pictures)]
    if beside:
        what = "text file with the name of its picture is" if len(beside) == 1 else "text files named as pictures are"
        notes.append(f"{len(beside):,} {what} not used (first: {beside[0]}): captions stand in {METADATA[0]}")
    return notes


def read_rows(tree: FileTree, name: str) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a metadata file, with the numbers of their lines.

    Raises:
        StudioError: Unreadable, not UTF-8, or a line that is no JSON object or no CSV.
    """
    where = f"{tree.path}: {name}"
    with tree.open(name) as stream:
        text = decode_text(stream.read(LARGEST_ENTRY), where)
    if name.endswith(".csv"):
        rows = []
        with decoding(where, "is not readable as CSV", fix="Correct the file."):
            reader = csv.DictReader(io.StringIO(text, newline=""))
            for row in reader:
                rows.append((reader.line_num, row))
        return rows
    rows = []
    # Captions may hold what splitlines() splits at, such as U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        row = parse_json(line, f"{where}: line {number}", fix="Correct the line.")
        if not isinstance(row, dict):
            raise StudioError(
                f"{where}: line {number} must be an object, got {kind_of(row)}.",
                fix='Such as {"file_name": ..., "text": ...}.',
            )
        rows.append((number, row))
    return rows


def _is_side_text(name: str, pictures: set[str]) -> bool:
    stem, suffix = posixpath.splitext(name)
    return suffix.lower() in _SIDE_TEXTS and (stem in pictures or posixpath.splitext(stem)[0] in pictures)
