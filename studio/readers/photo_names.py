"""Photos whose names differ from the disk: in letter case, Unicode form, separators, drive or folder."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from studio.reading.files import is_file
from studio.scene.decode import PHOTO_SUFFIXES

_MOST_FILES = 200_000
"""Files looked through at most; a scene folder in a home folder shall not mean a walk through all of it."""


def name_parts(named: str) -> tuple[str, ...]:
    """Folders and file of a path from any system, in a form that spellings of one name share.

    Drives, roots and ``.`` are left out; letters are composed (NFC, where macOS decomposes) and of one case.
    """
    parts = [part for part in named.replace("\\", "/").split("/") if part not in ("", ".")]
    if parts and parts[0].endswith(":"):
        parts = parts[1:]
    return tuple(unicodedata.normalize("NFC", part).casefold() for part in parts)


class PhotoIndex:
    """The photos below a folder by their names; read from the disk when first asked."""

    def __init__(self, root: Path, folder: Path | None = None) -> None:
        """`folder`: where photos are looked for first, below `root`."""
        self.root = root
        self._first = folder
        self._files: dict[str, list[tuple[tuple[str, ...], Path]]] | None = None

    def find(self, named: str) -> Path | None:
        """The one photo that a name can mean; None if there is none or several fit equally well.

        Of the photos of that file name, the one that shares the most folders with the name, counted from the end; one
        that shares none only where all photos lie: in `root` or `folder` themselves.
        """
        wanted = name_parts(named)
        if not wanted or ".." in wanted:
            return None
        if self._files is None:
            self._files = self._listed()
        found = self._files.get(wanted[-1], [])
        if self._first is not None:
            found = [each for each in found if each[1].is_relative_to(self._first)] or found
        shared = [_shared_end(wanted, parts) for parts, _ in found]
        best = [path for count, (_, path) in zip(shared, found, strict=True) if count == max(shared)]
        if len(best) != 1 or not is_file(best[0]):
            return None
        # Photos of one name in other folders (train/ and test/, cam0/ and cam1/) are other photos.
        alone = len(wanted) > 1 and max(shared) == 1 and best[0].parent not in (self.root, self._first)
        return None if alone else best[0]

    def _listed(self) -> dict[str, list[tuple[tuple[str, ...], Path]]]:
        files: dict[str, list[tuple[tuple[str, ...], Path]]] = defaultdict(list)
        seen = 0
        for folder, below, names in os.walk(self.root):
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in sorted(names):
                if os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES:
                    path = Path(folder, name)
                    parts = name_parts(path.relative_to(self.root).as_posix())
                    files[parts[-1]].append((parts, path))
            seen += len(names)
            if seen > _MOST_FILES:
                break
        return dict(files)


def find_photos(
    names: Iterable[str], direct: Callable[[str], Path | None], index: PhotoIndex
) -> tuple[dict[str, Path], list[str]]:
    """The files of the named photos, and a note where they are found under other names only.

    A file is taken for another name only if no name means it exactly and no second one would have it too.
    """
    names = list(dict.fromkeys(names))
    exact = {name: direct(name) for name in names}
    photos = {name: path for name, path in exact.items() if path is not None}
    taken = {path.resolve() for path in photos.values()}
    others = {name: found for name in names if name not in photos and (found := index.find(name)) is not None}
    claims: dict[Path, int] = defaultdict(int)
    for path in others.values():
        claims[path.resolve()] += 1
    others = {n: path for n, path in others.items() if path.resolve() not in taken and claims[path.resolve()] == 1}
    if not others:
        return photos, []
    first = next(iter(others))
    note = f"{len(others)} of {len(names)} photos are found under other names (first: {first} is "
    return {**photos, **others}, [note + f"{others[first].relative_to(index.root).as_posix()})"]


def _shared_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count
