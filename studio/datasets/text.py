"""Text as a data set: one long document, or one sample a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from studio.datasets.held_out import SHARE, Split, split_rows
from studio.errors import StudioError
from studio.reading.files import decode_text, is_file, list_folder, read_bytes
from studio.reading.gzip_bytes import read_gzip
from studio.reading.limits import LARGEST_TEXT, TEXT_EXPANSION, room_for

TEXT_SUFFIXES = (".txt", ".text", ".md", ".gz")
_LONGEST_LINE = 1000


@dataclass(frozen=True, eq=False)
class TextDataset:
    """Texts; plugins ask for windows of them with a `TokenRequest`."""

    name: str
    texts: tuple[str, ...]
    """All lines of the split, or the one document."""
    lines: bool
    """Whether each text is a sample of its own."""
    notes: tuple[str, ...] = ()

    sample_shape: tuple[int, ...] = ()
    num_classes: int | None = None
    class_names: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    has_captions: bool = False

    @property
    def characters(self) -> int:
        return sum(map(len, self.texts))

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Any]:
        raise StudioError(
            f"{self.name}: is text, and this plugin learns from numbers.",
            fix="Train a plugin of text on it; `studio plugins` lists them.",
        )


def only_text_in(folder: Path) -> Path | None:
    """The one file in a folder that holds nothing else but it, where that is a text."""
    inside = [path for path in list_folder(folder) if not path.name.startswith(".")]
    return inside[0] if len(inside) == 1 and inside[0].suffix in TEXT_SUFFIXES and is_file(inside[0]) else None


def load_text(path: Path, split: Split, lines: bool | None = None) -> TextDataset:
    """Read a UTF-8 text file, plain or gzipped.

    Args:
        path: The file.
        split: Of one document the last tenth of its characters is held out, of lines a tenth in a fixed permutation.
        lines: Whether each line is a sample. None: it is when there are several lines, none of them empty or longer
            than a thousand characters; prose and code have empty lines between their paragraphs.

    Raises:
        StudioError: Unreadable, not UTF-8, or empty.
    """
    text = _read(path)
    rows = text.strip("\n").split("\n")
    if lines is None:
        lines = len(rows) > 1 and all(row.strip() for row in rows) and max(map(len, rows)) <= _LONGEST_LINE
        as_lines = "read as one sample a line, since no line is empty (--lines no: as one document)"
        as_document = "read as one document (--lines yes: one sample a line)"
        notes: tuple[str, ...] = (as_lines if lines else as_document,)
    else:
        notes = ()
    name = path.name.split(".")[0]
    if not lines:
        cut = len(text) - max(len(text) // SHARE, 1)
        if cut < 1:
            raise StudioError(f"{path}: is too short to hold a part out.", fix="Give a longer text.")
        return TextDataset(name, (text[:cut] if split == "train" else text[cut:],), False, notes)
    kept = [row.strip() for row in rows if row.strip()]
    if len(kept) < len(rows):
        notes += (f"{len(rows) - len(kept):,} empty lines left out",)
    chosen = split_rows(len(kept), split, str(path))
    return TextDataset(name, tuple(kept[i] for i in chosen), True, notes)


def _read(path: Path) -> str:
    if path.suffix == ".gz":
        most = min(LARGEST_TEXT, room_for(path.stat().st_size, TEXT_EXPANSION))
        data = read_gzip(path, most, longest=", too many to be packed text")
    else:
        data = read_bytes(path, LARGEST_TEXT)
    text = decode_text(data, path)
    # As text files are read everywhere: all three kinds of line ends are one.
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        raise StudioError(f"{path}: holds zero bytes, so it is no text.", fix="Give a text file.")
    if not text.strip():
        raise StudioError(f"{path}: is empty.", fix="Give a text file with text in it.")
    return text
