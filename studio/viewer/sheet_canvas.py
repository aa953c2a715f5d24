"""The canvas of a page without a scene: a sheet of samples, as large as it fits."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import viser
from numpy.typing import NDArray
from PIL import Image

_BEHIND = (20, 20, 20)
_PANEL, _WIDE = 345, 900
"""Width of the panel of controls, pixels, and the width of a canvas from which on it stands at the right."""


class SheetCanvas:
    """Shows one picture on the canvas of every browser, letterboxed, zoomed into its middle where that is asked for."""

    def __init__(self, server: viser.ViserServer) -> None:
        self._server = server
        self._sheet: NDArray[np.uint8] | None = None
        self._sizes: dict[int, tuple[int, int]] = {}
        self.zoom = 1.0
        for client in server.get_clients().values():
            self.arrived(client)

    def show(self, sheet: NDArray[np.uint8] | None = None) -> None:
        """Show another picture, (h, w, 3), or the present one anew."""
        if sheet is not None:
            self._sheet = sheet
        for client in self._server.get_clients().values():
            self._draw(client)

    def arrived(self, client: viser.ClientHandle) -> None:
        """Show it in a browser from now on, also when its window changes."""

        def moved(camera: viser.CameraHandle) -> None:
            if self._sizes.get(client.client_id) != _size_of(client):
                self._draw(client)

        client.camera.on_update(moved)
        self._draw(client)

    def png(self) -> bytes | None:
        """The whole picture as a file."""
        if self._sheet is None:
            return None
        file = io.BytesIO()
        Image.fromarray(self._sheet).save(file, "PNG")
        return file.getvalue()

    def _draw(self, client: viser.ClientHandle) -> None:
        if self._sheet is None:
            return
        size = _size_of(client)
        self._sizes[client.client_id] = size
        with contextlib.suppress(RuntimeError):  # the browser is gone
            client.scene.set_background_image(beside_panel(self._sheet, size, self.zoom), format="png")


def _size_of(client: Any) -> tuple[int, int]:
    return max(client.camera.image_width, 1), max(client.camera.image_height, 1)


def beside_panel(sheet: NDArray[np.uint8], size: tuple[int, int], zoom: float) -> NDArray[np.uint8]:
    """The canvas with the sheet where the panel does not cover it: left of it, or on a narrow screen above."""
    width, height = size
    free = (width - _PANEL, height) if width >= _WIDE else (width, min(height, width))
    canvas = np.full((height, width, 3), _BEHIND, dtype=np.uint8)
    canvas[: free[1], : free[0]] = placed(sheet, free, zoom)
    return canvas


def placed(sheet: NDArray[np.uint8], size: tuple[int, int], zoom: float = 1.0) -> NDArray[np.uint8]:
    """A picture in the middle of a canvas, (h, w, 3).

    Args:
        sheet: (h, w, 3).
        size: Width and height of the canvas, pixels.
        zoom: 1: all of it is seen, touching two sides; 2: half of its width and height.
    """
    width, height = size
    rows, columns = sheet.shape[:2]
    scale = zoom * min(width / columns, height / rows)
    # The part of the sheet that the canvas shows.
    seen_w, seen_h = min(columns, width / scale), min(rows, height / scale)
    box = ((columns - seen_w) / 2, (rows - seen_h) / 2, (columns + seen_w) / 2, (rows + seen_h) / 2)
    target = (max(round(seen_w * scale), 1), max(round(seen_h * scale), 1))
    # Large pixels stay pixels: who zooms into a 28x28 digit wants to see them.
    how = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BILINEAR
    part = Image.fromarray(sheet).resize(target, how, box=box)
    canvas = Image.new("RGB", (width, height), _BEHIND)
    canvas.paste(part, ((width - target[0]) // 2, (height - target[1]) // 2))
    return np.asarray(canvas)
