"""studio runs, studio runs compare, studio runs rm."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from run_folders import write_run


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    evaluation = {"mean": {"psnr": 31.5}}
    return (
        write_run(tmp_path / "runs", preset="quick", evaluation=evaluation, sh_degree=3),
        write_run(tmp_path / "runs", "nerf", stamp="2026-11-02_080000", done=40, rays=64),
    )


@pytest.mark.parametrize("columns", ["70", "160"])
def test_the_list(studio: Any, two: tuple[Path, Path], columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    listed = studio("runs")
    assert listed.code == 0, listed.err
    for text in ("room/splat/2026-11-01_120000 (quick)", "finished", "PSNR 31.50", "(PSNR 24.00)", "40/100", "0:10"):
        assert text in listed.out
    assert listed.out.index("nerf") < listed.out.index("splat")
    best = studio("runs", "--sort", "psnr", "--filter", "psnr>20", "step>30").out
    assert best.index("splat") < best.index("nerf")
    assert "rays" in studio("runs", "runs", "--filter", "rays=64").out
    assert studio("runs", "--filter", "rays=64", "runs").out == studio("runs", "--filter", "rays=64").out
    assert "No run of 2 in runs passes." in studio("runs", "--filter", "psnr>90").out
    assert "No run in" in studio("runs", two[0] / "checkpoints").out


def test_the_list_as_json(studio: Any, two: tuple[Path, Path]) -> None:
    (run,) = studio("runs", "--json", "--filter", "status=finished").json
    assert (run["plugin"], run["metrics"], run["measured"]) == ("splat", {"psnr": 31.5}, "held out")
    assert Path(run["path"]) == two[0]
    assert (run["main_metric"], run["step"], run["settings"]["sh_degree"]) == ("psnr", 100, 3)


def test_bad_lists(studio: Any, two: tuple[Path, Path]) -> None:
    assert "there is no such folder" in studio("runs", "nowhere").err
    assert "is no comparison" in studio("runs", "--filter", "psnr").err
    assert "Did you mean 'psnr'" in studio("runs", "--sort", "psn").err


def test_side_by_side(studio: Any, two: tuple[Path, Path]) -> None:
    done = studio("runs", "compare", *two)
    assert done.code == 0, done.err
    for text in ("preset", "quick", "PSNR".lower(), "31.5", "2 settings that not all", "some of the training"):
        assert text in done.out
    assert studio("runs", "compare", *two, "--json").json["metrics"]["psnr"] == [31.5, 24.0]


def test_removal_asks_first(studio: Any, two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    refused = studio("runs", "rm", two[0])
    assert refused.code == 2
    assert "Give --yes" in refused.err
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert studio("runs", "rm", two[0]).code == 1
    assert two[0].is_dir()
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    done = studio("runs", "rm", two[0])
    assert (done.code, two[0].exists(), two[1].exists()) == (0, False, True)
    assert "deleted 1 run" in done.out
    assert "is no run folder, but holds 1" in studio("runs", "rm", "runs", "--yes").err
    assert studio("runs", "rm", two[1], "--yes").code == 0
    assert not two[1].exists()
