"""Where compiled kernels are kept on disk, whose files are read, and what is removed.

``$XDG_CACHE_HOME`` (or ``~/.cache``) ``/neural-studio/kernels/<target>/<kernel>-<key>.kernel``, where the target is a
hash of versions and processor, so that machines of two kinds can share a home folder. Each file is one kernel and is
written under a temporary name, then renamed. Where that folder cannot be written it is still read (a cache made by an
administrator), and what is missing from it goes to a folder of the user's own among the temporary files, the same one
for all processes.

These files are code. So they are read only where nobody but the user and the administrator can have written them: file
and folders are theirs, and others may not write to any folder above.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from studio.errors import StudioError
from studio.files import atomic_write
from studio.kernels.image import KernelImage, Unusable
from studio.kernels.target import facts, target_key

_log = logging.getLogger(__name__)

_DAY = 86400.0
_UNUSED_DAYS = 30.0
"""Days without use after which kernels of other versions and of sources that have changed are removed."""
_ABOUT = "about.json"
_SUFFIX = ".kernel"
_EARLIER = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class KernelFolders:
    """The folders of this target.

    Attributes:
        read: Where kernels are looked for, in this order.
        write: Where new ones go; None if there is no such place.
        problems: Why something is not as usual, a line each.
    """

    read: tuple[Path, ...]
    write: Path | None
    problems: tuple[str, ...] = ()


def usual_root() -> Path:
    """``$XDG_CACHE_HOME`` (or ``~/.cache``) ``/neural-studio/kernels``.

    Raises:
        RuntimeError: There is neither.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative one is to be ignored, says the standard; it would lead into the working folder.
    return (base if base.is_absolute() else Path.home() / ".cache") / "neural-studio" / "kernels"


def spare_root() -> Path:
    """The user's own folder among the temporary files."""
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    return Path(tempfile.gettempdir()) / f"neural-studio-{user}" / "kernels"


