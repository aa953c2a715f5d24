"""What takes long is said in the page; what does not is not."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from studio.viewer import busy
from studio.viewer.busy import Busy


class Note:
    def __init__(self, page: Page, title: str, body: str) -> None:
        self.page, self.text = page, f"{title}: {body}"

    def remove(self) -> None:
        self.page.notes.remove(self)


class Page:
    """Stands in for a client."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.said = threading.Event()

    def add_notification(self, title: str, body: str, **options: Any) -> Note:
        assert options["loading"]
        self.notes.append(Note(self, title, body))
        self.said.set()
        return self.notes[-1]


class Server:
    def __init__(self, *pages: Page) -> None:
        self.pages = pages

    def get_clients(self) -> dict[int, Page]:
        return dict(enumerate(self.pages))


def test_it_is_said_in_time() -> None:
    assert busy.SAID_AFTER < 0.3


def test_what_takes_long_is_said_until_it_is_done() -> None:
    page = Page()
    with Busy(page).saying("Drawing", "64 x 48"):
        assert page.said.wait(20)
        assert [note.text for note in page.notes] == ["Drawing: 64 x 48"]
    assert page.notes == []


def test_it_goes_away_when_the_work_fails() -> None:
    page = Page()

    def fails() -> None:
        with Busy(page).saying("Drawing"):
            assert page.said.wait(20)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fails()
    assert page.notes == []


def test_short_work_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page()
    started: list[threading.Timer] = []
    timer = threading.Timer
    monkeypatch.setattr(busy.threading, "Timer", lambda *given: started.append(timer(*given)) or started[-1])
    monkeypatch.setattr(busy, "SAID_AFTER", 30.0)
    with Busy(page).saying("Drawing"):
        pass
    started[0].join(20)
    assert page.notes == []


def test_all_browsers_of_a_server_are_told() -> None:
    pages = Page(), Page()
    with Busy(Server(*pages)).saying("Loading", "run"):
        assert all(page.said.wait(20) for page in pages)
    assert all(page.notes == [] for page in pages)
