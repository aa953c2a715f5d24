"""Opening and reading whole files: only regular ones, only so much, and with the reason where it fails."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from studio.errors import StudioError, one_line
from studio.reading.limits import LARGEST_BINARY, LARGEST_TEXT

_AGAIN = "Get the file again."


def unreadable(where: str | os.PathLike[str], reason: str, *, fix: str = _AGAIN) -> StudioError:
    """The error that says of a file that it cannot be read: it is missing, no file, damaged, or of another kind.

    Args:
        where: The file, and what in it.
        reason: What is wrong, without the file's name.
        fix: What the user can do.
    """
    return StudioError(f"{show_path(where)}: {reason}.", fix=fix)


def reason_of(error: StudioError, where: str | os.PathLike[str]) -> str:
    """What such an error says, without the file's name and the full stop."""
    return error.message.removeprefix(f"{show_path(where)}: ").removesuffix(".")


def show_path(path: str | os.PathLike[str]) -> str:
    """A path for a message, on one line and at most some hundred characters long."""
    text = one_line(os.fspath(path))
    return text if len(text) <= 400 else f"{text[:200]}...{text[-100:]}"


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a regular file, or a link to one; False for names that no file can have."""
    # pathlib raises at names that are too long, before Python 3.12 also at ones in a folder that cannot be entered.
    return os.path.isfile(path)


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether there is a folder, or a link to one; False for names that no folder can have."""
    return os.path.isdir(path)


def open_regular(path: str | os.PathLike[str], *, fix: str = _AGAIN) -> IO[bytes]:
    """Open a file for reading bytes. Pipes, devices, sockets and folders are refused, and never waited for.

    Raises:
        StudioError: There is no such file, it is no regular one, or the system does not let it be read.
    """
    # A pipe without a writer would block in open(); the flag means nothing for regular files.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        # Before opening, too: devices such as tape drives act on being opened.
        _require_regular(path, os.stat(path).st_mode)
        descriptor = os.open(path, flags)
        try:
            _require_regular(path, os.fstat(descriptor).st_mode)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except FileNotFoundError as error:
        raise unreadable(path, "there is no such file", fix="Check the path.") from error
    except (OSError, ValueError) as error:
        raise unreadable(path, f"cannot be read ({_reason(error)})", fix=fix) from error


def read_bytes(path: str | os.PathLike[str], most: int = LARGEST_BINARY, *, fix: str = _AGAIN) -> bytes:
    """The whole content of a regular file.

    Raises:
        StudioError: As `open_regular`; or it has more bytes than `most`.
    """
    with open_regular(path, fix=fix) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise unreadable(path, f"has {size:,} bytes; at most {most:,} are read", fix=fix)
        try:
            # Exactly so many: a buffered file takes room for all that it is asked for before it reads.
            return file.read(size)
        except OSError as error:
            raise unreadable(path, f"cannot be read ({_reason(error)})", fix=fix) from error


def read_text(path: str | os.PathLike[str], most: int = LARGEST_TEXT, *, fix: str = "Save it as UTF-8.") -> str:
    """A text file in UTF-8, with or without byte order mark; line ends as in the file.

    Raises:
        StudioError: As `read_bytes`; or the bytes are no text in UTF-8.
    """
    return decode_text(read_bytes(path, most, fix=fix), path, fix=fix)


def decode_text(data: bytes, where: str | os.PathLike[str], *, fix: str = "Save it as UTF-8.") -> str:
    """Bytes as UTF-8; raises `StudioError` that names the first byte that is not, or the encoding that it is."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise unreadable(where, "is text in UTF-16", fix=fix)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise unreadable(where, f"is not text in UTF-8 (byte {error.start:,})", fix=fix) from error


@contextlib.contextmanager
def decoding(where: str | os.PathLike[str], what: str, *, fix: str = _AGAIN) -> Iterator[None]:
    """A block that hands a file's bytes to somebody else's decoder; whatever that raises becomes `StudioError`.

    Decoders document a few types and raise whatever their parsing trips over. Only calls to them belong in the block,
    for a fault of the studio's own would be taken for one of the file. Running out of memory is passed on: the block
    has to be entered with a header that has been checked.
    """
    try:
        yield
    except (StudioError, MemoryError):
        raise
    except Exception as error:
        raise unreadable(where, f"{what} ({_reason(error)})", fix=fix) from error


def _require_regular(path: str | os.PathLike[str], mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise unreadable(path, "is a folder, not a file", fix="Name a file.")
    kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise unreadable(path, f"is {kind}, not a file", fix="Save what it gives to a file, and name that.")


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    lines = str(text).split("\n")
    return show_path(lines[0]).rstrip(".") if lines[0] else type(error).__name__


def list_folder(path: Path) -> list[Path]:
    """What lies directly in a folder, by name; raises `StudioError` where it cannot be looked into."""
    try:
        return sorted(path.iterdir())
    except (OSError, ValueError) as error:
        raise unreadable(path, f"cannot be looked into ({_reason(error)})", fix="Check the folder.") from error
