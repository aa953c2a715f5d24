"""A place for one item: what is put in replaces what was there, so that a slow reader always gets the newest."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """One writer or many, one reader; all methods return at once except `take` and `wait`."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._item: T | None = None
        self._closed = False

    def put(self, item: T) -> None:
        """Replace whatever waits; nothing happens after `close`."""
        with self._changed:
            if not self._closed:
                self._item = item
                self._changed.notify_all()

    def take(self, timeout: float | None = None) -> T | None:
        """The newest item, removed; None when the box was closed, or nothing came within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._item is not None, timeout)
            item, self._item = self._item, None
            return None if self._closed else item

    def wait(self, timeout: float) -> bool:
        """Whether something came (or the box was closed) within `timeout` seconds; nothing is removed."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or self._item is not None, timeout)

    @property
    def waiting(self) -> bool:
        """Whether an item waits, or the box is closed: in both cases what the reader works on is out of date."""
        return self._closed or self._item is not None

    def close(self) -> None:
        """Wake the reader for good."""
        with self._changed:
            self._closed = True
            self._item = None
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed
