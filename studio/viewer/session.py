"""One browser: its camera, and the thread that draws what it looks at."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from studio.cameras import Cameras
from studio.cameras.poses import make_pose, quaternion_to_matrix
from studio.errors import StudioError
from studio.export.pictures import to_uint8
from studio.viewer.busy import Busy
from studio.viewer.drawing import Drawer, Look, Overtaken
from studio.viewer.mailbox import Mailbox
from studio.viewer.resolution import AdaptiveResolution, capped, scaled
from studio.viewer.turns import TurnsOver

if TYPE_CHECKING:
    import viser

    from studio.viewer.compare import Comparison

COVERED = ("/photos", "/path")
_STILL_SECONDS = 0.12
"""Without a new view for so long, the camera counts as still."""
_SLOW_SECONDS = 0.4
"""A full picture that takes longer is preceded by a smaller one."""
_MOVING_QUALITY, _STILL_QUALITY = 75, 92


@dataclass(frozen=True, eq=False)
class View:
    """A camera as a browser tells it, in the scene's frame."""

    wxyz: NDArray[np.float64]
    position: NDArray[np.float64]
    fov: float
    """Vertical, radians."""
    size: tuple[int, int]
    """Of the canvas, in pixels: width, height."""

    def camera(self, size: tuple[int, int] | None = None) -> Cameras:
        """The pinhole camera of a picture of this view, of the canvas's size or another of the same aspect."""
        width, height = size or self.size
        rotation = quaternion_to_matrix(torch.from_numpy(np.asarray(self.wxyz, dtype=np.float64)))
        pose = make_pose(rotation, torch.from_numpy(np.asarray(self.position, dtype=np.float64))).float()
        return Cameras.from_fov(pose, width=width, height=height, fov_y=min(max(self.fov, 1e-3), 3.1))

    def same_as(self, other: View | None) -> bool:
        return (
            other is not None
            and self.size == other.size
            and abs(self.fov - other.fov) < 1e-6
            and np.allclose(self.position, other.position, rtol=1e-6, atol=1e-9)
            and np.allclose(self.wxyz, other.wxyz, atol=1e-7)
        )


@dataclass(frozen=True, eq=False)
class Wanted:
    """One request for a picture; the newest counts."""

    view: View
    moving: bool
    """Whether the camera has just moved; else something about the picture changed."""


@dataclass(frozen=True)
class ShownPicture:
    """Facts about the picture that a browser sees, for the panel."""

    size: tuple[int, int]
    seconds: float
    is_full: bool


