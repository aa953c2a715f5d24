"""Reading the tables of PLY files: ASCII and binary of both byte orders, any scalar properties."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from studio.errors import StudioError
from studio.reading.files import open_regular
from studio.reading.limits import LARGEST_HEADER, MOST_PROPERTIES

_SCALARS = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8", "half": "f2", "float16": "f2",
}  # fmt: skip
_FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
_MOST_ROWS = 10**15


@dataclass(frozen=True)
class _Property:
    name: str
    type: str
    count_type: str | None = None
    """The type of a list's length; None for a scalar."""


@dataclass(frozen=True)
class PlyElement:
    """One table of a PLY file, as its header describes it."""

    name: str
    count: int
    properties: tuple[_Property, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Property names in file order."""
        return tuple(property_.name for property_ in self.properties)

    def dtype(self, order: str) -> np.dtype:
        return np.dtype([(p.name, order + _SCALARS[p.type]) for p in self.properties])

    @property
    def has_lists(self) -> bool:
        return any(p.count_type is not None for p in self.properties)


@dataclass(frozen=True)
class PlyHeader:
    """What stands before `end_header`."""

    path: Path
    order: str
    """Byte order of a binary file, "<" or ">"; empty for ASCII."""
    elements: tuple[PlyElement, ...]
    comments: tuple[str, ...]
    size: int
    """Bytes up to the first byte of data."""

    def element(self, name: str) -> PlyElement | None:
        """The element of that name, if there is one."""
        return next((element for element in self.elements if element.name == name), None)


def read_ply_header(path: str | os.PathLike[str]) -> PlyHeader:
    """Parse the header.

    Raises:
        StudioError: No such file, not a PLY, or a malformed header; names the file and the line.
    """
    path = Path(path)
    with open_regular(path) as file:
        return _parse_header(path, file)


def read_ply_vertices(header: PlyHeader) -> np.ndarray:
    """The `vertex` element; see `read_ply_element`."""
    return read_ply_element(header, "vertex")


def read_ply_element(header: PlyHeader, name: str) -> np.ndarray:
    """An element as a structured array: one row an item, one field a property, in the file's own types.

    A binary file is mapped, not loaded: only the fields that are used are read. Nothing is allocated for rows that
    the file has not.

    Raises:
        StudioError: No such element, list properties in it, or fewer data than the header promises.
    """
    element = header.element(name)
    if element is None:
        names = ", ".join(element.name for element in header.elements) or "none"
        raise StudioError(f"{header.path}: has no element '{name}' (elements: {names}).", fix="Is this the right file?")
    if element.has_lists:
        listed = next(p.name for p in element.properties if p.count_type is not None)
        raise StudioError(
            f"{header.path}: the {name} property '{listed}' is a list; only numbers are understood.",
            fix="Export it again without it.",
        )
    if len(set(element.names)) != len(element.names):
        twice = next(p for i, p in enumerate(element.names) if p in element.names[:i])
        raise StudioError(
            f"{header.path}: the {name} property '{twice}' is declared twice.", fix="Fetch or export it again."
        )
    if element.count and not element.properties:
        raise StudioError(f"{header.path}: the element '{name}' has no properties.", fix="Export it again.")
    before = header.elements[: header.elements.index(element)]
    if header.order == "":
        return _read_ascii(header, element, skip=sum(element.count for element in before))
    start = header.size
    for other in before:
        start += _binary_size(header, other, start)
    dtype = element.dtype(header.order)
    available = max(header.path.stat().st_size - start, 0)
    if available < element.count * dtype.itemsize:
        raise _truncated(header, element, available // dtype.itemsize)
    if element.count == 0:
        return np.zeros(0, dtype)
    return np.memmap(header.path, dtype=dtype, mode="r", offset=start, shape=(element.count,))


def _parse_header(path: Path, file: IO[bytes]) -> PlyHeader:
    if file.read(3) != b"ply" or file.readline(8).strip() != b"":
        file.seek(0)
        raise StudioError(f"{path}: is not a PLY file{_what_else(file.read(4))}.", fix="Name a .ply file.")
    order: str | None = None
    elements: list[tuple[str, int, list[_Property]]] = []
    comments: list[str] = []
    number = 1
    properties = 0
    while file.tell() < LARGEST_HEADER:
        raw = file.readline(LARGEST_HEADER)
        number += 1
        if not raw.endswith(b"\n"):
            break
        words = raw.decode("utf-8", errors="replace").split()
        match words:
            case ["end_header"]:
                if order is None:
                    raise StudioError(f"{path}: the PLY header names no format.", fix="Fetch or export it again.")
                found = tuple(PlyElement(name, count, tuple(inner)) for name, count, inner in elements)
                return PlyHeader(path, order, found, tuple(comments), file.tell())
            case ["format", name, "1.0"] if name in _FORMATS:
                order = _FORMATS[name]
            case ["comment" | "obj_info", *rest]:
                comments.append(" ".join(rest))
            case ["element", name, count] if count.isdecimal() and len(count) < 20 and int(count) < _MOST_ROWS:
                elements.append((name, int(count), []))
            case ["property", "list", count_type, type_, name] if (
                elements and count_type in _SCALARS and type_ in _SCALARS
            ):
                elements[-1][2].append(_Property(name, type_, count_type))
                properties += 1
            case ["property", type_, name] if elements and type_ in _SCALARS:
                elements[-1][2].append(_Property(name, type_))
                properties += 1
            case []:
                continue
            case _:
                line = " ".join(words)[:80]
                raise StudioError(
                    f"{path}: line {number} of the PLY header is not understood: {line!r}.",
                    fix="Fetch or export it again.",
                )
        if properties > MOST_PROPERTIES:
            raise StudioError(
                f"{path}: the PLY header has more than {MOST_PROPERTIES:,} properties.", fix="Fetch or export it again."
            )
    raise StudioError(f"{path}: the PLY header has no end; the file is truncated.", fix="Fetch or export it again.")


def _what_else(start: bytes) -> str:
    if start == b"":
        return " (it is empty)"
    if start[:2] == b"\x1f\x8b" or start == b"NGSP":
        return " but looks like a compressed SPZ splat"
    if start[:2] == b"PK":
        return " but a zip archive"
    return f" (it starts with {start!r})"


def _binary_size(header: PlyHeader, element: PlyElement, start: int) -> int:
    """Bytes of an element that stands before the wanted one; lists make its rows differ in length."""
    if not element.has_lists:
        return element.count * sum(np.dtype(_SCALARS[p.type]).itemsize for p in element.properties)
    size, end = 0, header.path.stat().st_size
    if start > end:
        raise _truncated(header, element, 0)
    with open_regular(header.path) as file:
        file.seek(start)
        for row in range(element.count):
            for p in element.properties:
                width = np.dtype(_SCALARS[p.type]).itemsize
                if p.count_type is None:
                    size += width
                    file.seek(start + size)
                    continue
                count_type = np.dtype(header.order + _SCALARS[p.count_type])
                raw = file.read(count_type.itemsize)
                if len(raw) < count_type.itemsize:
                    raise _truncated(header, element, row)
                length = np.frombuffer(raw, count_type)[0]
                # A length below zero would lead back into the file, and round for ever.
                if not (length >= 0 and length == np.floor(length) and np.isfinite(length)):
                    raise StudioError(
                        f"{header.path}: the list '{p.name}' of {element.name} {row} has the length {length}.",
                        fix="The file is damaged: fetch or export it again.",
                    )
                size += count_type.itemsize + int(length) * width
                if start + size > end:
                    raise _truncated(header, element, row)
                file.seek(start + size)
    return size


def _read_ascii(header: PlyHeader, element: PlyElement, skip: int) -> np.ndarray:
    rows: list[bytes] = []
    shortest = 2 * len(element.properties) - 1
    with open_regular(header.path) as file:
        file.seek(header.size)
        for line in file:
            if not line.strip():
                continue
            if skip > 0:
                skip -= 1
                continue
            if len(rows) == element.count:
                break
            if len(line) < shortest:
                # Told before room is made for the table, which such a file would make a thousandfold.
                raise _not_numbers(header, element, len(rows), line)
            rows.append(line)
    if len(rows) < element.count:
        raise _truncated(header, element, len(rows))
    table = np.empty(element.count, element.dtype("="))
    for index, line in enumerate(rows):
        try:
            # Numbers beyond the range of float32 become infinite, which is told where it matters.
            with np.errstate(over="ignore"):
                table[index] = tuple(map(float, line.split()))
        except (ValueError, OverflowError) as error:
            raise _not_numbers(header, element, index, line) from error
    return table


def _not_numbers(header: PlyHeader, element: PlyElement, index: int, line: bytes) -> StudioError:
    text = line.decode("utf-8", errors="replace").strip()[:60]
    return StudioError(
        f"{header.path}: {element.name} {index} has not {len(element.properties)} numbers: {text!r}.",
        fix="Fetch or export it again.",
    )


def _truncated(header: PlyHeader, element: PlyElement, found: int) -> StudioError:
    return StudioError(
        f"{header.path}: the file is truncated: the header promises {element.count:,} of element '{element.name}', "
        f"there are {found:,}.",
        fix="Fetch or export it again.",
    )
