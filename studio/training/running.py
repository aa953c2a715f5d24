"""Whether a run is being trained right now: its process holds a lock on the run's figures, which ends with it."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import IO, Any

from studio.errors import StudioError
from studio.reading.files import open_regular

if sys.platform == "win32":
    fcntl: Any = None
else:
    import fcntl

_LATELY = 90.0
"""Seconds within which a training writes something, where there are no locks to ask."""


def mark_running(file: IO[Any]) -> None:
    """Hold a shared lock on an open file until it is closed or the process ends, however it ends."""
    if fcntl is not None:
        # File systems without locks exist; the run is then told by its age.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH)


def is_running(path: Path) -> bool:
    """Whether a process trains into this file; on systems without locks, whether it was written to lately."""
    if fcntl is None:
        return path.is_file() and time.time() - path.stat().st_mtime < _LATELY
    try:
        with open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, StudioError):
        return False
    return False
