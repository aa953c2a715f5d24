"""studio data process: what it prints and refuses; finding poses itself is tested beside the engine."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import studio.reconstruction
from studio.reconstruction import PhotoResult, ProcessOptions, ProcessReport


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Puts a finished report in place of the work, and keeps what was asked for."""
    kept: dict[str, Any] = {}

    def process(source: Path, output: Path, options: ProcessOptions, watch: Any) -> ProcessReport:
        kept.update(source=source, output=output, options=options)
        photos = (
            PhotoResult("a.jpg", True, 900, 2, 300),
            PhotoResult("b [1].jpg", False, 12, 0, 0, "few features: 12 found; it is blurred, dark, or bare"),
        )
        return ProcessReport(
            str(source), "video", photos, ("4x3",), (1,), 1234, 0.456, 3, 2, 777, {}, ("2 cameras are told apart",)
        )

    monkeypatch.setattr(studio.reconstruction, "process", process)
    return kept


def test_report_is_printed(studio: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    scene = tmp_path / "my scene"
    done = studio("data", "process", "walk.mp4", "--output", scene, "--frames", "12", "--matching", "sequential")
    assert done.code == 0
    assert done.out.strip().strip("'").endswith("my scene")
    assert "1 of 2 photos of 777 frames have poses; 1,234 points, 0.46 pixels mean reprojection error" in done.err
    assert "note: 2 cameras are told apart" in done.err
    assert "no pose: b [1].jpg: few features: 12 found; it is blurred, dark, or bare" in done.err
    assert "next: studio train splat" in done.err
    assert asked["options"] == ProcessOptions(frames=12, matching="sequential")
    assert asked["source"] == Path("walk.mp4")


def test_report_as_json(studio: Any, asked: dict[str, Any], tmp_path: Path) -> None:
    done = studio("data", "process", "walk.mp4", "--output", tmp_path / "scene", "--json", "--quality", "high")
    report = json.loads(done.out)
    assert [photo["registered"] for photo in report["photos"]] == [True, False]
    assert asked["options"].quality == "high"


def test_bad_requests(studio: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = tmp_path / "scene"
    assert "studio data process PHOTOS|VIDEO --output SCENE" in studio("data", "--help").out
    assert studio("data", "process", tmp_path).code == 2
    assert studio("data", "process", tmp_path, "--output", scene, "--frames", "0").code == 2
    done = studio("data", "process", tmp_path / "absent", "--output", scene)
    assert done.code == 2
    assert "there is no such file or folder. Name a folder of photos, or a video." in done.err
    for number in range(3):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    # Without the extra the command to install it is named.
    genuine = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pycolmap":
            raise ImportError("No module named 'pycolmap'")
        return genuine(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "pycolmap", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    done = studio("data", "process", tmp_path, "--output", scene.parent.parent / f"{scene.parent.name}-scene")
    assert done.code == 2
    assert "pip install 'neural-studio[sfm]'" in done.err
