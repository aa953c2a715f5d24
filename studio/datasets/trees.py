"""A folder and a zip archive as the same thing: names of files, and streams of their bytes. Nothing is extracted."""

from __future__ import annotations

import io
import os
import posixpath
import re
from pathlib import Path
from typing import IO, Protocol

from studio.errors import StudioError
from studio.reading.archives import Archive
from studio.reading.files import is_folder, open_regular
from studio.reading.limits import LARGEST_ENTRY

_ABSOLUTE = re.compile(r"^([A-Za-z]:|/|\\)")


class FileTree(Protocol):
    """Files below a root, by names with forward slashes."""

    path: Path
    files: tuple[str, ...]
    """Sorted; hidden files and folders are left out."""
    folders: tuple[str, ...]
    """Sorted, empty ones included."""
    known: frozenset[str]
    """The same files, for looking up."""

    def open(self, name: str) -> IO[bytes]:
        """A seekable stream; raises StudioError where the bytes cannot be had."""
        ...


class FolderTree:
    """The files below a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files, folders = [], []
        for where, inner, names in os.walk(path, followlinks=True):
            inner[:] = sorted(name for name in inner if not _is_hidden(name))
            prefix = Path(where).relative_to(path).as_posix()
            prefix = "" if prefix == "." else prefix + "/"
            folders += [prefix + name for name in inner]
            files += [prefix + name for name in names if not _is_hidden(name)]
            if prefix.count("/") > 32:
                raise StudioError(f"{where}: is nested too deeply.", fix="Look for a link that leads in a circle.")
        self.files, self.folders = tuple(sorted(files)), tuple(sorted(folders))
        self.known = frozenset(files)

    def open(self, name: str) -> IO[bytes]:
        return open_regular(self.path / name)


class ZipTree:
    """The entries of a zip archive, read from inside it.

    Raises:
        StudioError: Damaged, encrypted, or with a name that leads out of the archive's own folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive = Archive(path)
        files, folders = [], set()
        for name, entry in self._archive.entries():
            parts = [part for part in name.split("/") if part not in ("", ".")]
            if not parts or any(map(_is_hidden, parts)):
                continue
            folder_parts = parts if entry.is_dir() else parts[:-1]
            folders |= {"/".join(folder_parts[: i + 1]) for i in range(len(folder_parts))}
            if not entry.is_dir():
                files.append(("/".join(parts), entry))
        self._entries = dict(files)
        self.files, self.folders = tuple(sorted(self._entries)), tuple(sorted(folders))
        self.known = frozenset(self._entries)

    def open(self, name: str) -> IO[bytes]:
        return io.BytesIO(self._archive.read(self._entries[name], LARGEST_ENTRY))


def open_tree(path: Path) -> FileTree:
    """The tree of a folder or of a .zip file."""
    return FolderTree(path) if is_folder(path) else ZipTree(path)


def inside(folder: str, relative: str) -> str | None:
    """The name of a file that a file in `folder` of a tree refers to; None when it leads out of the tree."""
    if _ABSOLUTE.match(relative):
        return None
    name = posixpath.normpath(posixpath.join(folder, relative.replace("\\", "/")))
    return None if name.startswith("../") or name == ".." else name


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
