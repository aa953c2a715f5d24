"""What an exporter of another package is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from studio.training.loaded import LoadedRun


@runtime_checkable
class Exporter(Protocol):
    """Writes a trained scene in a format of its own, for ``studio export RUN --format NAME``.

    A distribution adds one by an entry point ``name = "package.module:OBJECT"`` in the group ``studio.exporters``.
    """

    name: str
    """What users type after ``--format``; the name of the entry point."""
    summary: str
    """One line for `studio plugins` and ``--format list``."""
    ending: str
    """Of the files it writes, without the dot."""

    def export(self, run: LoadedRun, path: Path) -> None:
        """Write the scene to `path`, which lies in an existing folder and may exist.

        ``run.field`` is the trained plugin, on the CPU; ``run.cameras()`` are the training cameras and
        ``run.render(cameras)`` draws them. What is written belongs into the frame of the input cameras:
        ``run.scene.input_from_scene`` (4, 4) leads there. `studio.files.atomic_path` leaves nothing half-written.

        Raises:
            StudioError: A field of this kind cannot be written; the message says what it takes.
        """
