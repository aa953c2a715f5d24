"""The newest item wins, and closing wakes whoever waits."""

from __future__ import annotations

import threading

from studio.viewer.mailbox import Mailbox


def test_the_newest_item_replaces_the_others() -> None:
    box: Mailbox[int] = Mailbox()
    for number in range(5):
        box.put(number)
    assert box.waiting
    assert box.take() == 4
    assert not box.waiting
    assert box.take(timeout=0.01) is None


def test_waiting_removes_nothing() -> None:
    box: Mailbox[str] = Mailbox()
    assert not box.wait(0.01)
    box.put("a")
    assert box.wait(10)
    assert box.take() == "a"


def test_a_reader_wakes_for_an_item_and_for_the_end() -> None:
    box: Mailbox[int] = Mailbox()
    got: list[int | None] = []

    def read() -> None:
        while (item := box.take()) is not None:
            got.append(item)
        got.append(None)

    reader = threading.Thread(target=read)
    reader.start()
    box.put(1)
    while not got:
        box.wait(0.01)
    box.close()
    reader.join(10)
    assert not reader.is_alive()
    assert got == [1, None]
    box.put(2)
    assert box.take() is None
    assert box.closed
    assert box.waiting  # what a reader works on is out of date
