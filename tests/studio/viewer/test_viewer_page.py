"""The viewer in a real browser: headless Chromium opens the page, moves, clicks, and looks at the canvas."""

from __future__ import annotations

import io
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from viewer_scenes import BACKGROUND, ball_cameras, ball_subject

from studio.cameras import read_camera_path
from studio.viewer.access import Access
from studio.viewer.app import Viewer
from studio.viewer.session import Session
from studio.viewer.stage import Stage
from studio.viewer.subject import Subject

CANVAS = (960, 540)
_FREE = (slice(170, 520), slice(10, 580))
"""Rows and columns of the canvas that neither the panel nor a note covers."""
PHOTO_GAIN = 0.7
_FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def wait_for(condition: Callable[[], Any], seconds: float = 40.0) -> Any:
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)
    return result


@dataclass
class Page:
    """A browser's page of a viewer, and what the viewer knows of it."""

    page: Any
    viewer: Viewer
    session: Session
    errors: list[str] = field(default_factory=list)

    @property
    def stage(self) -> Stage:
        assert self.viewer._stage is not None
        return self.viewer._stage

    def canvas(self) -> np.ndarray:
        """What the part of the canvas that no panel covers shows, float in [0, 1]."""
        shot = imageio.imread(io.BytesIO(self.page.screenshot()), extension=".png")
        return shot[_FREE][..., :3].astype(float) / 255

    def expected(self) -> np.ndarray:
        """The render of the browser's camera."""
        view, field = self.session.view, self.stage.subject.field
        assert view is not None
        assert field is not None
        # The viewer's thread may be drawing with the field.
        rgb = self.stage.turns.run(
            lambda: field.render(view.camera(), ("rgb",), background=torch.tensor(BACKGROUND))["rgb"]
        )
        return rgb[_FREE].numpy().astype(float)

    def shows(self, wanted: Callable[[np.ndarray], bool]) -> np.ndarray:
        """Wait for the canvas to be as wanted."""
        kept: list[np.ndarray] = []

        def looks_so() -> bool:
            kept[:] = [self.canvas()]
            return wanted(kept[0])

        try:
            wait_for(looks_so)
        except AssertionError:
            path = Path(tempfile.gettempdir()) / "viewer_page_failed.png"
            path.write_bytes(self.page.screenshot())
            raise AssertionError(f"the canvas never looked as wanted; see {path}") from None
        return kept[0]

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.square(a - b).mean() + 1e-12))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    path = os.environ.get("STUDIO_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium found: install it, or set STUDIO_CHROMIUM to its program")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(chromium: Any, viewer: Viewer) -> Iterator[Page]:
    stage = viewer._stage
    assert stage is not None
    before = set(map(id, stage.sessions()))
    page = chromium.new_page(viewport={"width": CANVAS[0], "height": CANVAS[1]}, accept_downloads=True)
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    # On slow machines the page would draw with fewer pixels.
    page.goto(f"{viewer.url}?fixedDpr=1")
    session = wait_for(lambda: next((s for s in stage.sessions() if id(s) not in before and s.view is not None), None))
    # viser warns of software rendering, above the canvas.
    page.get_by_text("Software WebGL rendering").wait_for(timeout=20_000)
    page.locator(".mantine-Notification-closeButton").first.click()
    yield Page(page, viewer, session, errors)
    page.close()


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Viewer]:
    viewer = Viewer(Access.make("127.0.0.1", None), 0)
    viewer.show(ball_subject(tmp_path_factory.mktemp("page"), photo_gain=PHOTO_GAIN))
    yield viewer
    viewer.close()


@pytest.fixture(scope="module")
def shared(chromium: Any, viewer: Viewer) -> Iterator[Page]:
    with opened(chromium, viewer) as page:
        yield page


