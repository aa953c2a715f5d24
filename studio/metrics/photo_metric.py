"""What a metric of another package is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor


@runtime_checkable
class PhotoMetric(Protocol):
    """Compares a render with the photo of the same camera, for ``studio eval RUN --metrics NAME``.

    A distribution adds one by an entry point ``name = "package.module:OBJECT"`` in the group ``studio.metrics``. The
    figure of a scene is the mean over its photos.
    """

    name: str
    """What users type after ``--metrics``; the name of the entry point."""
    summary: str
    """One line for `studio plugins`: what it measures, in which unit, and which way is better."""

    def measure(
        self, render: Float[Tensor, "h w 3"], photo: Float[Tensor, "h w 3"], mask: Bool[Tensor, "h w"] | None
    ) -> float:
        """One figure.

        Args:
            render: sRGB in [0, 1], rounded to 8 bits as a saved picture is, on the CPU.
            photo: As `render`, composited on the same background.
            mask: True where the photo counts; None: everywhere.
        """
