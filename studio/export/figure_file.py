"""Files of drawn figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from studio.errors import StudioError
from studio.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf", "svg")


def figure_format(path: str | os.PathLike[str], what: str) -> str:
    """The format of a figure by its file's ending; ask before drawing, which takes a while.

    Args:
        path: Where the figure shall go.
        what: Is drawn, such as 'a ray'.

    Raises:
        StudioError: Another ending than those of `FORMATS`.
    """
    ending = Path(path).suffix.lower().lstrip(".")
    if ending not in FORMATS:
        raise StudioError(f"{path}: {what} is drawn as .{', .'.join(FORMATS)}.", fix="Choose one of these endings.")
    return ending


def save_figure(figure: Figure, path: str | os.PathLike[str], ending: str, *, dots_per_inch: int = 130) -> None:
    """Write a figure in the format that `figure_format` said; folders are made, and nothing half-written stays."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # Without pyplot a figure belongs to nobody, so that it ends with its last reference.
    FigureCanvasAgg(figure)
    with atomic_write(path) as file:
        figure.savefig(file, format=ending, dpi=dots_per_inch)
