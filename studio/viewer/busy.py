"""Telling a browser what the viewer is at while it waits: loading, drawing."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import viser

SAID_AFTER = 0.2
"""Seconds; what is done sooner is not worth a word, and everybody is told within 0.3 s."""


class Busy:
    """One line in the page of a browser, or of all, that is there while something takes long.

    Args:
        place: A client, or the server for all of its clients.
    """

    def __init__(self, place: viser.ClientHandle | viser.ViserServer) -> None:
        self._place = place
        self._guard = threading.Lock()
        self._shown: list[Any] = []
        self._work = 0
        self._title = self._detail = ""

    @contextlib.contextmanager
    def saying(self, title: str, detail: str = "") -> Iterator[None]:
        """While the block runs: what it does, shown if it takes longer than `SAID_AFTER`."""
        with self._guard:
            self._work += 1
            work = self._work
            self._title, self._detail = title, detail
        timer = threading.Timer(SAID_AFTER, self._show, (work,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._end()

    def _show(self, work: int) -> None:
        with self._guard:
            if work != self._work or not self._title:
                return
            with contextlib.suppress(Exception):  # the browser may be gone
                self._shown = [
                    client.add_notification(
                        self._title, self._detail, loading=True, with_close_button=False, auto_close_seconds=None
                    )
                    for client in self._clients()
                ]

    def _end(self) -> None:
        with self._guard:
            self._title = self._detail = ""
            shown, self._shown = self._shown, []
            for handle in shown:
                with contextlib.suppress(Exception):  # the browser may be gone
                    handle.remove()

    def _clients(self) -> list[Any]:
        clients = getattr(self._place, "get_clients", None)
        return list(clients().values()) if clients is not None else [self._place]
