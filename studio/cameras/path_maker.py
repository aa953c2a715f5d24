"""What a camera path of another package is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from studio.cameras.cameras import Cameras


@runtime_checkable
class PathMaker(Protocol):
    """Lays a camera path for ``studio render RUN --path NAME``.

    A distribution adds one by an entry point ``name = "package.module:OBJECT"`` in the group ``studio.camera_paths``.
    """

    name: str
    """What users type after ``--path``; the name of the entry point."""
    summary: str
    """One line for `studio plugins`."""

    def cameras(self, photos: Cameras, n: int, *, lens: Cameras) -> Cameras:
        """The frames of a video.

        Args:
            photos: The cameras of the training photos, a batch (m,), in the scene's frame.
            n: How many frames, at least 1.
            lens: A single camera with the intrinsics and size to render at; its pose means nothing.

        Returns:
            A batch (n,) in the scene's frame, of the size of `lens`; `studio.cameras.orbit` and `interpolate` make
            such ones.

        Raises:
            StudioError: These photos allow no such path.
        """
