"""Pictures of shape scenes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from studio.datasets.kernels.primitives import CONE, CUBE, CYLINDER, OBJECT, SPHERE, SUBSAMPLES, draw_scenes
from studio.datasets.shapes.scenes import MOST_OBJECTS, SIZE_OF, ShapeScene, scene_cameras

_NUMBER = {"sphere": SPHERE, "cube": CUBE, "cylinder": CYLINDER, "cone": CONE}
_LIGHT_ELEVATION = math.radians(48.0)
_SRGB = {
    "blue": (38, 78, 205),
    "cyan": (40, 190, 205),
    "green": (38, 135, 45),
    "orange": (232, 120, 22),
    "purple": (122, 50, 172),
    "red": (196, 32, 34),
    "white": (235, 235, 235),
    "yellow": (245, 212, 40),
}


def _linear(color: tuple[int, int, int]) -> list[float]:
    values = np.array(color) / 255.0
    return list(np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4))


_LINEAR = {name: _linear(color) for name, color in _SRGB.items()}


def render_scenes(scenes: Sequence[ShapeScene], size: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Draw scenes.

    Args:
        scenes: Any number.
        size: Side of the square pictures, pixels.

    Returns:
        sRGB pictures (b, size, size, 3), and the area (b, MOST_OBJECTS) that shows each object, in pixels.
    """
    b = len(scenes)
    objects = np.zeros((b, MOST_OBJECTS, OBJECT))
    counts = np.array([len(scene.objects) for scene in scenes], dtype=np.int64)
    lights = np.empty((b, 9))
    for i, scene in enumerate(scenes):
        for j, obj in enumerate(scene.objects):
            kind = obj.kind
            metal = float(kind.material == "metal")
            turn = (math.cos(obj.yaw), math.sin(obj.yaw))
            extent = SIZE_OF[str(kind.size)]
            objects[i, j] = (_NUMBER[kind.shape], obj.x, obj.y, extent, *turn, *_LINEAR[str(kind.color)], metal)
        # Seen from above, azimuths grow towards the viewer's left of the camera.
        around, up = scene.azimuth - scene.light_azimuth, _LIGHT_ELEVATION
        flat = math.cos(up)
        toward = (flat * math.cos(around), flat * math.sin(around), math.sin(up))
        across = (-math.sin(around), math.cos(around), 0.0)
        over = (-math.sin(up) * math.cos(around), -math.sin(up) * math.sin(around), flat)
        lights[i] = (*toward, *across, *over)
    cameras = scene_cameras(scenes, size)
    poses = np.ascontiguousarray(cameras.camera_to_world[:, :3].numpy())
    lenses = np.stack([cameras.fx.numpy(), cameras.cx.numpy(), cameras.cy.numpy()], axis=-1)
    pictures = np.empty((b, size, size, 3), np.uint8)
    seen = np.zeros((b, MOST_OBJECTS), np.int64)
    draw_scenes(objects, counts, lights, poses, np.ascontiguousarray(lenses), pictures, seen)
    return pictures, seen / SUBSAMPLES**2
