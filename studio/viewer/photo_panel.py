"""The photos as camera frusta: a click flies there and compares photo and render."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import torch
import viser

from studio.cameras.poses import matrix_to_quaternion
from studio.errors import StudioError
from studio.scene import Frame, PhotoStore
from studio.scene.resample import resize_area
from studio.viewer.compare import Comparison
from studio.viewer.controls import put

if TYPE_CHECKING:
    from studio.viewer.stage import Stage

_MOST_PICTURES = 400
"""Frusta beyond this many carry no picture: a page with thousands of them crawls."""
_PICTURE_SIDE = 96
_COLORS = {"train": (70, 130, 220), "val": (60, 170, 90), "test": (230, 140, 40)}
_FRUSTUM_SIZE = 0.07
"""Of a frustum, in sizes of the scene, where the photos stand far apart."""
_FRUSTUM_SHARE = 0.4
"""Of the distance to the next camera: nearer ones must not cover each other and the scene."""


class PhotoPanel:
    """Frusta of all photos, and the comparison of one with its render."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        photos = stage.subject.photos
        assert photos is not None
        self._photos: PhotoStore = photos
        self._frames = photos.frames
        self._handles: list[viser.CameraFrustumHandle] = []
        self._closing = threading.Event()
        gui = stage.server.gui
        counts = {s: sum(f.split == s for f in self._frames) for s in _COLORS}
        shown = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
        gui.add_markdown(f"{len(self._frames)} photos: {shown}. A click on one flies there.")
        live_render = stage.drawer is not None
        self._visible = gui.add_checkbox("Show cameras", not live_render)
        self._size = gui.add_slider("Size", 0.1, 4.0, 0.1, 1.0)
        names = tuple(frame.name for frame in self._frames)
        self._name = gui.add_dropdown("Photo", names)
        buttons = gui.add_button_group("Go", ("previous", "fly there", "next"))
        self._share = gui.add_slider(
            "Photo | render",
            0.0,
            1.0,
            0.01,
            0.5,
            visible=live_render,
            hint="Compare at a photo: how much of it to show",
        )
        self._facts = gui.add_markdown("")
        self._visible.on_update(lambda event: self._show_frusta())
        self._size.on_update(lambda event: self._show_frusta())
        buttons.on_click(self._go)
        self._share.on_update(lambda event: self._compare_again())
        self._add_frusta()

    def _add_frusta(self) -> None:
        scene = self._stage.server.scene
        self._scale = frustum_scale(self._photos, self._stage.subject.size)
        scale = self._scale
        for index, frame in enumerate(self._frames):
            camera = self._photos.camera(index)
            width, height = camera.size
            pose = camera.camera_to_world.double()
            handle = scene.add_camera_frustum(
                f"/photos/{index:05d}",
                fov=2 * float(torch.atan(height / 2 / camera.fy)),
                aspect=width / height,
                scale=scale,
                thickness=1.5,
                thickness_units="screen",
                color=_COLORS.get(frame.split, (120, 120, 120)),
                wxyz=matrix_to_quaternion(pose[:3, :3]).numpy(),
                position=pose[:3, 3].numpy(),
                visible=self._visible.value,
                cast_shadow=False,
                receive_shadow=False,
            )
            handle.on_click(lambda event, index=index: self.fly(event.client, index))  # type: ignore[misc]
            self._handles.append(handle)
        self._thread = threading.Thread(target=self._add_pictures, name="viewer-photos", daemon=True)
        self._thread.start()

    def _add_pictures(self) -> None:
        for index, handle in enumerate(self._handles[:_MOST_PICTURES]):
            if self._closing.is_set():
                return
            try:
                photo = self._photos[index]
            except StudioError:
                # Runs are viewed without their photos, too.
                continue
            width, height = photo.size
            factor = min(_PICTURE_SIDE / max(width, height), 1.0)
            size = (max(round(width * factor), 1), max(round(height * factor), 1))
            picture = (photo.composited(self._stage.subject.background) * 255).round().to(torch.uint8)
            if not self._closing.is_set():
                handle.image = resize_area(picture, size).numpy()

    def _show_frusta(self) -> None:
        scale = self._scale * float(self._size.value)
        with self._stage.server.atomic():
            for handle in self._handles:
                handle.visible = self._visible.value
                handle.scale = scale

    def _go(self, event: viser.GuiEvent) -> None:
        index = [frame.name for frame in self._frames].index(self._name.value)
        step = {"previous": -1, "next": 1}.get(event.target.value, 0)
        self.fly(event.client, (index + step) % len(self._frames))

    def fly(self, client: viser.ClientHandle | None, index: int) -> None:
        """Put a browser's camera where a photo was taken, and compare there."""
        session = self._stage.session_of(client)
        if session is None or session.view is None:
            return
        frame: Frame = self._frames[index]
        put(self._name, frame.name)
        try:
            photo = self._photos[index]
        except StudioError as error:
            session.client.add_notification("This photo cannot be shown", str(error), color="yellow")
            return
        camera = self._photos.camera(index)
        if camera.model != "pinhole":
            session.client.add_notification(
                "No flight", f"A {camera.model} camera has no perspective view.", color="yellow"
            )
            return
        comparison = Comparison(photo, camera, lambda: float(self._share.value), self._stage.subject.size)
        view = comparison.view(session.view.size)
        session.compare_with(comparison)
        width, height = photo.size
        self._facts.content = f"`{frame.name}` ({frame.split}), {width} x {height}"
        target = session.client.camera
        with session.client.atomic():
            target.position = tuple(view.position)
            target.wxyz = tuple(view.wxyz)
            target.fov = view.fov
        session.refresh()

    def _compare_again(self) -> None:
        for session in self._stage.sessions():
            if session.comparison is not None:
                session.refresh()

    def close(self) -> None:
        """Stop decoding."""
        self._closing.set()
        self._photos.close()


def frustum_scale(photos: PhotoStore, size: float) -> float:
    """How long frusta are at first, scene units: a share of the middle distance between neighbouring cameras."""
    count = len(photos.frames)
    # Of a video every frame is a neighbour; some hundreds tell the distance as well as all.
    chosen = range(0, count, max(count // _MOST_PICTURES, 1))
    places = torch.stack([photos.camera(index).origins.double() for index in chosen])
    if len(places) < 2:
        return _FRUSTUM_SIZE * size
    apart = torch.cdist(places, places).fill_diagonal_(float("inf")).amin(dim=1)
    middle = float(apart.median())
    return min(_FRUSTUM_SIZE * size, _FRUSTUM_SHARE * middle) if middle > 0 else _FRUSTUM_SIZE * size
