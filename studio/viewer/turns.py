"""Whose turn it is: a model is used by one thread at a time, and while it trains only between two steps."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

_TRAINING_SHARE = 0.2
"""Most of the time that pictures may take from a training while somebody looks."""
_PAUSE_SLICE = 0.1


class Turns(Protocol):
    """Runs work on a model at a moment when nothing else uses it."""

    def run(self, work: Callable[[], T]) -> T:
        """Wait for a turn, run `work`, and return what it returns; what it raises is raised here.

        Raises:
            TurnsOver: There will be no more turns.
        """
        ...


class TurnsOver(Exception):
    """The viewer is closing."""


class LockedTurns:
    """Turns at a model that nothing trains: first come, first served."""

    def __init__(self) -> None:
        self._waiting: deque[threading.Event] = deque()
        self._guard = threading.Lock()
        self._over = False

    def run(self, work: Callable[[], T]) -> T:
        # A plain lock lets a thread that asks again at once overtake those that wait: a video being rendered would
        # starve the live pictures.
        turn = threading.Event()
        with self._guard:
            if self._over:
                raise TurnsOver
            self._waiting.append(turn)
            if len(self._waiting) == 1:
                turn.set()
        turn.wait()
        try:
            if self._over:
                raise TurnsOver
            return work()
        finally:
            with self._guard:
                self._waiting.popleft()
                if self._waiting:
                    self._waiting[0].set()

    def close(self) -> None:
        """No more turns; those that wait are told."""
        self._over = True


class TrainingTurns:
    """Turns at a model that a thread trains: that thread does the work itself, when `between_steps` is called.

    Args:
        share: Most of the training thread's time that goes into others' work; while paused, all of it may.
        around: Entered around each piece of work, so that it does not disturb the training.
    """

    def __init__(
        self,
        share: float = _TRAINING_SHARE,
        around: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        if not 0 < share < 1:
            raise ValueError(f"share must lie between 0 and 1, got {share}")
        self._share = share
        self._around = around
        self._changed = threading.Condition()
        self._asked: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._paused = False
        self._after: LockedTurns | None = None
        self._not_before = 0.0

    def run(self, work: Callable[[], T]) -> T:
        future: Future[T] = Future()
        with self._changed:
            after = self._after
            if after is None:
                self._asked.append((work, future))
                self._changed.notify_all()
        return future.result() if after is None else after.run(work)

    @property
    def paused(self) -> bool:
        return self._paused

    def pause(self, paused: bool) -> None:
        """Hold the training, or let it go on; takes effect after the step that runs."""
        with self._changed:
            self._paused = paused
            self._changed.notify_all()

    def between_steps(self, stopping: Callable[[], bool] = lambda: False) -> float:
        """Called by the training thread after every step: does what was asked for, and waits while paused.

        Args:
            stopping: Whether the training shall end, which ends a pause.

        Returns:
            Seconds of a pause, which were no training.
        """
        if not self._asked and not self._paused:
            return 0.0
        if self._asked and time.perf_counter() >= self._not_before:
            started = time.perf_counter()
            self._do_one()
            spent = time.perf_counter() - started
            self._not_before = time.perf_counter() + spent * (1 - self._share) / self._share
        began = time.perf_counter()
        held = False
        while self._paused and not stopping():
            held = True
            with self._changed:
                self._changed.wait_for(lambda: bool(self._asked) or not self._paused, _PAUSE_SLICE)
            self._do_one()
        return time.perf_counter() - began if held else 0.0

    def _do_one(self) -> None:
        with self._changed:
            if not self._asked:
                return
            work, future = self._asked.popleft()
            future.set_running_or_notify_cancel()
        try:
            with self._around():
                result = work()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def end_training(self) -> None:
        """The training thread leaves: from now on whoever asks works in a thread of its own, one at a time."""
        with self._changed:
            self._after = LockedTurns()
            left, self._asked = list(self._asked), deque()
            self._paused = False
            self._changed.notify_all()
        for work, future in left:
            future.set_running_or_notify_cancel()
            try:
                future.set_result(self._after.run(work))
            except BaseException as error:
                future.set_exception(error)

    def close(self) -> None:
        """No more turns."""
        with self._changed:
            left, self._asked = list(self._asked), deque()
            if self._after is None:
                self._after = LockedTurns()
            self._after.close()
        for _, future in left:
            future.set_exception(TurnsOver())
