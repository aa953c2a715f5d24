"""Where a sheet lies on the canvas."""

from __future__ import annotations

import numpy as np
import pytest

from studio.viewer.sheet_canvas import beside_panel, placed


@pytest.mark.parametrize(
    ("size", "free"), [((1280, 800), (935, 800)), ((390, 844), (390, 390)), ((500, 300), (500, 300))]
)
def test_the_panel_does_not_cover_the_sheet(size: tuple[int, int], free: tuple[int, int]) -> None:
    canvas = beside_panel(np.full((10, 10, 3), 255, np.uint8), size, 1.0)
    assert canvas.shape == (size[1], size[0], 3)
    rows, columns = np.nonzero(canvas[..., 0] == 255)
    assert columns.max() < free[0]
    assert rows.max() < free[1]
    assert len(rows) == min(free) ** 2


@pytest.mark.parametrize(("size", "box"), [((100, 40), (30, 0, 70, 40)), ((40, 100), (0, 30, 40, 70))])
def test_a_sheet_is_in_the_middle_as_large_as_it_fits(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    sheet = np.full((10, 10, 3), 255, np.uint8)
    canvas = placed(sheet, size)
    assert canvas.shape == (size[1], size[0], 3)
    left, top, right, bottom = box
    inside = np.zeros(canvas.shape[:2], bool)
    inside[top:bottom, left:right] = True
    assert (canvas[inside] == 255).all()
    assert (canvas[~inside] < 60).all()


def test_zoom_shows_the_middle_with_sharp_pixels() -> None:
    sheet = np.zeros((4, 4, 3), np.uint8)
    sheet[1:3, 1:3] = 200
    sheet[1, 1] = 100
    canvas = placed(sheet, (40, 40), zoom=2.0)
    assert (canvas[:20, :20] == 100).all()
    assert (canvas[20:] == 200).all()