class Session:
    """Draws for one client until it leaves.

    Args:
        client: The browser.
        drawer: Draws; None for what has no renders, where only photos are compared.
        look: Gives what to show, asked before each picture.
        largest_side: Gives the most pixels of a side.
        on_shown: Told of each picture.
    """

    def __init__(
        self,
        client: viser.ClientHandle,
        drawer: Drawer | None,
        look: Callable[[], Look],
        largest_side: Callable[[], int],
        on_shown: Callable[[ShownPicture], None] = lambda shown: None,
    ) -> None:
        self.client = client
        self.comparison: Comparison | None = None
        """The photo that is compared with at the moment; set by `compare_with`."""
        self._cover: Any = None
        self.hidden = False
        """Whether the browser draws by itself, so that no picture is wanted."""
        self._drawer = drawer
        self._look = look
        self._largest_side = largest_side
        self._on_shown = on_shown
        self._mailbox: Mailbox[Wanted] = Mailbox()
        self._resolution = AdaptiveResolution()
        self._busy = Busy(client)
        self._last_error = ""
        self._empty = False
        self.view: View | None = None
        """The newest view; None until the browser told one."""
        self._thread = threading.Thread(target=self._work, name=f"viewer-{client.client_id}", daemon=True)

    def start(self) -> None:
        """Draw the present view, and follow the camera from now on."""
        camera = self.client.camera

        async def moved(handle: viser.CameraHandle) -> None:
            # Runs in the event loop, so it must do next to nothing.
            self._moved(_view_of(handle))

        camera.on_update(moved)
        self._thread.start()
        self._moved(_view_of(camera))

    def _moved(self, view: View) -> None:
        if view.same_as(self.view):
            return
        self.view = view
        if self.comparison is not None and self.comparison.is_left(view):
            self.compare_with(None)
        self._mailbox.put(Wanted(view, moving=True))

    def compare_with(self, comparison: Comparison | None) -> None:
        """Compare with a photo until the camera leaves its place, or stop comparing.

        Meanwhile the cameras and the path are hidden from this browser: it stands within one of them.
        """
        self.comparison = comparison
        cover, self._cover = self._cover, None
        if cover is not None:
            for handle in cover:
                handle.remove()
        if comparison is not None:
            # A node of one browser's own stands in for that of all, children included.
            scene = self.client.scene
            self._cover = [scene.add_frame(name, show_axes=False, visible=False) for name in COVERED]

    def refresh(self, *, moving: bool = False) -> None:
        """Draw the present view again: something about the picture changed."""
        if self.view is not None:
            self._mailbox.put(Wanted(self.view, moving=moving))

    def reset_timing(self) -> None:
        """Learn the speed of drawing anew, where something else is drawn from now on."""
        self._resolution.forget()

    def close(self) -> None:
        """Stop drawing; a picture that is being drawn is thrown away. Does not wait for it."""
        self._mailbox.close()

    def join(self, timeout: float = 5.0) -> None:
        """Wait for the thread to end, after `close`."""
        if self._thread.is_alive():
            self._thread.join(timeout)

    # ---- the thread ----------------------------------------------------------------------------------------------
    def _work(self) -> None:
        while (wanted := self._mailbox.take()) is not None:
            try:
                self._serve(wanted)
                self._last_error = ""
            except Overtaken:
                continue
            except TurnsOver:
                return
            except StudioError as error:
                self._tell(str(error))
            except Exception as error:
                # A fault of a plugin must not end the thread: the next view may be fine.
                if self._mailbox.closed:
                    return
                self._tell(f"{type(error).__name__}: {error}")

    def _tell(self, text: str) -> None:
        if text != self._last_error and not self._mailbox.closed:
            self._last_error = text
            self.client.add_notification("This picture could not be drawn", text, color="red", auto_close_seconds=12.0)

    def _serve(self, wanted: Wanted) -> None:
        if self.hidden and self.comparison is None:
            self._clear()
            return
        full = capped(wanted.view.size, self._largest_side())
        if self.comparison is not None:
            self._compare(wanted, full)
            return
        if self._drawer is None:
            self._clear()
            return
        moving_size = self._resolution.moving_size(full)
        if wanted.moving or not self._resolution.known:
            self._show(wanted.view, moving_size, is_full=moving_size == full)
            if self._mailbox.wait(_STILL_SECONDS):
                return
        if self._resolution.predict(full) > _SLOW_SECONDS:
            middle = scaled(full, 0.5)
            if middle[0] > moving_size[0]:
                self._show(wanted.view, middle, is_full=False)
                if self._mailbox.waiting:
                    return
        self._show(wanted.view, full, is_full=True)

    def _show(self, view: View, size: tuple[int, int], *, is_full: bool) -> None:
        assert self._drawer is not None
        started = time.perf_counter()
        with self._busy.saying("Drawing", f"{size[0]} x {size[1]}"):
            picture = self._drawer.draw(
                view.camera(size),
                self._look(),
                overtaken=lambda: self._mailbox.waiting,
                expected_seconds=self._resolution.predict(size) if is_full else 0.0,
                fresh_limits=is_full,
            )
        seconds = time.perf_counter() - started
        self._resolution.record(size, seconds)
        self._send(to_uint8(picture), _STILL_QUALITY if is_full else _MOVING_QUALITY)
        self._on_shown(ShownPicture(size, seconds, is_full))

    def _compare(self, wanted: Wanted, full: tuple[int, int]) -> None:
        comparison = self.comparison
        if comparison is None:
            return
        look = self._look()
        if not comparison.ready(full, look):
            small = scaled(full, 0.5)
            if self._resolution.predict(full) > _SLOW_SECONDS:
                self._send(comparison.picture(small, look, self._drawer), _MOVING_QUALITY)
        with self._busy.saying("Drawing", f"{full[0]} x {full[1]}, to compare"):
            picture = comparison.picture(full, look, self._drawer, overtaken=lambda: self._mailbox.waiting)
        self._send(picture, _STILL_QUALITY)

    def _clear(self) -> None:
        if not self._empty:
            self.client.scene.set_background_image(None)
            self._empty = True

    def _send(self, picture: NDArray[np.uint8], quality: int) -> None:
        if self._mailbox.closed:
            return
        self._empty = False
        self.client.scene.set_background_image(picture, format="jpeg", jpeg_quality=quality)
        # Messages are gathered for a sixtieth of a second otherwise.
        self.client.flush()


def _view_of(camera: viser.CameraHandle) -> View:
    width, height = max(camera.image_width, 1), max(camera.image_height, 1)
    return View(np.array(camera.wxyz), np.array(camera.position), float(camera.fov), (width, height))
