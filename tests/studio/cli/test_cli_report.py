"""studio report: what stands on the page of a scene, of generators, of a run whose plugin or photos are gone."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headless_chromium import OpenPage, chromium
from PIL import Image
from run_folders import write_run

from studio.report.curves import CurvePanel, panels_of, show_number, svg_of
from studio.report.document import Document, Row, write_document


class Page(HTMLParser):
    """The texts of a page by element, and its pictures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.pictures: list[np.ndarray] = []
        self.captions: list[str] = []
        self._open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "polyline", "line"):
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")
        if tag == "img":
            values = dict(attrs)
            data = base64.b64decode(str(values["src"]).partition("base64,")[2])
            with Image.open(io.BytesIO(data)) as image:
                self.pictures.append(np.asarray(image.convert("RGB"), dtype=np.float64) / 255)
            self.captions.append(str(values["alt"]))

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data

    @property
    def all(self) -> str:
        return unescape(re.sub(r"<[^>]*>", " ", self.source))


def test_of_a_scene(studio: Any, ball_run: Path, tmp_path: Path) -> None:
    assert studio("eval", ball_run, "--lpips", "no").code == 0
    done = studio("report", ball_run, "--output", "x.html", "--photos", 2)
    assert done.code == 0, done.err
    assert done.out.strip() == "x.html"
    page = Page(Path("x.html"))
    assert page.texts["title"] == ["ring: ball"]
    assert page.texts["h2"] == ["Training", "Photos against renders", "Held-out figures", "Settings", "Environment"]
    assert len(page.pictures) == 6
    photo, render, error = page.pictures[:3]
    assert photo.shape == render.shape == error.shape == (16, 24, 3)
    # The scene is read again by the report: the photo is the one on disk.
    config = json.loads((ball_run / "eval.json").read_text())
    name = page.captions[0]
    assert name == config["photos"][0]["name"]
    psnr = config["photos"][0]["psnr"]
    assert page.captions[1] == f"render: PSNR {psnr:.2f} dB, SSIM {config['photos'][0]['ssim']:.3f}"
    # The error map is brightest where photo and render differ most.
    difference = np.abs(photo - render).mean(axis=-1)
    assert error.sum(axis=-1).flat[difference.argmax()] > error.sum(axis=-1).flat[difference.argmin()]
    assert f"{config['mean']['psnr']:.2f}" in page.texts["dd"]
    assert "radius" in page.texts["th"]
    assert {"python", "torch", "command"} <= set(page.texts["th"])
    assert page.source.count("<svg") >= 1


