"""Saved pictures come back, and layouts put every pixel where it belongs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from studio.errors import StudioError
from studio.export.colormaps import color_bar, colormap, comparison, value_range
from studio.export.pictures import caption, grid, save_picture, side_by_side, text_strip, to_uint8


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_png_is_exact(tmp_path: Path, shape: tuple[int, ...]) -> None:
    picture = torch.rand(shape) * 1.4 - 0.2
    save_picture(tmp_path / "x.png", picture)
    back = np.asarray(Image.open(tmp_path / "x.png"))
    expected = np.floor(np.clip(picture.numpy(), 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    np.testing.assert_array_equal(back, expected.squeeze(-1) if shape[2:] == (1,) else expected)
    assert os.listdir(tmp_path) == ["x.png"]


def test_jpeg_is_close_and_nan_is_black(tmp_path: Path) -> None:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 60), indexing="ij")
    picture = torch.stack([rows, columns, rows * columns], dim=-1)
    save_picture(tmp_path / "x.JPG", picture)
    back = np.asarray(Image.open(tmp_path / "x.JPG"), dtype=np.float32) / 255
    assert np.abs(back - picture.numpy()).max() < 0.03
    assert to_uint8(torch.tensor([[float("nan"), float("inf"), -1.0]])).tolist() == [[0, 255, 0]]


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match=r"x\.bmp"):
        save_picture(tmp_path / "x.bmp", torch.rand(2, 2, 3))
    with pytest.raises(StudioError, match="JPEG has no transparency"):
        save_picture(tmp_path / "x.jpg", torch.rand(2, 2, 4))
    with pytest.raises(ValueError, match=r"\(2, 2, 2\)"):
        save_picture(tmp_path / "x.png", torch.rand(2, 2, 2))
    with pytest.raises(ValueError, match=r"\(0, 2, 3\)"):
        save_picture(tmp_path / "x.png", torch.rand(0, 2, 3))


def test_captions_keep_the_picture_and_fit_any_width() -> None:
    picture = torch.rand(30, 90, 3)
    captioned = caption(picture, "grüße")
    assert torch.equal(captioned[-30:], picture)
    assert captioned[:-30].min() < 0.5
    for width in (4, 20, 200):
        strip = text_strip("a long caption that does not fit into twenty pixels", width, 14)
        assert strip.shape == (22, width, 3)
        assert torch.equal(strip[:, :1].round(), torch.ones(22, 1, 3)), "text touches the edge"


def test_accented_letters_have_their_own_shapes() -> None:
    shapes = {text_strip(letter, 40, 20).numpy().tobytes() for letter in "üßé−…"}
    assert len(shapes) == 5


def test_grid_places_every_cell() -> None:
    pictures = [torch.full((4, 6, 3), i / 10) for i in range(5)]
    sheet = grid(pictures, columns=2, gap=3)
    assert sheet.shape == (4 * 3 + 2 * 3, 6 * 2 + 3, 3)
    for i in range(5):
        top, left = (i // 2) * 7, (i % 2) * 9
        assert torch.equal(sheet[top : top + 4, left : left + 6], pictures[i])
    assert (sheet[4:7] == 1).all()
    assert (sheet[14:, 9:] == 1).all()


def test_grid_with_mixed_sizes_captions_and_reduction() -> None:
    wide = torch.zeros(10, 40, 3)
    wide[:, 20:] = 1.0
    sheet = grid([wide, torch.zeros(3, 3, 3)], columns=2, cell_width=20, gap=0)
    assert sheet.shape == (5, 40, 3)
    assert torch.equal(sheet[:, :20], torch.cat([torch.zeros(5, 10, 3), torch.ones(5, 10, 3)], dim=1))
    assert sheet[:, 20:].sum() == 5 * 20 * 3 - 27
    captioned = grid([wide, wide], captions=["a", "b"], columns=1)
    assert captioned.shape[0] > 20
    with pytest.raises(ValueError, match="captions"):
        grid([wide], captions=["a", "b"])
    with pytest.raises(ValueError, match="empty"):
        grid([])
    with pytest.raises(ValueError, match=r"\(H, W, 3\)"):
        side_by_side([torch.rand(3, 3)])


@pytest.mark.parametrize("name", ["turbo", "viridis", "gray", "Set1"])
def test_colours_equal_matplotlibs(name: str) -> None:
    import matplotlib

    values = torch.linspace(-1, 6, 141).view(3, 47)
    ours = colormap(values, name, (0.0, 5.0))
    expected = matplotlib.colormaps[name](np.clip(values.numpy() / np.float32(5), 0, 1))[..., :3]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-6)


def test_invalid_values_and_ranges() -> None:
    values = torch.tensor([[1.0, 2.0], [float("nan"), 100.0]])
    valid = torch.tensor([[True, True], [True, False]])
    colors = colormap(values, "gray", valid=valid, invalid_color=0.25)
    torch.testing.assert_close(colors[..., 0], torch.tensor([[0.0, 1.0], [0.25, 0.25]]))
    assert value_range(values, valid) == (1.0, 2.0)
    assert value_range(torch.arange(1001.0), percentiles=1) == (10.0, 990.0)
    low, high = value_range(torch.full((3, 3), 5.0))
    assert low < 5.0 < high
    assert value_range(torch.full((3,), float("nan"))) == (0.0, 1.0)
    with pytest.raises(StudioError, match=r"no colour map 'turbbo'.*turbo"):
        colormap(values, "turbbo")
    with pytest.raises(ValueError, match="limits"):
        colormap(values, limits=(1.0, 1.0))
    with pytest.raises(ValueError, match="values and valid"):
        colormap(values, valid=valid[0])


def test_legend_runs_from_low_to_high() -> None:
    values = torch.rand(120, 80)
    plain = colormap(values, "viridis", (0.0, 1.0))
    labelled = colormap(values, "viridis", (0.0, 1.0), label="depth (m)")
    assert torch.equal(labelled[:, :80], plain)
    bar = color_bar(120, "viridis", (0.0, 1.0), "depth (m)")
    assert torch.equal(labelled[:, -bar.shape[1] :], bar)
    column = bar[:, 2]
    ends = colormap(torch.tensor([[0.0, 1.0]]), "viridis", (0.0, 1.0))[0]
    inside = (column != 1).any(dim=-1).nonzero().flatten()
    torch.testing.assert_close(column[inside[0]], ends[1])
    torch.testing.assert_close(column[inside[-1]], ends[0])
    for height in (1, 5, 16):
        assert color_bar(height, "turbo", (-1e-3, 1e9), "x").shape[0] == height


def test_comparison_shows_photo_render_and_error() -> None:
    photo = torch.rand(200, 220, 3)
    render = (photo + 0.03).clamp(0, 1)
    render[:50] = 5.0
    mask = torch.ones(200, 220, dtype=torch.bool)
    mask[:50] = False
    picture = comparison(photo, render, mask=mask, error_limit=0.06, title="PSNR 30.00 dB")
    body = picture[-200:]
    torch.testing.assert_close(body[:, :220], photo)
    torch.testing.assert_close(body[:, 224:444], render.clamp(0, 1))
    error = body[:, 448:668]
    assert (error[:50] == 0).all()
    expected = colormap((photo - render.clamp(0, 1)).abs().mean(dim=-1), "inferno", (0.0, 0.06))
    torch.testing.assert_close(error[50:], expected[50:])
    small = comparison(photo[:20, :30], render[:20, :30])
    torch.testing.assert_close(small[-200:][::10, :300:10], photo[:20, :30])
    with pytest.raises(ValueError, match="photo and render"):
        comparison(photo, render[:-1])


def test_pyplot_is_never_imported() -> None:
    code = (
        "import sys, torch\nfrom studio.export.colormaps import colormap\n"
        "colormap(torch.rand(64, 64), label='x')\nassert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
