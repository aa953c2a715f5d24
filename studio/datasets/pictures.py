"""Pictures in a folder or an archive as a data set: found at once, decoded when they are asked for."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from studio.datasets.held_out import Split
from studio.datasets.imagefolder import read_layout
from studio.datasets.trees import FileTree, open_tree
from studio.errors import StudioError
from studio.reading.files import open_regular, reason_of, unreadable
from studio.reading.pictures import grey_values, has_unknown_range, is_transparent, opened_picture

ColorMode = Literal["auto", "rgb", "grey"]

_log = logging.getLogger(__name__)
_GREY = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N")
_CACHE_BYTES = 1 << 29
_ORIENTATION = 0x0112
_TAIL = 64
_DECODERS = 4


class PictureDataset:
    """Equal-shaped pictures with labels or captions.

    Decoded pictures are kept as bytes while all of them fit into half a gigabyte.

    Args:
        tree: Where the files lie.
        files: Their names.
        size: (height, width) of the samples: pictures are cropped to the middle at this aspect and resized, with a
            bicubic filter that averages over what it reduces.
        channels: 1 or 3.
        strict: Raise at a picture that turns out to be damaged when it is decoded. Else the next one takes its place.
    """

    def __init__(
        self,
        name: str,
        tree: FileTree,
        files: Sequence[str],
        *,
        size: tuple[int, int],
        channels: int,
        labels: Sequence[int] | None = None,
        class_names: tuple[str, ...] = (),
        captions: Sequence[str] | None = None,
        notes: tuple[str, ...] = (),
        strict: bool = False,
    ) -> None:
        self.name = name
        self.files = tuple(files)
        self.sample_shape: tuple[int, ...] = (channels, *size)
        self.class_names = class_names
        self.captions: tuple[str, ...] = tuple(captions or ())
        self.notes = notes
        self.damaged: set[int] = set()
        """Rows that could not be decoded although their headers were sound."""
        self._tree = tree
        self._labels = None if labels is None else torch.as_tensor(labels, dtype=torch.int64)
        self._strict = strict
        shape = (len(self.files), *size, channels)
        # Zeroed pages cost nothing until they are written.
        self._kept = np.zeros(shape, np.uint8) if int(np.prod(shape)) <= _CACHE_BYTES else None
        self._known = np.zeros(len(self.files), bool)

    @property
    def num_classes(self) -> int | None:
        return None if self._labels is None else len(self.class_names)

    @property
    def labels(self) -> Tensor | None:
        """(n,) int64, or None."""
        return self._labels

    @property
    def has_captions(self) -> bool:
        return bool(self.captions)

    def open(self, name: str) -> IO[bytes]:
        """The bytes of one of `files`; raises OSError where they cannot be had."""
        return self._tree.open(name)

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, Any]:
        rows = [int(i) for i in indices]
        pixels: list[npt.NDArray[np.uint8]]
        if len(rows) >= 2 * _DECODERS and not self._known[rows].all():
            with ThreadPoolExecutor(_DECODERS) as pool:
                found = list(pool.map(self._get, rows))
        else:
            found = [self._get(row) for row in rows]
        pixels, used = [pair[0] for pair in found], [pair[1] for pair in found]
        x = torch.from_numpy(np.stack(pixels)).movedim(-1, 1).float().div_(255).contiguous()
        if self.captions:
            return x, [self.captions[row] for row in used]
        return x, None if self._labels is None else self._labels[used]

    def _get(self, row: int) -> tuple[npt.NDArray[np.uint8], int]:
        """The pixels of a row, or of the next one that can be decoded, and which that was."""
        for step in range(len(self.files)):
            actual = (row + step) % len(self.files)
            if self._kept is not None and self._known[actual]:
                return self._kept[actual], actual
            if actual in self.damaged:
                continue
            try:
                pixels = self._decode(self.files[actual])
            except StudioError as error:
                self._report(actual, error)
                continue
            if self._kept is not None:
                self._kept[actual] = pixels
                self._known[actual] = True
            return pixels, actual
        raise StudioError(f"{self._tree.path}: no picture can be read any more.", fix="Put the data back.")

    def _report(self, row: int, error: StudioError) -> None:
        name = self.files[row]
        text = f"{self._tree.path}: {name} cannot be read ({reason_of(error, _place(self._tree, name))})"
        if self._strict:
            raise StudioError(f"{text}.", fix="Replace or remove it, or leave --strict out.") from error
        self.damaged.add(row)
        _log.warning("%s; the next picture is taken in its place", text)

    def _decode(self, name: str) -> npt.NDArray[np.uint8]:
        with self._tree.open(name) as stream:
            return _decode(stream, _place(self._tree, name), self.sample_shape)


def read_picture(path: Path, sample_shape: tuple[int, ...]) -> Float[Tensor, "c h w"]:
    """One picture file as a sample: cropped to the middle, resized, in [0, 1].

    Raises:
        StudioError: Missing or damaged.
    """
    with open_regular(path, fix="Give another.") as stream:
        pixels = _decode(stream, path, sample_shape)
    return torch.from_numpy(pixels).movedim(-1, 0).float().div_(255)


def _decode(stream: IO[bytes], where: str | os.PathLike[str], sample_shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    channels, height, width = sample_shape
    with opened_picture(stream, where) as opened:
        # JPEG decodes a smaller picture quicker; twice the size leaves the filter enough to average.
        opened.draft(None, (2 * width, 2 * height))
        picture = _plain(opened, where, channels)
        if picture.size != (width, height):
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BICUBIC)
        return np.array(picture, dtype=np.uint8).reshape(height, width, channels)


def load_pictures(
    path: Path,
    split: Split,
    *,
    image_size: int | None = None,
    color: ColorMode = "auto",
    strict: bool = False,
) -> PictureDataset:
    """Open a folder or zip archive of pictures.

    Args:
        path: Laid out as `studio.datasets.imagefolder` says.
        split: 'train' or 'test'.
        image_size: Side of square samples, pixels; None: the pictures' own size, which must then be one.
        color: 'rgb', 'grey', or 'auto': grey where all pictures are.
        strict: Raise at what would else be left out and counted in the notes.

    Raises:
        StudioError: No pictures, sizes that differ without `image_size`, or, if strict, anything damaged or missing.
    """
    tree = open_tree(path)
    layout = read_layout(tree, split, strict=strict)
    heads: list[_Head] = []
    good: list[int] = []
    broken: list[str] = []
    for row, name in enumerate(layout.files):
        try:
            heads.append(_inspect(tree, name))
            good.append(row)
        except StudioError as error:
            broken.append(f"{name}: {reason_of(error, _place(tree, name))}")
    notes = list(layout.notes)
    if broken:
        what = f"{len(broken):,} unreadable picture{'s' if len(broken) > 1 else ''} (first: {broken[0]})"
        if strict or not good:
            out = ", or leave --strict out" if strict and good else ""
            raise StudioError(f"{path}: {what}.", fix=f"Replace or remove them{out}.")
        notes.append(f"skipped {what}")
    size = _common_size(path, heads, image_size)
    grey = sum(head.grey for head in heads)
    if color == "auto" and 0 < grey < len(heads):
        notes.append(f"{grey:,} of {len(heads):,} pictures are grey: all are read as RGB")
    channels = 1 if color == "grey" or (color == "auto" and grey == len(heads)) else 3
    if transparent := sum(head.transparent for head in heads):
        notes.append(f"{transparent:,} pictures with transparency are put on white")
    return PictureDataset(
        path.stem if path.is_file() else path.name,
        tree,
        [layout.files[i] for i in good],
        size=size,
        channels=channels,
        labels=None if layout.labels is None else [layout.labels[i] for i in good],
        class_names=layout.classes,
        captions=None if layout.captions is None else [layout.captions[i] for i in good],
        notes=tuple(notes),
        strict=strict,
    )


class _Head:
    """What a picture's header says."""

    __slots__ = ("grey", "size", "transparent")

    def __init__(self, picture: Image.Image) -> None:
        width, height = picture.size
        turned = picture.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
        self.size = (width, height) if turned else (height, width)
        self.grey = picture.mode in _GREY
        self.transparent = is_transparent(picture)


