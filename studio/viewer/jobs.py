"""Long work in the background that a page starts: videos, exports."""

from __future__ import annotations

import threading
from collections.abc import Callable

from studio.errors import StudioError
from studio.viewer.turns import TurnsOver


class Cancelled(Exception):
    """The user stopped the work."""


class Job:
    """A piece of work with progress, which may be stopped."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ask it to end."""
        self._stopped.set()

    def check(self) -> None:
        """Called by the work now and then.

        Raises:
            Cancelled: It shall end.
        """
        if self._stopped.is_set():
            raise Cancelled


class Jobs:
    """Runs jobs in threads of their own."""

    def __init__(self) -> None:
        self._running: dict[Job, threading.Thread] = {}
        self._guard = threading.Lock()

    def start(
        self, work: Callable[[Job], None], *, failed: Callable[[str], None], ended: Callable[[], None] = lambda: None
    ) -> Job:
        """Run `work` in a thread.

        Args:
            work: Calls the job's `check` now and then.
            failed: Told what went wrong, in one line; not of a stop.
            ended: Called in any case, at the end.
        """
        job = Job()

        def run() -> None:
            try:
                work(job)
            except (Cancelled, TurnsOver):
                pass
            except StudioError as error:
                failed(str(error))
            except Exception as error:
                failed(f"{type(error).__name__}: {error}")
            finally:
                with self._guard:
                    self._running.pop(job, None)
                ended()

        thread = threading.Thread(target=run, name="viewer-job", daemon=True)
        with self._guard:
            self._running[job] = thread
        thread.start()
        return job

    def close(self, timeout: float = 10.0) -> None:
        """Stop all jobs and wait for them."""
        with self._guard:
            running = dict(self._running)
        for job in running:
            job.stop()
        for thread in running.values():
            if thread is not threading.current_thread():
                thread.join(timeout)
