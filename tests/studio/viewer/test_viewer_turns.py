"""One at a time, in order; and beside a training only between its steps, in its own thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from studio.viewer import turns as turns_module
from studio.viewer.turns import LockedTurns, TrainingTurns, TurnsOver


def test_nobody_works_at_the_same_time() -> None:
    turns = LockedTurns()
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.001)
        inside -= 1

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(turns.run, work) for _ in range(40)]:
            future.result(30)
    assert most == 1


def test_first_come_first_served() -> None:
    turns, order, started = LockedTurns(), [], threading.Event()
    release = threading.Event()
    first = threading.Thread(target=turns.run, args=(lambda: (started.set(), release.wait(10)),))
    first.start()
    started.wait(10)
    others = []
    for name in "abc":
        others.append(threading.Thread(target=turns.run, args=(lambda name=name: order.append(name),)))
        others[-1].start()
        while len(turns._waiting) < len(others) + 1:
            time.sleep(0.001)
    release.set()
    for thread in (first, *others):
        thread.join(10)
    assert order == ["a", "b", "c"]


def test_errors_and_the_end_reach_the_caller() -> None:
    turns = LockedTurns()
    with pytest.raises(ZeroDivisionError):
        turns.run(lambda: 1 // 0)
    assert turns.run(lambda: 7) == 7
    turns.close()
    with pytest.raises(TurnsOver):
        turns.run(lambda: 7)


def asking(turns: TrainingTurns, work: object) -> threading.Thread:
    """A thread that asks for a turn, which waits when this returns."""
    before = len(turns._asked)
    thread = threading.Thread(target=lambda: turns.run(work))  # type: ignore[arg-type]
    thread.start()
    while len(turns._asked) == before:
        time.sleep(0.001)
    return thread


def test_the_training_thread_does_the_work_between_steps() -> None:
    around: list[str] = []

    @contextmanager
    def watching() -> Iterator[None]:
        around.append("in")
        yield
        around.append("out")

    turns, where = TrainingTurns(around=watching), []
    asked = asking(turns, lambda: where.append(threading.current_thread()))
    assert where == []
    assert turns.between_steps() == 0.0
    asked.join(10)
    assert where == [threading.current_thread()]
    assert around == ["in", "out"]


def test_pictures_take_no_more_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(turns_module, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    turns, done = TrainingTurns(share=0.25), []

    def draw() -> None:
        clock[0] += 0.05
        done.append(1)

    threads = [asking(turns, draw) for _ in range(2)]
    turns.between_steps()
    assert len(done) == 1
    # 0.05 s of a quarter: the next turn is 0.15 s away.
    clock[0] += 0.149
    turns.between_steps()
    assert len(done) == 1
    clock[0] += 0.002
    turns.between_steps()
    assert len(done) == 2
    for thread in threads:
        thread.join(10)


def test_a_pause_holds_the_training_and_serves_all() -> None:
    turns, done = TrainingTurns(share=0.01), []
    turns.pause(True)
    threads = [asking(turns, lambda: done.append(1)) for _ in range(5)]

    def resume() -> None:
        while len(done) < 5:
            time.sleep(0.001)
        time.sleep(0.05)
        turns.pause(False)

    waker = threading.Thread(target=resume)
    waker.start()
    assert turns.between_steps() >= 0.05
    for thread in (*threads, waker):
        thread.join(10)
    assert not turns.paused


def test_an_interrupt_ends_a_pause() -> None:
    turns = TrainingTurns()
    turns.pause(True)
    assert turns.between_steps(stopping=lambda: True) == 0.0


def test_after_the_training_turns_go_on_without_it() -> None:
    turns, where = TrainingTurns(), []
    asked = asking(turns, lambda: where.append("late"))
    turns.end_training()
    asked.join(10)
    assert where == ["late"]
    assert turns.run(lambda: 3) == 3
    turns.close()
    with pytest.raises(TurnsOver):
        turns.run(lambda: 3)


def test_closing_tells_those_who_wait() -> None:
    turns, failed = TrainingTurns(), []

    def ask() -> None:
        try:
            turns.run(lambda: None)
        except TurnsOver:
            failed.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    while not turns._asked:
        time.sleep(0.001)
    turns.close()
    thread.join(10)
    assert failed == [True]


def test_work_that_fails_does_not_end_the_training() -> None:
    turns, seen = TrainingTurns(), []

    def ask() -> None:
        try:
            turns.run(lambda: 1 // 0)
        except ZeroDivisionError:
            seen.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    while not turns._asked:
        time.sleep(0.001)
    turns.between_steps()
    thread.join(10)
    assert seen == [True]