def test_of_a_scene_whose_photos_are_gone(studio: Any, ball_run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "copy"
    shutil.copytree(ball_run, moved)
    scene = json.loads((moved / "scene.json").read_text())
    (moved / "scene.json").write_text(json.dumps(scene).replace("ring", "gone"))
    (moved / "eval.json").unlink(missing_ok=True)
    done = studio("report", moved)
    assert done.code == 0, done.err
    assert "No new pictures" in done.err
    page = Page(moved / "report.html")
    assert "no longer there" in page.all
    assert page.pictures == []
    assert "Settings" in page.texts["h2"]


def test_of_generators(studio: Any, gauss_run: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from studio.training.start import TrainOptions, train

    assert studio("report", gauss_run, "--output", "points.html", "--seed", 3).code == 0
    page = Page(Path("points.html"))
    assert page.captions == ["2,000 samples, seed 3"]
    assert page.texts["h2"][:2] == ["Training", "Samples"]
    # Blue dots on white.
    assert (page.pictures[0].min(axis=-1) < 0.5).mean() > 0.01

    options = TrainOptions(output=tmp_path_factory.mktemp("pictures"), tensorboard=False)
    levels = np.arange(40, dtype=np.uint8) % 2
    np.savez(tmp_path / "levels.npz", x=200 * levels[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8), y=levels)
    run = train("toy-pixels", tmp_path / "levels.npz", options=options, steps=30)
    (run.path / "previews").mkdir(exist_ok=True)
    for step in (1, 2, 3):
        Image.new("RGB", (32, 16), (80 * step, 0, 0)).save(run.path / "previews" / f"step_{step:08d}.png")
    assert studio("report", run.path, "--output", "pictures.html").code == 0
    page = Page(Path("pictures.html"))
    assert page.captions[0] == "seed 0"
    # All of one class above all of the other, which is brighter by 200 of 255.
    rows = page.pictures[0].mean(axis=(1, 2))
    assert rows[-len(rows) // 3 :].mean() > rows[: len(rows) // 3].mean() + 0.3
    assert page.captions[1:] == [f"step {step:08d}" for step in (1, 2, 3)]
    (run.path / "timelapse.mp4").write_bytes(b"a film")
    assert studio("report", run.path, "--output", "none.html", "--no-samples").code == 0
    page = Page(Path("none.html"))
    assert "Samples" not in page.texts["h2"]
    assert "Film of the training" in page.texts["h2"]
    assert base64.b64encode(b"a film").decode() in page.source


def test_texts_are_escaped_and_a_missing_plugin_is_no_obstacle(studio: Any, tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    evaluation = {"photos": [{"name": evil, "psnr": "inf"}], "mean": {"psnr": 30.0}, "protocol": {evil: evil}}
    run = write_run(
        tmp_path, "gone", data=f"/photos/{evil.replace('/', '')}", preset=evil, evaluation=evaluation, note=evil
    )
    (run / "previews").mkdir()
    (run / "previews" / "step_00000001.txt").write_text(evil)
    (run / "metrics.jsonl").write_text("".join(json.dumps({"step": i, "seconds": i, evil: i}) + "\n" for i in range(3)))
    (run / "environment.json").write_text(json.dumps({evil: [evil], "packages": {evil: evil}}))
    done = studio("report", run)
    assert done.code == 0, done.err
    assert "No new pictures" in done.err
    page = Page(run / "report.html")
    assert "script" not in page.texts
    assert page.pictures == []
    assert page.texts["pre"] == [evil]
    with chromium() as browser:
        opened = OpenPage(browser, run / "report.html", 1100, 800, offline=True, color_scheme="dark")
        assert opened.page.locator("script, img").count() == 0
        dark = opened.picture()
        opened.page.emulate_media(color_scheme="light")
        light = opened.picture()
        assert opened.complaints == []
        assert opened.requests == []
        opened.close()
    assert dark[5, 5].max() < 0.2
    assert light[5, 5].min() > 0.9


def test_bad_requests(studio: Any, ball_run: Path) -> None:
    assert "a report is an .html file" in studio("report", ball_run, "--output", "x.pdf").err
    assert "there is no run here" in studio("report", ".").err


# ---- curves --------------------------------------------------------------------------------------------------------
def test_a_curve_goes_through_its_values() -> None:
    panel = CurvePanel("psnr", [0, 10, 20], [10.0, 20.0, 30.0])
    svg = svg_of(panel)
    raw = re.search(r'class="raw" points="([^"]*)"', svg)
    assert raw is not None
    points = np.array([[float(v) for v in pair.split(",")] for pair in raw[1].split()])
    # Left, middle and right; below, middle and above: y grows downwards.
    np.testing.assert_allclose(points[1], points[[0, 2]].mean(axis=0), atol=0.1)
    assert points[0, 0] < points[2, 0]
    assert points[0, 1] > points[2, 1]
    ticks = dict(
        zip(re.findall(r'class="tick"[^>]*>([^<]*)<', svg), re.findall(r'y="([\d.]+)">[^<]', svg)[2:], strict=False)
    )
    assert list(ticks) == ["10", "15", "20", "25", "30"]
    assert float(ticks["20"]) == pytest.approx(points[1, 1], abs=0.1)


def test_curves_of_wide_ranges_are_logarithmic_and_flat_ones_are_drawn() -> None:
    svg = svg_of(CurvePanel("loss", [0, 1, 2], [1.0, 0.01, 0.0001]))
    raw = re.search(r'class="raw" points="([^"]*)"', svg)
    assert raw is not None
    heights = [float(pair.split(",")[1]) for pair in raw[1].split()]
    assert heights[1] == pytest.approx((heights[0] + heights[2]) / 2, abs=0.1)
    for value in (0.0, 5.0, -3.0):
        assert "nan" not in svg_of(CurvePanel("flat", [0, 1], [value, value])).lower()


def test_which_figures_become_curves() -> None:
    rows = [
        {"step": i, "seconds": i, "psnr": 1.0, "loss": float("nan") if i == 1 else 0.5, "name": "x"} for i in range(3)
    ]
    assert [(panel.name, len(panel.values)) for panel in panels_of(rows)] == [("loss", 2), ("psnr", 3)]
    assert panels_of(rows[:1]) == []
    assert [show_number(v) for v in (0.0123, 25.4, 12_000, 1_500_000)] == ["0.0123", "25.4", "12k", "1.5M"]


def test_an_empty_document_is_a_page(tmp_path: Path) -> None:
    write_document(tmp_path / "x.html", Document("t", "s", tables=[("Table", "", ("a", "b"), [Row(("1", "2"), True)])]))
    page = Page(tmp_path / "x.html")
    assert page.texts["td"] == ["2"]
    assert page.texts["h1"] == ["t"]
