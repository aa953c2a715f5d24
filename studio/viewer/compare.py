"""A photo beside the render of its camera, parted by a line that a slider moves."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from studio.cameras import Cameras
from studio.cameras.poses import matrix_to_quaternion
from studio.export.pictures import to_uint8
from studio.scene import Photo
from studio.scene.resample import resize_area
from studio.viewer.drawing import Drawer, Look
from studio.viewer.session import View

_LINE = (255, 255, 255)
_MOVED = 1e-3
"""Share of the scene's size, and radians, from which on a camera is not at the photo any more."""


class Comparison:
    """A photo that a browser stands at.

    Args:
        photo: Decoded, at the size of training.
        camera: Its camera as the field takes it, single, of the photo's size.
        share: Gives the part of the width that shows the photo, 0 to 1.
        unit: A length that things in the scene go by.
    """

    def __init__(self, photo: Photo, camera: Cameras, share: Callable[[], float], unit: float) -> None:
        self.photo = photo
        self.camera = camera
        self._share = share
        self._unit = unit
        self._arrived = False
        self._kept: tuple[tuple[tuple[int, int], Look], NDArray[np.uint8], NDArray[np.uint8]] | None = None

    def view(self, canvas: tuple[int, int]) -> View:
        """Where the browser's camera must stand for its 3D objects to fit the photo, which is shown whole."""
        pose = self.camera.camera_to_world.double()
        width, height = self.camera.size
        tangent = height / 2 / float(self.camera.fy)
        # A canvas narrower than the photo shows it between two bars above and below.
        wider = (width / height) / (canvas[0] / canvas[1])
        fov = 2 * math.atan(tangent * max(wider, 1.0))
        return View(matrix_to_quaternion(pose[:3, :3]).numpy(), pose[:3, 3].numpy(), fov, canvas)

    def is_at(self, view: View) -> bool:
        """Whether a view is still the photo's."""
        own = self.view(view.size)
        moved = float(np.linalg.norm(np.asarray(view.position) - own.position))
        turned = 2 * math.acos(min(abs(float(np.dot(view.wxyz, own.wxyz))), 1.0))
        return moved < _MOVED * self._unit and turned < 10 * _MOVED

    def is_left(self, view: View) -> bool:
        """Whether the camera has been at the photo and is not any more; told of each view on the way."""
        if self.is_at(view):
            self._arrived = True
            return False
        return self._arrived

    def ready(self, size: tuple[int, int], look: Look) -> bool:
        """Whether only the line has moved since the last picture."""
        return self._kept is not None and self._kept[0] == (size, look)

    def picture(
        self,
        size: tuple[int, int],
        look: Look,
        drawer: Drawer | None,
        *,
        overtaken: Callable[[], bool] = lambda: False,
    ) -> NDArray[np.uint8]:
        """The canvas (h, w, 3): photo left of the line, render right of it; the photo alone without a drawer."""
        if not self.ready(size, look):
            inner = _fitted(self.camera.size, size)
            photo = _resized(self.photo.composited(look.background), inner)
            render = photo
            if drawer is not None:
                render = drawer.draw(self.camera.rescale(inner), look, overtaken=overtaken)
            behind = torch.tensor(look.background)
            left, right = (to_uint8(_centred(p, size, behind)) for p in (photo, render))
            self._kept = ((size, look), left, right)
        assert self._kept is not None
        _, left, right = self._kept
        return parted(left, right, self._share() if drawer is not None else 1.0)


def parted(left: NDArray[np.uint8], right: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """The left part of one picture beside the right part of another, with a line between.

    Args:
        left: (h, w, 3).
        right: Of the same shape.
        share: Of the width that shows `left`, 0 to 1; at either end there is no line.
    """
    width = left.shape[1]
    column = round(min(max(share, 0.0), 1.0) * width)
    picture = right.copy()
    picture[:, :column] = left[:, :column]
    if 0 < column < width:
        half = max(width // 600, 1)
        picture[:, max(column - half, 0) : column + half] = _LINE
    return picture


def _fitted(inner: tuple[int, int], outer: tuple[int, int]) -> tuple[int, int]:
    """The size of the aspect of `inner` that just fits into `outer`."""
    factor = min(outer[0] / inner[0], outer[1] / inner[1])
    return max(round(inner[0] * factor), 1), max(round(inner[1] * factor), 1)


def _resized(image: Float[Tensor, "h w 3"], size: tuple[int, int]) -> Float[Tensor, "h2 w2 3"]:
    if size[0] <= image.shape[1] and size[1] <= image.shape[0]:
        return resize_area((image * 255).round().to(torch.uint8), size).float() / 255
    larger = torch.nn.functional.interpolate(
        image.permute(2, 0, 1)[None], (size[1], size[0]), mode="bilinear", align_corners=False
    )
    return larger[0].permute(1, 2, 0)


def _centred(
    image: Float[Tensor, "h w 3"], size: tuple[int, int], behind: Float[Tensor, " 3"]
) -> Float[Tensor, "h2 w2 3"]:
    canvas = behind.expand(size[1], size[0], 3).clone()
    top, left = (size[1] - image.shape[0]) // 2, (size[0] - image.shape[1]) // 2
    canvas[top : top + image.shape[0], left : left + image.shape[1]] = image
    return canvas
