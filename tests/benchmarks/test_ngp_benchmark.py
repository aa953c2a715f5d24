"""The benchmark of the hash-grid field, on a few tiny photos."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_quality_and_speed_are_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_scene: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    harness = importlib.import_module("harness")
    # How fast the machine is costs a second to find out, and does not matter here.
    monkeypatch.setattr(harness, "matmul_gflops", lambda: 1.0)
    benchmark = importlib.import_module("ngp_lego")
    monkeypatch.setattr(benchmark, "train", _small(benchmark.train))
    results = tmp_path / "results"
    options = ["--minutes", "--tabletop-minutes", "0.02", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", ["ngp_lego.py", *options])
    monkeypatch.setattr(benchmark, "SCENES", tiny_scene.parent)
    tiny_scene.rename(tiny_scene.parent / "tabletop")
    benchmark.main()
    (row,) = json.loads((results / "ngp_lego.json").read_text())["rows"]
    assert row["scene"] == "tabletop"
    assert row["steps"] > 0
    assert row["rays_a_second"] > 0
    assert row["test_photos"] == len(row["photos"]) > 0
    assert row["worst_psnr"] <= row["psnr"]
    assert (results / "ngp_tabletop_views.jpg").stat().st_size > 1000


def _small(train):  # type: ignore[no-untyped-def]
    """The same training with the small model of the plugin's own check."""
    from studio_nerf.ngp.config import NgpConfig

    return lambda *arguments, **options: train(*arguments, **{**NgpConfig.CHECK, "steps": 30, **options})