@pytest.fixture
def page(shared: Page) -> Iterator[Page]:
    """The page, at the scene's first view."""
    first = shared.stage.subject.first_view()
    camera = shared.session.client.camera
    camera.position, camera.look_at = first.position.numpy(), first.target.numpy()
    camera.fov = first.fov
    shared.errors.clear()
    yield shared
    assert shared.errors == []


def test_the_canvas_shows_the_render(page: Page) -> None:
    shown = page.shows(lambda canvas: psnr(canvas, page.expected()) > 30)
    assert shown.std() > 0.1  # more than a background
    assert "balls" in page.page.content()


def test_dragging_moves_the_camera_and_the_picture_follows(page: Page) -> None:
    before = page.shows(lambda canvas: psnr(canvas, page.expected()) > 30)
    view = page.session.view
    page.page.mouse.move(200, 300)
    page.page.mouse.down()
    page.page.mouse.move(270, 320, steps=5)
    page.page.mouse.up()
    wait_for(lambda: page.session.view is not None and not page.session.view.same_as(view))
    after = page.shows(lambda canvas: psnr(canvas, page.expected()) > 30 and psnr(canvas, before) < 25)
    assert psnr(after, before) < 25


def test_the_field_of_view_slider_changes_the_picture(page: Page) -> None:
    before = page.shows(lambda canvas: psnr(canvas, page.expected()) > 30)
    page.tab("View")
    slider = page.page.get_by_role("slider").first
    slider.focus()
    slider.press("End")
    wait_for(lambda: page.session.view is not None and page.session.view.fov > 1.5)
    page.shows(lambda canvas: psnr(canvas, page.expected()) > 30 and psnr(canvas, before) < 25)


def test_outputs(page: Page) -> None:
    """Choosing opacity makes a grey picture, white where the balls are."""
    page.tab("View")
    page.page.get_by_label("Output").first.click()
    page.page.get_by_role("option", name="opacity").click()
    grey = page.shows(lambda canvas: float(np.ptp(canvas, axis=-1).max()) < 0.1 and canvas.max() > 0.95)
    assert grey.min() < 0.05
    page.page.get_by_label("Output").first.click()
    page.page.get_by_role("option", name="rgb").click()
    page.shows(lambda canvas: psnr(canvas, page.expected()) > 30)


def test_flying_to_a_photo_and_comparing(page: Page) -> None:
    page.tab("Photos")
    page.page.get_by_text("fly there", exact=True).click()
    wait_for(lambda: page.session.comparison is not None and page.session.view is not None
             and page.session.comparison.is_at(page.session.view))  # fmt: skip
    photo = ball_cameras()[0]
    assert page.session.view is not None
    np.testing.assert_allclose(page.session.view.position, photo.origins.numpy(), atol=1e-4)
    # Left of the line the photo, which is darker; right of it the render.
    line = CANVAS[0] // 2 - _FREE[1].start
    # The photo is narrower than the canvas.
    photo, render = slice(80, line - 5), slice(line + 5, None)

    def compares(canvas: np.ndarray) -> bool:
        whole = page.expected()
        return (
            psnr(canvas[:, photo], PHOTO_GAIN * whole[:, photo]) > 28
            and psnr(canvas[:, render], whole[:, render]) > 28
            and bool((canvas[200:300, line].mean(-1) > 0.8).all())
        )

    page.shows(compares)
    page.page.mouse.move(200, 300)
    page.page.mouse.down()
    page.page.mouse.move(260, 300, steps=4)
    page.page.mouse.up()
    wait_for(lambda: page.session.comparison is None)
    page.shows(lambda canvas: psnr(canvas, page.expected()) > 30)


