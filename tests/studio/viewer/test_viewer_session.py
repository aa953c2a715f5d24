"""The thread behind a browser: newest view first, small while moving, and no noise when the browser leaves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from studio.errors import StudioError
from studio.viewer.drawing import Drawer, Look
from studio.viewer.session import Session, ShownPicture
from studio.viewer.subject import Subject
from studio.viewer.turns import LockedTurns

CANVAS = (240, 160)


class Browser:
    """Stands for viser's handle of a client: a camera that can be moved, and what was sent to it."""

    client_id = 3

    def __init__(self) -> None:
        self.camera = SimpleNamespace(
            wxyz=np.array([1.0, 0, 0, 0]), position=np.array([0.0, 0.0, -2.0]), fov=0.9,
            image_width=CANVAS[0], image_height=CANVAS[1], on_update=self._on_update,
        )  # fmt: skip
        self.scene = SimpleNamespace(set_background_image=self._show)
        self.pictures: list[np.ndarray | None] = []
        self.notes: list[str] = []
        self.gone = False
        self._callback: Callable[[Any], Any] | None = None

    def _on_update(self, callback: Callable[[Any], Any]) -> None:
        self._callback = callback

    def _show(self, picture: np.ndarray | None, **options: Any) -> None:
        assert not self.gone, "sent to a browser that has left"
        self.pictures.append(picture)

    def flush(self) -> None: ...

    def add_notification(self, title: str, text: str, **options: Any) -> None:
        self.notes.append(text)

    def move(self, x: float) -> None:
        self.camera.position = np.array([x, 0.0, -2.0])
        assert self._callback is not None
        asyncio.run(self._callback(self.camera))


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)


class SlowDrawer(Drawer):
    """A drawer whose pictures take as long as they are told to."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject, LockedTurns())
        self.hold = threading.Event()
        self.hold.set()
        self.started = threading.Event()
        self.drawn: list[tuple[tuple[int, int], float]] = []
        self.fault: Exception | None = None

    def draw(self, camera: Any, look: Look, **options: Any) -> torch.Tensor:
        self.started.set()
        self.hold.wait(20)
        if self.fault is not None:
            raise self.fault
        self.drawn.append((camera.size, float(camera.origins[0])))
        return super().draw(camera, look, **options)


@pytest.fixture
def drawer(balls: Subject) -> SlowDrawer:
    return SlowDrawer(balls)


def session_of(browser: Browser, drawer: Drawer | None, shown: list[ShownPicture] | None = None) -> Session:
    on_shown = (lambda s: None) if shown is None else shown.append
    return Session(browser, drawer, lambda: Look(), lambda: 1024, on_shown)  # type: ignore[arg-type]


def test_the_first_picture_and_the_full_one(drawer: SlowDrawer) -> None:
    browser, shown = Browser(), []
    session = session_of(browser, drawer, shown)
    session.start()
    wait_for(lambda: any(s.is_full for s in shown))
    assert shown[0].size[0] < CANVAS[0]
    assert shown[-1].size == CANVAS
    assert browser.pictures[-1] is not None
    assert browser.pictures[-1].shape == (CANVAS[1], CANVAS[0], 3)
    session.close()
    session.join()


def test_views_that_are_out_of_date_are_never_drawn(drawer: SlowDrawer) -> None:
    browser = Browser()
    session = session_of(browser, drawer)
    session.start()
    wait_for(lambda: bool(drawer.drawn) and drawer.drawn[-1][0] == CANVAS)
    drawer.hold.clear()
    drawer.started.clear()
    browser.move(0.1)
    drawer.started.wait(10)
    for x in (0.2, 0.3, 0.4):
        browser.move(x)
    drawer.drawn.clear()
    drawer.hold.set()
    wait_for(lambda: bool(drawer.drawn) and drawer.drawn[-1] == (CANVAS, pytest.approx(0.4)))
    assert {round(x, 3) for _, x in drawer.drawn} <= {0.1, 0.4}
    session.close()
    session.join()


def test_the_same_view_is_not_drawn_twice(drawer: SlowDrawer) -> None:
    browser = Browser()
    session = session_of(browser, drawer)
    session.start()
    wait_for(lambda: bool(drawer.drawn) and drawer.drawn[-1][0] == CANVAS)
    count = len(drawer.drawn)
    browser.move(0.0)
    assert not session._mailbox.waiting
    session.refresh()
    wait_for(lambda: len(drawer.drawn) == count + 1)
    session.close()
    session.join()


def test_a_browser_that_leaves_while_a_picture_is_drawn(drawer: SlowDrawer, capfd: pytest.CaptureFixture[str]) -> None:
    browser = Browser()
    session = session_of(browser, drawer)
    drawer.hold.clear()
    session.start()
    drawer.started.wait(10)
    session.close()
    browser.gone = True
    drawer.hold.set()
    session.join(10)
    assert not session._thread.is_alive()
    assert browser.pictures == []
    assert browser.notes == []
    assert capfd.readouterr().err == ""


def test_two_browsers_each_get_their_own_view(drawer: SlowDrawer) -> None:
    browsers = [Browser(), Browser()]
    sessions = [session_of(browser, drawer) for browser in browsers]
    for session in sessions:
        session.start()
    browsers[0].move(-0.5)
    browsers[1].move(0.5)
    wait_for(lambda: {(CANVAS, -0.5), (CANVAS, 0.5)} <= set(drawer.drawn))
    for session in sessions:
        wait_for(lambda session=session: not session._mailbox.waiting)  # type: ignore[misc]
    wait_for(lambda: all(b.pictures and b.pictures[-1].shape == (CANVAS[1], CANVAS[0], 3) for b in browsers))  # type: ignore[union-attr]
    assert not np.array_equal(browsers[0].pictures[-1], browsers[1].pictures[-1])  # type: ignore[arg-type]
    for session in sessions:
        session.close()
        session.join()


@pytest.mark.parametrize("fault", [StudioError("no memory"), RuntimeError("a plugin's fault")])
def test_what_goes_wrong_is_told_once_and_drawing_goes_on(drawer: SlowDrawer, fault: Exception) -> None:
    browser = Browser()
    drawer.fault = fault
    session = session_of(browser, drawer)
    session.start()
    wait_for(lambda: bool(browser.notes))
    browser.move(0.2)
    wait_for(lambda: not session._mailbox.waiting)
    drawer.fault = None
    browser.move(0.3)
    wait_for(lambda: bool(browser.pictures))
    assert len(browser.notes) == 1
    assert str(fault) in browser.notes[0]
    session.close()
    session.join()


def test_nothing_is_sent_while_the_browser_draws(drawer: SlowDrawer) -> None:
    browser = Browser()
    session = session_of(browser, drawer)
    session.start()
    wait_for(lambda: bool(browser.pictures))
    session.hidden = True
    session.refresh()
    wait_for(lambda: browser.pictures[-1] is None)
    count = len(browser.pictures)
    browser.move(0.7)
    wait_for(lambda: not session._mailbox.waiting)
    assert len(browser.pictures) == count
    session.close()
    session.join()


def test_views_of_another_size_keep_what_they_show(balls: Subject) -> None:
    browser = Browser()
    session = session_of(browser, None)
    session.start()
    view = session.view
    assert view is not None
    large, small = view.camera(), view.camera((120, 80))
    point = torch.tensor([0.2, -0.1, 0.5])
    torch.testing.assert_close(small.project(point)[0] * 2, large.project(point)[0])
    assert view.same_as(replace(view, wxyz=view.wxyz.copy()))
    assert not view.same_as(replace(view, fov=view.fov + 0.01))
    session.close()
    session.join()
