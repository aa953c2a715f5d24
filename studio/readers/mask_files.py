"""Masks of photos in a folder of their own, by every usual way to name them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from studio.errors import StudioError
from studio.readers.photo_names import name_parts
from studio.reading.files import is_folder
from studio.scene.decode import PHOTO_SUFFIXES

_MARK = re.compile(r"[._-]mask$")
_WAYS = "photo.png, photo.jpg.png, photo_mask.png or photo.mask.png, in the photos' sub-folders if they have any"


class MaskFolder:
    """The masks in a folder; those of photos in sub-folders lie in sub-folders of the same names."""

    def __init__(self, root: Path, wanted: str | None) -> None:
        """`wanted`: the folder inside the scene folder `root`; by default ``masks``, if there is one.

        Raises:
            StudioError: The wanted folder is not there.
        """
        self.folder = root / (wanted or "masks")
        self._wanted = wanted is not None
        if self._wanted and not is_folder(self.folder):
            raise StudioError(
                f"{self.folder}: there is no such folder of masks.", fix="Name it relative to the scene folder."
            )
        self._files = dict(self._listed()) if is_folder(self.folder) else {}
        self._found = 0
        self._asked = 0

    def find(self, name: str) -> Path | None:
        """The mask of a photo, by the photo's path below the folder of photos."""
        self._asked += 1
        parts = name_parts(name)
        mask = self._files.get((*parts[:-1], _stem(parts[-1]))) if parts else None
        self._found += mask is not None
        return mask

    def notes(self) -> list[str]:
        """How many of the photos that were asked for have a mask.

        Raises:
            StudioError: There are masks, or a folder was asked for, and no photo has one.
        """
        if not self._files and not self._wanted:
            return []
        if self._found == 0:
            raise StudioError(
                f"{self.folder}: none of its {len(self._files)} masks fits one of the {self._asked} photos.",
                fix=f"Name each like its photo: {_WAYS}; or take the folder away.",
            )
        return [f"{self._found} of {self._asked} photos have a mask"]

    def _listed(self) -> Iterable[tuple[tuple[str, ...], Path]]:
        for folder, below, names in os.walk(self.folder):
            below.sort()
            # The longest names first: where photo.jpg.png and photo.png are there, the shorter one counts.
            for name in sorted(names, key=lambda each: (-len(each), each)):
                if os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES:
                    path = Path(folder, name)
                    parts = name_parts(path.relative_to(self.folder).as_posix())
                    yield (*parts[:-1], _stem(_MARK.sub("", os.path.splitext(parts[-1])[0]))), path


def _stem(name: str) -> str:
    """A file's name without the ending of a picture, if it has one."""
    stem, ending = os.path.splitext(name)
    return _MARK.sub("", stem) if ending in PHOTO_SUFFIXES else name
