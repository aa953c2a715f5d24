"""Does the reader understand its format?"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio.errors import StudioError
from studio.readers import ReadOptions
from studio.templates.reader import COLUMNS, FILE, READER
from studio.testing import check_reader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight photos from a circle in the plane z = 0, looking at its middle, +z up."""
    lines = [",".join(COLUMNS)]
    for i in range(8):
        angle = 2 * math.pi * i / 8
        Image.fromarray(np.full((12, 16, 3), 30 * i, np.uint8)).save(tmp_path / f"{i}.png")
        # A quarter turn about x puts the camera upright and lets it look along +y, another about z to the middle.
        turn = 0.5 * (angle + math.pi / 2)
        c, s, h = math.cos(turn), math.sin(turn), math.sqrt(0.5)
        numbers = (20.0, 3 * math.cos(angle), 3 * math.sin(angle), 0.0, c * h, c * h, s * h, s * h)
        lines.append(f"{i}.png," + ",".join(map(str, numbers)))
    (tmp_path / FILE).write_text("\n".join(lines) + "\n")
    return tmp_path


def test_conformance(folder: Path) -> None:
    check_reader(READER, folder).require()


def test_a_damaged_line_is_named(folder: Path) -> None:
    path = folder / FILE
    path.write_text(path.read_text().replace("3.png,20.0", "3.png,far"))
    with pytest.raises(StudioError, match=r"line 5: could not convert string to float: 'far'"):
        READER.read(folder, ReadOptions())
