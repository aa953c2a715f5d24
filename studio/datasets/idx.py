"""The idx files of MNIST and its relatives, plain or gzipped (http://yann.lecun.com/exdb/mnist/)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from studio.datasets.arrays import ArrayDataset
from studio.datasets.held_out import Split
from studio.errors import StudioError
from studio.reading.files import is_file, is_folder, list_folder, open_regular
from studio.reading.gzip_bytes import gzip_pieces
from studio.reading.limits import DEFLATE_EXPANSION

_UBYTE = 8
_CHUNK = 1 << 20
_MOST_AXES = 4
_HEAD = 4 + 4 * _MOST_AXES


def looks_like_idx(path: Path) -> bool:
    """Whether a file begins as an idx file of bytes, also inside gzip."""
    try:
        head = next(_pieces(path), b"")[:4]
    except StudioError:
        return False
    return len(head) == 4 and head[:3] == b"\0\0\x08" and 1 <= head[3] <= _MOST_AXES


def find_idx_files(folder: Path) -> list[Path]:
    """The idx files directly in a folder, by name."""
    return sorted(p for p in list_folder(folder) if "idx" in p.name and is_file(p) and looks_like_idx(p))


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The array of one idx file.

    Raises:
        StudioError: Not an idx file of bytes, cut off, or with sizes that the file does not hold; nothing is allocated
            by such sizes.
    """
    data = bytearray()
    shape: tuple[int, ...] | None = None
    start = wanted = 0
    for piece in _pieces(path):
        # In pieces, so that memory grows with what is really there.
        data += piece
        if shape is None and len(data) >= _HEAD:
            start, shape = _header(path, bytes(data[:_HEAD]))
            wanted = math.prod(shape)
        if shape is not None and len(data) > start + wanted:
            raise StudioError(f"{path}: goes on behind its {wanted:,} values.", fix="Get the file again.")
    if shape is None:
        start, shape = _header(path, bytes(data[:_HEAD]))
        wanted = math.prod(shape)
    if len(data) != start + wanted:
        raise StudioError(
            f"{path}: is cut off: {max(len(data) - start, 0):,} of {wanted:,} values are there.",
            fix="Get the file again.",
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _header(path: Path, head: bytes) -> tuple[int, tuple[int, ...]]:
    """Where the values begin, and their sizes; raises StudioError as `read_idx`."""
    if len(head) < 4 or head[:2] != b"\0\0" or not 1 <= head[3] <= _MOST_AXES:
        raise StudioError(f"{path}: not an idx file.", fix="It must begin with two zero bytes, as MNIST's do.")
    if head[2] != _UBYTE:
        raise StudioError(f"{path}: holds values of type 0x{head[2]:02x}.", fix="Only unsigned bytes are read.")
    if len(head) < 4 + 4 * head[3]:
        raise StudioError(f"{path}: ends within its header.", fix="Get the file again.")
    shape = struct.unpack_from(f">{head[3]}I", head, 4)
    if 0 in shape:
        raise StudioError(f"{path}: states {' x '.join(map(str, shape))} values, so none.", fix="Get the file again.")
    if math.prod(shape) > DEFLATE_EXPANSION * path.stat().st_size:
        raise StudioError(
            f"{path}: states {' x '.join(map(str, shape))} values, more than its bytes can hold.",
            fix="Get the file again.",
        )
    return 4 + 4 * head[3], shape


def load_idx(path: Path, split: Split) -> ArrayDataset:
    """Pictures (n, 1, h, w) and labels from a folder of idx files, or from one file of pictures and its labels beside.

    With files of both ``train`` and ``t10k`` (or ``test``) in their names those are the splits; else a tenth is held
    out.

    Raises:
        StudioError: No pictures there, damaged files, or labels that do not fit.
    """
    files = find_idx_files(path) if is_folder(path) else [path]
    pictures = [file for file in files if "label" not in file.name]
    if not pictures:
        raise StudioError(f"{path}: holds no idx file of pictures.", fix="MNIST's is train-images-idx3-ubyte.gz.")
    trained = [file for file in pictures if "train" in file.name]
    tested = [file for file in pictures if "t10k" in file.name or "test" in file.name]
    name = path.name if is_folder(path) else path.name.split(".")[0]
    if is_folder(path) and trained and tested:
        return _pair(trained[0] if split == "train" else tested[0], name)
    if len(pictures) > 1:
        raise StudioError(
            f"{path}: holds several idx files of pictures ({', '.join(file.name for file in pictures)}).",
            fix="Name one of them.",
        )
    return _pair(pictures[0], name).part(split, str(path))


def _pair(pictures: Path, name: str) -> ArrayDataset:
    x = read_idx(pictures)
    if x.ndim not in (3, 4) or 0 in x.shape:
        raise StudioError(
            f"{pictures}: has {x.ndim} dimensions of sizes {x.shape}.", fix="Pictures are (count, height, width)."
        )
    planes = x[:, None] if x.ndim == 3 else np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    labels = _labels_beside(pictures)
    if labels is None:
        note = f"no labels beside {pictures.name}: without classes"
        return ArrayDataset(name, torch.from_numpy(planes), notes=(note,))
    y = read_idx(labels)
    if y.shape != (len(x),):
        raise StudioError(f"{labels}: has {y.size:,} labels for {len(x):,} pictures.", fix="Get both files again.")
    names = tuple(str(i) for i in range(int(y.max()) + 1))
    return ArrayDataset(name, torch.from_numpy(planes), torch.from_numpy(y.astype(np.int64)), names)


def _labels_beside(pictures: Path) -> Path | None:
    stem = pictures.name.removesuffix(".gz").replace("images", "labels")
    for old, new in (("idx3", "idx1"), ("idx4", "idx1"), ("", "")):
        for ending in ("", ".gz"):
            candidate = pictures.with_name(stem.replace(old, new) + ending)
            if candidate != pictures and is_file(candidate) and looks_like_idx(candidate):
                return candidate
    return None


def _pieces(path: Path) -> Iterator[bytes]:
    """The file's bytes, unpacked, bit by bit."""
    if path.suffix == ".gz":
        yield from gzip_pieces(path)
        return
    with open_regular(path) as file:
        while piece := file.read(_CHUNK):
            yield piece
