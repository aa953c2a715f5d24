"""At which size a scene's photos are trained on where nobody says so."""

from __future__ import annotations

from studio.scene import Scene
from studio.scene.resample import downscaled_size

LONGEST_SIDE = 1600
"""Pixels of the longer side of the largest photo, at most: phones take five times as many pixels as a screen shows."""


def automatic_downscale(scene: Scene) -> float:
    """What both sides of a scene's photos are divided by, at least 1, so that none is longer than `LONGEST_SIDE`."""
    longest = max(max(frame.camera.size) for frame in scene.frames)
    return max(longest / LONGEST_SIDE, 1.0)


def describe_reduction(scene: Scene, downscale: float) -> str | None:
    """What is told of photos that are reduced without having been asked to be; None where they are not."""
    if downscale <= 1:
        return None
    size = max((frame.camera.size for frame in scene.frames), key=max)
    width, height = downscaled_size(size, downscale)
    return f"photos of {size[0]}x{size[1]} are reduced to {width}x{height}; --downscale 1 keeps their size"