def kernel_folders() -> KernelFolders:
    """The folders of this target; found out once for each value of the variables that name them."""
    return _find(os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME"), tempfile.gettempdir())


@functools.cache
def _find(cache_home: str | None, home: str | None, temporary: str) -> KernelFolders:
    read: list[Path] = []
    problems: list[str] = []
    for root in (_usual_root_or_none(), spare_root()):
        if root is None:
            problems.append("there is no home folder")
            continue
        place = root / target_key()
        reason = _make(place, private_from=root.parent)
        trusted = _distrust(place) if place.is_dir() else None
        if trusted is not None:
            problems.append(f"{place}: not used, as {trusted}")
            continue
        if place.is_dir():
            read.append(place)
        if reason is None:
            _tell_and_tidy(place)
            return KernelFolders(tuple(read), place, tuple(problems))
        problems.append(f"{place}: cannot be written ({reason})")
    return KernelFolders(tuple(read), None, tuple(problems))


def _usual_root_or_none() -> Path | None:
    try:
        return usual_root()
    except RuntimeError:  # Path.home() without a home folder
        return None


def _make(place: Path, private_from: Path) -> str | None:
    """Make a folder that only the user can write to; why that did not work, or None."""
    try:
        private_from.parent.mkdir(parents=True, exist_ok=True)
        for folder in (private_from, place.parent, place):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
            _tighten(folder)
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as problem:
        return problem.strerror or str(problem)


def _tighten(path: Path) -> None:
    """Take the group's and the others' right to write from a file or folder of the user's own."""
    if hasattr(os, "getuid"):
        found = path.lstat()
        if found.st_uid == os.getuid() and found.st_mode & 0o022 and not stat.S_ISLNK(found.st_mode):
            path.chmod(stat.S_IMODE(found.st_mode) & ~0o022)


def _distrust(path: Path) -> str | None:
    """Why a file or folder may hold what others have written; None if it cannot."""
    if not hasattr(os, "getuid"):
        return None  # Windows: profiles are closed to other users
    trusted = {0, os.getuid()}
    place = Path(os.path.realpath(path))
    found = place.stat()
    if found.st_uid not in trusted:
        return f"{place} belongs to another user"
    if found.st_mode & 0o022:
        return f"other users may write to {place}"
    for folder in place.parents:
        found = folder.stat()
        if found.st_uid not in trusted:
            return f"{folder} belongs to another user"
        # In a sticky folder, such as /tmp, others cannot move what is not theirs.
        open_to = stat.S_IWOTH if _own_group(found.st_gid) else stat.S_IWOTH | stat.S_IWGRP
        if found.st_mode & open_to and not found.st_mode & stat.S_ISVTX:
            return f"other users may write to {folder}"
    return None


@functools.cache
def _own_group(group: int) -> bool:
    """Whether a group is the user's private one, as many systems give to each."""
    if sys.platform == "win32":
        return True
    import grp
    import pwd

    try:
        mine, found = pwd.getpwuid(os.getuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return group == mine.pw_gid and found.gr_name == mine.pw_name and set(found.gr_mem) <= {mine.pw_name}


def _file_name(name: str, key: str) -> str:
    short = re.sub(r"[^A-Za-z0-9_]+", "-", name.replace("<locals>", "")).strip("-")[-60:]
    return f"{short}-{key}{_SUFFIX}"


def read_kernel(name: str, key: str) -> KernelImage | None:
    """The kernel with this key, or None if there is none that is whole and can be trusted; says why one is not."""
    for folder in kernel_folders().read:
        path = folder / _file_name(name, key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as problem:
            _warn(f"{path}: cannot be read ({problem.strerror}); the kernel is compiled anew")
            continue
        reason = _distrust(path)
        if reason is not None:
            _warn(f"{path}: not used, as {reason}; the kernel is compiled anew")
            continue
        try:
            image = KernelImage.decode(data, key)
        except (Unusable, ValueError, KeyError, TypeError) as problem:
            _warn(f"{path}: {problem}; the kernel is compiled anew")
            continue
        _mark_used(path)
        return image
    return None


def has_kernel(name: str, key: str) -> bool:
    """Whether there is a file for this key; it may still prove to be damaged."""
    return any((folder / _file_name(name, key)).is_file() for folder in kernel_folders().read)


def write_kernel(image: KernelImage) -> None:
    """Keep a compiled kernel; a warning where that is not possible."""
    folders = kernel_folders()
    if folders.write is None:
        _warn(f"compiled kernels cannot be kept, and are compiled anew in each process: {'; '.join(folders.problems)}")
        return
    if folders.problems:
        _warn(f"compiled kernels are kept in {folders.write}: {'; '.join(folders.problems)}")
    path = folders.write / _file_name(image.name, image.key)
    try:
        with atomic_write(path) as file:
            file.write(image.encode())
        _tighten(path)
    except (StudioError, OSError) as problem:
        _warn(f"a compiled kernel was not kept: {getattr(problem, 'message', problem)}")


def reject_kernel(image: KernelImage, reason: str) -> None:
    """Say that a kernel that was read is of no use here; its file is written anew by who compiles it."""
    _warn(f"the kept kernel {image.name} cannot be used ({reason}); it is compiled anew")


def _mark_used(path: Path) -> None:
    # Once a day, and where that is not allowed somebody else looks after the folder.
    with contextlib.suppress(OSError):
        for each in (path, path.parent / _ABOUT):
            if time.time() - each.stat().st_mtime > _DAY:
                os.utime(each)


def _tell_and_tidy(place: Path) -> None:
    """Write down what the folder is for, and remove what has not been used for long; both are not worth an error."""
    about = place / _ABOUT
    try:
        if not about.is_file():
            with atomic_write(about, "w") as file:
                file.write(json.dumps(facts(), indent=1) + "\n")
            remove_unused(place.parent)
        elif time.time() - about.stat().st_mtime > _DAY:
            os.utime(about)
            remove_unused(place.parent)
    except (StudioError, OSError) as problem:
        _log.debug("kernel cache: %s", problem)


def remove_unused(root: Path, days: float = _UNUSED_DAYS) -> list[Path]:
    """Remove kernels that nothing has used for `days` days, and folders of versions of which that holds for all.

    A process that has loaded a kernel does not need its file any more, and one that finds it gone compiles it.
    """
    removed = []
    limit = time.time() - days * _DAY
    for folder in sorted(root.iterdir() if root.is_dir() else ()):
        if folder.is_symlink() or not folder.is_dir() or not _EARLIER.fullmatch(folder.name):
            continue
        files = [path for path in folder.rglob("*") if path.is_file()]
        old = [path for path in files if path.name != _ABOUT and path.lstat().st_mtime < limit]
        with contextlib.suppress(OSError):
            newest = max((path.lstat().st_mtime for path in files), default=folder.stat().st_mtime)
            if newest < limit:
                shutil.rmtree(folder)
                removed.append(folder)
                continue
            for path in old:
                path.unlink()
                removed.append(path)
    return removed


@dataclass(frozen=True)
class KernelCacheState:
    """What `studio doctor` tells of one place for kernels."""

    root: Path
    kernels: int
    """Of this processor and these versions."""
    others: int
    """Files of other processors and versions."""
    total_bytes: int
    damaged: tuple[Path, ...]
    """Files of this processor and these versions whose checksum is wrong."""


def cache_states() -> list[KernelCacheState]:
    """The places for kernels that exist."""
    found = []
    for root in (_usual_root_or_none(), spare_root()):
        if root is None or not root.is_dir():
            continue
        own, others, size, damaged = 0, 0, 0, []
        for path in root.rglob("*"):
            with contextlib.suppress(OSError):
                if not path.is_file() or path.is_symlink() or path.name == _ABOUT:
                    continue
                size += path.stat().st_size
                if path.suffix != _SUFFIX or path.parent != root / target_key():
                    others += 1
                    continue
                own += 1
                try:
                    KernelImage.decode(path.read_bytes(), path.stem.rpartition("-")[2])
                except (Unusable, ValueError, KeyError, TypeError):
                    damaged.append(path)
        found.append(KernelCacheState(root, own, others, size, tuple(damaged)))
    return found


def clear() -> tuple[int, int]:
    """Delete all kept kernels of the user's, of whatever version; gives how many files and bytes.

    Raises:
        StudioError: A file cannot be deleted.
    """
    files = size = 0
    for state in cache_states():
        for folder in sorted(state.root.iterdir()):
            if folder.is_symlink() or not folder.is_dir() or not _EARLIER.fullmatch(folder.name):
                continue
            inside = [path for path in folder.rglob("*") if path.is_file() and path.name != _ABOUT]
            size += sum(path.lstat().st_size for path in inside)
            files += len(inside)
            try:
                shutil.rmtree(folder)
            except OSError as problem:
                raise StudioError(
                    f"{problem.filename or folder}: cannot be deleted ({problem.strerror}).",
                    fix="Delete the folder as its owner, or name another with XDG_CACHE_HOME.",
                ) from problem
    _find.cache_clear()
    return files, size


_told: set[str] = set()


def _warn(text: str) -> None:
    if text not in _told:
        _told.add(text)
        _log.warning("%s", text)