def test_a_path_is_recorded_saved_and_rendered(page: Page, tmp_path: Path) -> None:
    panel, subject = page.stage.path_panel, page.stage.subject
    page.tab("Path")
    camera = page.session.client.camera
    for count, x in enumerate((-0.4, 0.4)):
        position = np.array([x, -2.0, 0.7])
        camera.position, camera.look_at = position, np.zeros(3)
        wait_for(lambda p=position: np.allclose(page.session.view.position, p, atol=1e-4))  # type: ignore[misc, union-attr]
        page.click("Add keyframe here")
        wait_for(lambda n=count + 1: len(panel.path) == n)  # type: ignore[misc]
    assert panel.path.seconds == 2.0
    with page.page.expect_download() as download:
        page.click("Save path")
    saved = tmp_path / "saved.json"
    download.value.save_as(saved)
    path = read_camera_path(saved)
    assert len(path.keyframes) == 2
    # The file is in the frame of the input: twice as large, and moved.
    np.testing.assert_allclose(path.cameras.origins[0].numpy(), [2 * -0.4 + 1, 2 * -2.0 + 2, 2 * 0.7 + 3], atol=1e-4)

    panel._fps.value, panel._size.value = 3, "512 x 512"
    page.click("Render video")
    folder = subject.folder
    assert folder is not None
    video = wait_for(lambda: next((folder / "renders").glob("path.mp4"), None))
    frames = imageio.imread(video)
    assert frames.shape == (6, 512, 512, 3)
    assert subject.field is not None
    first = panel.path.at([0.0], width=512, height=512)[0]
    field = subject.field
    rgb = page.stage.turns.run(
        lambda: field.render(first, ("rgb",), background=torch.tensor(BACKGROUND))["rgb"].numpy()
    )
    assert psnr(frames[0] / 255, rgb) > 28


def test_exports_reach_the_browser(page: Page, tmp_path: Path) -> None:
    from studio.export.splat_formats import read_gaussians

    page.tab("Export")
    page.click("Export")
    folder = page.stage.subject.folder
    assert folder is not None
    file = wait_for(lambda: next((folder / "exports").glob("balls.ply"), None))
    cloud, original = read_gaussians(file), page.stage.subject.gaussians()
    torch.testing.assert_close(cloud.means, 2 * original.means + torch.tensor([1.0, 2.0, 3.0]))
    page.page.get_by_text("balls.ply").first.wait_for(timeout=20_000)


def test_two_browsers_look_at_different_things(chromium: Any, page: Page) -> None:
    with opened(chromium, page.viewer) as other:
        other.session.client.camera.position = np.array([1.9, 0.3, 0.5])
        other.session.client.camera.look_at = np.zeros(3)
        wait_for(lambda: abs(other.session.view.position[0] - 1.9) < 1e-3)  # type: ignore[union-attr]
        other.shows(lambda canvas: psnr(canvas, other.expected()) > 30)
        page.shows(lambda canvas: psnr(canvas, page.expected()) > 30)
        assert psnr(page.expected(), other.expected()) < 25
        assert other.errors == []
        sessions = len(page.stage.sessions())
    wait_for(lambda: len(page.stage.sessions()) == sessions - 1)
    page.session.refresh()
    page.shows(lambda canvas: psnr(canvas, page.expected()) > 30)


def test_another_scene_in_the_same_page(page: Page, tmp_path: Path) -> None:
    shown = page.stage.subject
    other = Subject("the same balls", field=shown.field, cloud=shown.cloud, background=BACKGROUND)

    def show(subject: Subject) -> None:
        shown_stage = page.viewer.show(subject)
        session = wait_for(lambda: next((s for s in shown_stage.sessions() if s.view is not None), None))
        again = Page(page.page, page.viewer, session)
        again.shows(lambda canvas: psnr(canvas, again.expected()) > 30)
        page.session = session

    try:
        show(other)
        page.page.get_by_text("the same balls").wait_for(timeout=20_000)
    finally:
        # Whatever test comes next finds the page as the fixture made it.
        show(shown)
    assert page.stage.subject is shown


def test_the_port_of_a_viewer_is_free_again(tmp_path: Path) -> None:
    viewer = Viewer(Access.make("127.0.0.1", None), 0)
    port = viewer.server.get_port()
    viewer.close()
    viewer.close()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
