"""Finding out which format a scene folder has."""

from __future__ import annotations

import collections
import fnmatch
import shlex
from pathlib import Path

from studio.errors import StudioError
from studio.extensions import READERS, list_extensions
from studio.readers.registry import Reader, get_reader, reader_names
from studio.reading.files import is_folder, list_folder
from studio.scene.decode import PHOTO_SUFFIXES

UNREAD_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".exr")
"""Endings of photos that people have and the studio does not decode."""

_SCENE_FILES = ("transforms*.json", "poses_bounds.npy", "cameras.bin", "cameras.txt", "images.bin", "images.txt")


def detect_reader(root: Path) -> Reader:
    """The first reader that recognises the folder.

    Raises:
        StudioError: None does; the message lists what each looked for. A reader of another package that raises only
            counts as not fitting.
    """
    reasons = []
    for name in reader_names():
        try:
            reader = get_reader(name)
            reason = reader.detect(root)
        except StudioError as error:
            reason = error.message
        except Exception as error:
            if name in READERS:
                raise
            reason = f"{type(error).__name__}: {error}"
        else:
            if reason is None:
                return reader
        reasons.append(f"{name}: {reason}")
    reasons += [f"{entry.name}: {entry.reason}" for entry in list_extensions("reader") if entry.status != "ok"]
    if not holds_scene_files(root):
        _refuse_plain_photos(root)
    raise StudioError(
        f"{root}: not a scene in any known format ({'; '.join(reasons)}).",
        fix="Name the folder that holds one of these files.",
    )


def holds_scene_files(root: Path) -> bool:
    """Whether a folder has files of a scene, whole or not, so that it is no mere folder of pictures."""
    return any(
        fnmatch.fnmatch(path.name.lower(), pattern)
        for folder in (root, root / "sparse", root / "sparse" / "0", root / "colmap" / "sparse" / "0")
        if is_folder(folder)
        for path in list_folder(folder)
        for pattern in _SCENE_FILES
    )


def _refuse_plain_photos(root: Path) -> None:
    """Tell how photos and videos without poses become a scene."""
    names = [path for folder in (root, root / "images") if is_folder(folder) for path in list_folder(folder)]
    endings = collections.Counter(path.suffix.lower() for path in names)
    command = f"studio data process {shlex.quote(str(root))} --output {shlex.quote(root.resolve().name + '-scene')}"
    if photos := sum(endings[ending] for ending in PHOTO_SUFFIXES):
        raise StudioError(f"{root}: has {photos} photos, but no poses of their cameras.", fix=f"Find them: {command}")
    if unread := sum(endings[ending] for ending in UNREAD_SUFFIXES):
        kind = max(UNREAD_SUFFIXES, key=lambda ending: endings[ending]).lstrip(".").upper()
        raise StudioError(
            f"{root}: has {unread} photos in {kind}, which the studio does not read, and no poses of their cameras.",
            fix=f"Save them as JPEG or PNG, then: {command}",
        )
