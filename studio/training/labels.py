"""What a checkpoint says about itself in its header: read without torch, and without reading the tensors."""

from __future__ import annotations

import json
from pathlib import Path

from studio.errors import StudioError
from studio.reading.files import open_regular

_MOST = 64 * 2**20
"""Bytes of a header; one of a checkpoint holds a few kilobytes and the names of its tensors."""
ENDED = "ended"
"""Label of a checkpoint that `Plugin.finish_training` has settled: why training ended, 'finished' or 'budget'; empty in
one of the middle of a training."""


def read_labels(path: Path) -> dict[str, str]:
    """The labels of a checkpoint; empty where it has none or cannot be read."""
    try:
        with open_regular(path) as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= _MOST else {}
        labels = header.get("__metadata__", {})
        return {str(name): str(value) for name, value in labels.items()}
    except (StudioError, OSError, ValueError, AttributeError, RecursionError):
        return {}
