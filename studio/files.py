"""Writing files so that a reader, a crash or a full disk never meets half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

from studio.errors import StudioError
from studio.reading.files import is_folder


class DiskFullError(StudioError):
    """A file could not be written for want of space."""


_LEFTOVER = re.compile(r"^\..+\.[0-9a-f]{12}\.partial(\.[A-Za-z0-9]+)?$")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` for writers that want a name; renamed to `path` when the block succeeds.

    The temporary file keeps the suffix of `path` (encoders choose the format by it), is synced to disk before the
    rename, and is removed when the block raises. A symbolic link at `path` is followed, missing parent folders are
    made, and the permissions of a file that is replaced are kept.

    Raises:
        StudioError: The disk is full (names the path and the free space), or the folder cannot be written.
    """
    try:
        target = Path(os.path.realpath(path))
    except ValueError as error:
        raise StudioError(f"{path}: is no name that a file can have ({error}).", fix="Choose another name.") from error
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.partial{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(target, error) from error
    if is_folder(target):
        raise StudioError(f"{path}: cannot write this file, a folder has this name.", fix="Choose another name.")
    try:
        yield temporary
        if not temporary.exists():
            raise RuntimeError(f"nothing was written to the temporary path of {path}")
        if target.exists():
            shutil.copymode(target, temporary)
        _sync(temporary)
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if _says_full(error):
            raise _disk_full(target) from error
        if isinstance(error, OSError) and error.filename is not None and str(temporary) == str(error.filename):
            raise _unwritable(target, error) from error
        raise
    sync_folder(target.parent)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], mode: Literal["wb", "w"] = "wb") -> Iterator[IO[Any]]:
    """Open a file for writing that appears at `path` whole or not at all, even on a kill or power loss.

    Args:
        path: Where the file shall be; see `atomic_path` for links, folders and permissions.
        mode: "wb" for bytes, "w" for UTF-8 text with Unix line ends.

    Raises:
        StudioError: The disk is full, or the folder cannot be written. What stood at `path` before is then unchanged.
    """
    if mode not in ("wb", "w"):
        raise ValueError(f"mode must be 'wb' or 'w', got {mode!r}")
    text: dict[str, Any] = {} if mode == "wb" else {"encoding": "utf-8", "newline": "\n"}
    # Closing flushes the last block, so a full disk may only show there: the file is closed inside atomic_path.
    with atomic_path(path) as temporary, open(temporary, "xb" if mode == "wb" else "x", **text) as file:
        yield file


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """For files that grow line by line and cannot be written to a temporary name: their errors as one clear line.

    Raises:
        StudioError: The disk is full (names the path and the free space), or the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        target = Path(path)
        raise (_disk_full(target) if _says_full(error) else _unwritable(target, error)) from error


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete the temporary files that killed writers left in `folder` (not below it); returns what was deleted.

    Call it only where no other process is writing, such as on a run folder that is about to be resumed.
    """
    removed = []
    for path in sorted(Path(folder).iterdir()):
        if _LEFTOVER.match(path.name) and path.is_file():
            path.unlink()
            removed.append(path)
    return removed


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power loss (no-op where unsupported)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Network and FUSE file systems refuse fsync on folders; the rename itself is still atomic there.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    # Windows only flushes handles opened for writing.
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _says_full(error: BaseException) -> bool:
    """Whether an exception, or one that it was raised from, reports a full disk.

    Native writers (safetensors, torch.save) wrap the system error into their own types, hence the look at the text.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        if "No space left on device" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _disk_full(target: Path) -> DiskFullError:
    try:
        free = f"{shutil.disk_usage(target.parent).free / 2**20:,.1f} MiB free"
    except OSError:
        free = "free space unknown"
    return DiskFullError(
        f"{target}: the disk is full or a quota is reached ({free} in {target.parent}).",
        fix="Free some space or choose another folder; the file that was there before is unchanged.",
    )


def _unwritable(target: Path, error: OSError) -> StudioError:
    return StudioError(
        f"{target}: cannot be written ({error.strerror or error}).",
        fix="Check the folder's permissions or choose another place.",
    )
