"""What users are told while kernels are compiled: which part of how many."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compiling:
    """A moment of compiling.

    Attributes:
        done: Kernels compiled so far.
        total: Kernels known to be needed, at least `done`.
    """

    done: int
    total: int

    @property
    def finished(self) -> bool:
        """Whether all that is known to be needed is there."""
        return self.done >= self.total

    def __str__(self) -> str:
        if self.finished:
            return f"compiled {self.total} kernels for this processor; they are kept"
        return f"compiling kernels {self.done + 1}/{self.total} for this processor, once"


_lock = threading.RLock()
_done = 0
_total = 0
_told_log = False
_listeners: list[Callable[[Compiling], None]] = []


@contextlib.contextmanager
def compile_listener(listener: Callable[[Compiling], None]) -> Iterator[None]:
    """Within the block, call `listener` whenever a kernel is going to be compiled or has been; from any thread.

    Without any listener the first message goes to the log as a warning.
    """
    with _lock:
        _listeners.append(listener)
        if _done < _total:
            listener(Compiling(_done, _total))
    try:
        yield
    finally:
        with _lock:
            _listeners.remove(listener)


def expect(count: int) -> None:
    """Say that `count` more kernels are going to be compiled."""
    global _done, _total
    with _lock:
        if _done >= _total:
            _done = _total = 0
        _total += count
        _tell()


def finish(count: int = 1) -> None:
    """Say that `count` of them have been, or will not be."""
    global _done
    with _lock:
        _done += count
        _tell()


@contextlib.contextmanager
def announced(name: str) -> Iterator[None]:
    """Around compiling one kernel in this process."""
    _log.debug("compiling %s", name)
    expect(1)
    try:
        yield
    finally:
        finish()


def _tell() -> None:
    global _told_log
    now = Compiling(_done, _total)
    for listener in list(_listeners):
        listener(now)
    if not _listeners and not _told_log:
        _told_log = True
        _log.warning("compiling CPU kernels for this processor, once; this takes some seconds")
