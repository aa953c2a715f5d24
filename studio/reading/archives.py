"""Zip archives, whose entries are read in memory and never unpacked to disk."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from typing import IO

from studio.errors import StudioError
from studio.reading.files import decoding, open_regular, show_path, unreadable
from studio.reading.limits import DEFLATE_EXPANSION, room_for

_ABSOLUTE = re.compile(r"^([A-Za-z]:|/|\\)")
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PIECE = 1 << 20
_LONGEST_NAME = 4096


class Archive:
    """A zip archive that is open for reading.

    Args:
        path: The file.

    Raises:
        StudioError: Unreadable, damaged, encrypted, packed by another method than deflate, with a name that leads out
            of the archive's own folder, or with entries that share their bytes (a bomb).
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        file = open_regular(path)
        try:
            with decoding(path, "cannot be read as a zip archive"):
                self._zip = zipfile.ZipFile(file)
                self._size = os.fstat(file.fileno()).st_size
            for entry in self._zip.infolist():
                self._check(entry)
            if sum(max(entry.compress_size, 0) for entry in self._zip.infolist()) > self._size:
                raise unreadable(path, "its entries share their bytes", fix="Do not trust this archive.")
        except BaseException:
            file.close()
            raise
        self._file = file

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._zip.close()
        self._file.close()

    def entries(self) -> Iterator[tuple[str, zipfile.ZipInfo]]:
        """Names with forward slashes, and what the directory says of each; those of folders end in a slash."""
        for entry in self._zip.infolist():
            yield entry.filename.replace("\\", "/"), entry

    def read(self, entry: zipfile.ZipInfo | str, most: int) -> bytes:
        """The bytes of one entry, checked by its checksum.

        Raises:
            KeyError: No entry of this name.
            StudioError: Damaged, or more than `most` bytes.
        """
        info = self._zip.getinfo(entry) if isinstance(entry, str) else entry
        where = f"{os.fspath(self.path)}: {info.filename}"
        most = min(most, room_for(info.compress_size, DEFLATE_EXPANSION))
        if info.file_size > most:
            raise unreadable(where, f"states {info.file_size:,} bytes, more than the {most:,} that it may have")
        found = bytearray()
        with decoding(where, "is damaged"), self._open(info) as stream:
            # To the end, where the checksum is looked at; in pieces, so that memory grows with what is there.
            while piece := stream.read(_PIECE):
                found += piece
                if len(found) > info.file_size:
                    raise unreadable(where, f"has more than the {info.file_size:,} bytes that it states")
        if len(found) < info.file_size:
            raise unreadable(where, f"has {len(found):,} of the {info.file_size:,} bytes that it states")
        return bytes(found)

    def _open(self, info: zipfile.ZipInfo) -> IO[bytes]:
        return self._zip.open(info)

    def _check(self, entry: zipfile.ZipInfo) -> None:
        name = entry.filename
        if not name or len(name) > _LONGEST_NAME:
            raise unreadable(self.path, f"has an entry whose name has {len(name):,} characters")
        if _ABSOLUTE.match(name) or ".." in re.split(r"[/\\]", name):
            raise StudioError(
                f"{self.path}: its entry '{show_path(name)}' leads out of the archive.",
                fix="Do not trust this archive.",
            )
        if entry.flag_bits & _ENCRYPTED:
            raise StudioError(
                f"{self.path}: is encrypted ({show_path(name)}).", fix="Give an archive without password."
            )
        if entry.compress_type not in _METHODS:
            raise StudioError(
                f"{self.path}: its entry '{show_path(name)}' is packed by method {entry.compress_type}.",
                fix="Pack it with deflate, which zip programs do by default.",
            )
