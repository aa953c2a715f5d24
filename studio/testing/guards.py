"""Watching what a plugin does behind the engine's back: connections, and files outside of the run's folder."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.link": (1,),
    "os.symlink": (1,),
    "os.truncate": (0,),
}
"""Audit events that change files -> which of their arguments are the paths."""
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind")
_COMPILED = ("__pycache__", "neural-studio", ".triton", ".nv", "torch_extensions")
"""Folders of compiled code that any program may fill."""


@dataclass
class Watch:
    """What was seen while a watch was on."""

    allowed: tuple[Path, ...]
    """Folders that may be written to."""
    connections: list[str] = field(default_factory=list)
    """Addresses that were asked for; none of them was reached."""
    writes: list[str] = field(default_factory=list)
    """Files and folders made, changed or deleted elsewhere."""

    def saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take note of an audit event.

        Raises:
            ConnectionRefusedError: It is a connection to another machine.
        """
        if event in _NETWORK:
            address = _address(event, arguments)
            if address is not None:
                self.connections.append(address)
                raise ConnectionRefusedError(f"the conformance kit allows no network (asked for {address})")
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITING:
                self._note(path)
        elif event in _CHANGES:
            for place in _CHANGES[event]:
                self._note(arguments[place])

    def _note(self, path: Any) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # a file descriptor: seen when it was opened
        full = Path(os.path.abspath(os.fsdecode(path)))
        if full.is_relative_to("/dev") or full.is_relative_to("/proc"):
            return
        if any(full.is_relative_to(folder) for folder in self.allowed):
            return
        if any(part in _COMPILED or part.startswith("torchinductor_") for part in full.parts):
            return
        if str(full) not in self.writes:
            self.writes.append(str(full))


def _address(event: str, arguments: tuple[Any, ...]) -> str | None:
    """Where a connection leads; None for this machine itself."""
    target = arguments[1] if event in ("socket.connect", "socket.sendto", "socket.bind") else arguments[0]
    if event in ("socket.connect", "socket.sendto", "socket.bind") and not isinstance(target, tuple):
        return None  # a socket file
    host = target[0] if isinstance(target, tuple) else target
    host = os.fsdecode(host) if isinstance(host, bytes) else host
    if event == "socket.bind" and host in ("", "0.0.0.0", "::"):
        return f"{host or '*'} (listening)"
    local = host in (None, "", "localhost", "::1") or str(host).startswith("127.")
    return None if local else str(host)


_active: list[Watch] = []
_hooked = threading.Lock()
_installed = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _active and (event == "open" or event in _CHANGES or event in _NETWORK):
        for watch in tuple(_active):
            watch.saw(event, arguments)


@contextlib.contextmanager
def watching(scratch: Path) -> Iterator[Watch]:
    """Watch this process; its working folder and the place of temporary files lie in `scratch` meanwhile.

    The working folder is an empty one, so that a plugin which depends on the present one fails. Child processes, and
    files that compiled code opens by absolute paths, are not seen.
    """
    global _installed
    with _hooked:
        if not _installed:
            # An audit hook cannot be taken away again; it does nothing while no watch is on.
            sys.addaudithook(_hook)
            _installed = True
    working, temporary = scratch / "working", scratch / "temporary"
    working.mkdir()
    temporary.mkdir()
    watch = Watch((scratch / "runs", temporary))
    before, before_temporary, before_path = os.getcwd(), tempfile.tempdir, list(sys.path)
    # Modules that were found through the working folder must still be.
    sys.path[:] = [before if entry == "" else os.path.abspath(entry) for entry in sys.path]
    os.chdir(working)
    tempfile.tempdir = str(temporary)
    _active.append(watch)
    try:
        yield watch
    finally:
        _active.remove(watch)
        os.chdir(before)
        tempfile.tempdir = before_temporary
        sys.path[:] = before_path
        # What compiled code wrote by relative paths.
        known = [f for f in working.rglob("*") if str(f) not in watch.writes]
        watch.writes.extend(map(str, known))
