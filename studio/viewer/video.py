"""A video along a path, rendered in the background while the page goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from studio.cameras import Cameras
from studio.export.video import VideoWriter
from studio.viewer.drawing import Drawer, Look
from studio.viewer.jobs import Job


def render_video(
    drawer: Drawer,
    cameras: Cameras,
    look: Look,
    path: Path,
    *,
    fps: float,
    job: Job,
    advance: Callable[[float], None] = lambda share: None,
) -> None:
    """Render frame by frame, each in a turn of its own, so that live pictures come in between.

    Args:
        cameras: Shape (frames,), in the scene's frame.
        look: What the frames show; the range of a colour map is that of the first frame, throughout.
        path: *.mp4 or *.gif; appears when all of it is there.
        fps: Frames a second.
        job: Its `check` ends the work.
        advance: Told the share that is done, after each frame.

    Raises:
        Cancelled: The job was stopped; nothing is left behind.
        StudioError: A frame cannot be drawn, or the file not be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps=fps) as writer:
        for index, camera in enumerate(cameras):
            job.check()
            writer.write(drawer.draw(camera, look, fresh_limits=False))
            advance((index + 1) / len(cameras))