def _place(tree: FileTree, name: str) -> str:
    """A file of a tree, for messages."""
    return str(tree.path / name) if tree.path.is_dir() else f"{tree.path}: {name}"


def _inspect(tree: FileTree, name: str) -> _Head:
    """The header of a picture; raises StudioError where it is damaged or the file is cut off."""
    where = _place(tree, name)
    with tree.open(name) as stream, opened_picture(stream, where) as picture:
        head, kind = _Head(picture), picture.format
        if picture.mode == "F" or has_unknown_range(picture):
            grey_values(picture, where)  # raises where values do not say what white is
    if not _ends_well(tree, name, kind):
        raise unreadable(where, "the file is cut off")
    return head


def _ends_well(tree: FileTree, name: str, kind: str | None) -> bool:
    """Whether a JPEG or PNG has its end marker: files that were cut off are the damage one meets."""
    marker = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(kind or "")
    if marker is None:
        return True
    with tree.open(name) as stream:
        length = stream.seek(0, 2)
        # Some cameras pad or append to their files, then the marker is looked for in all of it.
        stream.seek(max(length - _TAIL, 0))
        if marker in stream.read():
            return True
        stream.seek(0)
        return marker in stream.read()


def _plain(opened: Image.Image, where: str | os.PathLike[str], channels: int) -> Image.Image:
    grey = grey_values(opened, where)
    turned = opened.getexif().get(_ORIENTATION, 1)
    picture = opened if grey is None else Image.fromarray(grey)
    if turned != 1:
        picture.getexif()[_ORIENTATION] = turned
        picture = ImageOps.exif_transpose(picture)
    if is_transparent(picture):
        over = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    return picture.convert("L" if channels == 1 else "RGB")


def _common_size(path: Path, heads: Sequence[_Head], wanted: int | None) -> tuple[int, int]:
    if wanted is not None:
        return wanted, wanted
    sizes = Counter(head.size for head in heads)
    if len(sizes) > 1:
        shown = ", ".join(f"{count:,} of {w}x{h}" for (h, w), count in sizes.most_common(3))
        raise StudioError(
            f"{path}: the pictures have {len(sizes)} different sizes ({shown}).", fix="Give --image-size 64 or so."
        )
    return next(iter(sizes))
