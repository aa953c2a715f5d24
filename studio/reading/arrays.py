"""NumPy's array files (.npy) and archives of them (.npz), without pickled objects."""

from __future__ import annotations

import ast
import math
import os
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any
from zipfile import ZipInfo

import numpy as np
import numpy.typing as npt

from studio.reading.archives import Archive
from studio.reading.files import read_bytes, unreadable
from studio.reading.limits import LARGEST_BINARY

_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 10_000
_PLAIN_HEADER = re.compile(rb"[A-Za-z0-9_'\"<>|=,:()\[\]{} \t\n]*")
"""All that the dict of a header is written with; no sign or operator, so nothing to evaluate."""
_MOST_AXES = 32
_KINDS = "biufcSU"
_FIX = "Save it again with numpy.save or numpy.savez."


def read_npy(path: str | os.PathLike[str], *, fix: str = _FIX) -> npt.NDArray[Any]:
    """The array of a .npy file.

    Raises:
        StudioError: Unreadable; damaged header; values that are Python objects or records; more or fewer bytes than
            the header states.
    """
    data = read_bytes(path, LARGEST_BINARY, fix=fix)
    if data.startswith(b"PK"):
        raise unreadable(path, "is an archive of arrays (.npz), not one array", fix=fix)
    return parse_npy(data, path, fix=fix)


class ArrayArchive(Mapping[str, "npt.NDArray[Any]"]):
    """The arrays of a .npz file by name; each is read when it is asked for.

    Raises:
        StudioError: As `Archive`; and, when an array is asked for, as `read_npy`.
    """

    def __init__(self, path: str | os.PathLike[str], *, fix: str = _FIX) -> None:
        self._path, self._fix = path, fix
        self._archive = Archive(path)
        self._entries: dict[str, ZipInfo] = {}
        for name, entry in self._archive.entries():
            key = name.removesuffix(".npy")
            if key in self._entries:
                self._archive.close()
                raise unreadable(path, f"has two arrays named '{key[:80]}'", fix=fix)
            if not entry.is_dir():
                self._entries[key] = entry

    def __enter__(self) -> ArrayArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        entry = self._entries[name]
        where = f"{os.fspath(self._path)}: {name}"
        return parse_npy(self._archive.read(entry, LARGEST_BINARY), where, fix=self._fix)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def parse_npy(data: bytes, where: str | os.PathLike[str], *, fix: str = _FIX) -> npt.NDArray[Any]:
    """The array that the bytes of a .npy file stand for, read-only; raises as `read_npy`.

    https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html describes the format.
    """
    if not data.startswith(_MAGIC) or len(data) < 10:
        raise unreadable(where, "is not a NumPy array", fix=fix)
    version = data[6]
    layout, start = (struct.Struct("<H"), 10) if version == 1 else (struct.Struct("<I"), 12)
    if version not in (1, 2, 3) or len(data) < start:
        raise unreadable(where, f"is a NumPy array of the unknown version {version}", fix=fix)
    (length,) = layout.unpack_from(data, 8)
    end = start + length
    if length > _LONGEST_HEADER or end > len(data):
        raise unreadable(where, "the header of the array is damaged or cut off", fix=fix)
    dtype, fortran, shape = _parse_header(data[start:end], where, fix)
    stated, there = math.prod(shape) * dtype.itemsize, len(data) - end
    if stated != there:
        sizes = " x ".join(map(str, shape)) or "1"
        raise unreadable(
            where, f"states {sizes} values of {dtype.itemsize} bytes each, but {there:,} bytes are there", fix=fix
        )
    flat = np.frombuffer(data, dtype, count=math.prod(shape), offset=end) if stated else np.zeros(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _parse_header(raw: bytes, where: str | os.PathLike[str], fix: str) -> tuple[np.dtype[Any], bool, tuple[int, ...]]:
    damaged = unreadable(where, "the header of the array is damaged", fix=fix)
    if not _PLAIN_HEADER.fullmatch(raw) or raw.count(b"(") + raw.count(b"[") > 2 * _MOST_AXES or raw.count(b"{") != 1:
        raise damaged
    try:
        fields = ast.literal_eval(raw.decode("ascii").strip())
    except (ValueError, SyntaxError, TypeError, RecursionError) as error:
        raise damaged from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise damaged
    descr, fortran, shape = fields["descr"], fields["fortran_order"], fields["shape"]
    if not isinstance(fortran, bool) or not isinstance(shape, tuple) or len(shape) > _MOST_AXES:
        raise damaged
    if not all(type(size) is int and size >= 0 for size in shape):
        raise damaged
    # Sizes beside a zero count, too: NumPy multiplies them all.
    if math.prod(max(size, 1) for size in shape) >= 1 << 40:
        raise damaged
    if isinstance(descr, list):
        raise unreadable(where, "holds records, not an array of numbers", fix=fix)
    try:
        dtype = np.dtype(descr) if isinstance(descr, str) else None
    except (TypeError, ValueError, SyntaxError, OverflowError) as error:
        raise damaged from error
    if dtype is None or "," in descr:
        raise damaged
    if dtype.kind not in _KINDS or dtype.hasobject:
        what = "Python objects, which would have to be unpickled" if dtype.hasobject else f"values of type {dtype}"
        raise unreadable(where, f"holds {what}", fix=fix)
    return dtype, fortran, shape
