"""How large a picture may be while the camera moves: as large as can be drawn within a time that feels immediate."""

from __future__ import annotations

import math
import statistics
from collections import OrderedDict, deque

MOVING_SECONDS = 0.045
"""Time for a picture while the camera moves: with encoding and transport about 15 pictures a second."""
_SMALLEST_SIDE = 64
_STEPS = 16
"""Sizes go in so many steps of the full one, so that they do not change with every picture."""
_REMEMBERED, _SIZES = 5, 5
"""Times of each size, and sizes, that are remembered."""


class AdaptiveResolution:
    """Learns ``seconds = fixed + per_pixel * pixels`` from the pictures that were drawn.

    The fixed part matters: projecting a million Gaussians takes the same time for a stamp as for a poster, and whoever
    takes the time for proportional to the pixels ends up at stamps.

    Args:
        target: Seconds for a picture while moving.
    """

    def __init__(self, target: float = MOVING_SECONDS) -> None:
        self.target = target
        # By number of pixels: a long series of one size must not push out what tells the two parts apart.
        self._seconds: OrderedDict[int, deque[float]] = OrderedDict()
        self._warm = False

    def record(self, size: tuple[int, int], seconds: float) -> None:
        """Tell how long a picture of ``(width, height)`` took. The first one is not believed: it also compiled kernels
        and filled caches."""
        if not self._warm:
            self._warm = True
            return
        pixels = size[0] * size[1]
        self._seconds.setdefault(pixels, deque(maxlen=_REMEMBERED)).append(seconds)
        self._seconds.move_to_end(pixels)
        while len(self._seconds) > _SIZES:
            self._seconds.popitem(last=False)

    def forget(self) -> None:
        """Begin anew, where something else is drawn from now on."""
        self._seconds.clear()
        self._warm = False

    @property
    def known(self) -> bool:
        """Whether anything was recorded."""
        return bool(self._seconds)

    def predict(self, size: tuple[int, int]) -> float:
        """Seconds that a picture of a size will take; 0 while nothing is known."""
        fixed, per_pixel = self._fit()
        return fixed + per_pixel * size[0] * size[1]

    def moving_size(self, full: tuple[int, int]) -> tuple[int, int]:
        """Width and height for a picture while the camera moves, of the aspect of `full` and at most that large."""
        if not self.known:
            # Soon something is there.
            return scaled(full, 0.25)
        fixed, per_pixel = self._fit()
        left = max(self.target - fixed, 0.25 * self.target)
        factor = 1.0 if per_pixel <= 0 else math.sqrt(left / (per_pixel * full[0] * full[1]))
        return scaled(full, min(max(math.floor(factor * _STEPS), 1) / _STEPS, 1.0))

    def _fit(self) -> tuple[float, float]:
        """Least squares, both parts kept at 0 or above."""
        samples = [(float(pixels), statistics.median(times)) for pixels, times in self._seconds.items()]
        if not samples:
            return 0.0, 0.0
        mean_pixels = sum(p for p, _ in samples) / len(samples)
        mean_seconds = sum(s for _, s in samples) / len(samples)
        spread = sum((p - mean_pixels) ** 2 for p, _ in samples)
        if spread < 1e-6 * mean_pixels**2:
            return 0.0, mean_seconds / mean_pixels
        slope = sum((p - mean_pixels) * (s - mean_seconds) for p, s in samples) / spread
        slope = min(max(slope, 0.0), mean_seconds / mean_pixels)
        return mean_seconds - slope * mean_pixels, slope


def scaled(full: tuple[int, int], factor: float) -> tuple[int, int]:
    """`full` times a factor of at most 1, no side below 64 pixels (or its own length, if that is less)."""
    least = min(_SMALLEST_SIDE / min(full), 1.0)
    factor = min(max(factor, least), 1.0)
    return max(round(full[0] * factor), 1), max(round(full[1] * factor), 1)


def capped(full: tuple[int, int], largest_side: int) -> tuple[int, int]:
    """`full`, reduced so that its larger side has at most so many pixels."""
    return scaled(full, min(largest_side / max(full), 1.0))
