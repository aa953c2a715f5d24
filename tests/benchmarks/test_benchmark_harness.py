"""The benchmarks' common parts, and the generated photos of the memory benchmark, at a tiny size."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from studio.readers import load_scene
from studio.scene import PhotoStore

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("harness")
    # How fast the machine is costs a second to find out, and does not matter here.
    monkeypatch.setattr(module, "matmul_gflops", lambda: 1.0)
    return module


@pytest.fixture
def memory_benchmark(harness: ModuleType) -> ModuleType:
    return importlib.import_module("memory_2000_photos")


def test_measure_leaves_the_warm_up_out(harness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # Calls take 100 (warm-up), 1, 5 and 3 seconds on this clock.
    clock, durations = [0.0], iter([100.0, 1.0, 5.0, 3.0])
    monkeypatch.setattr(harness.time, "perf_counter", lambda: clock[0])

    def work() -> None:
        clock[0] += next(durations)

    timing = harness.measure(work, repetitions=3, warmup=1)
    assert timing.seconds == (1.0, 5.0, 3.0)
    assert (timing.median, timing.best) == (3.0, 1.0)
    assert timing.to_dict() == {"median": 3.0, "min": 1.0, "max": 5.0, "repetitions": 3}
    with pytest.raises(ValueError, match="repetitions"):
        harness.measure(work, repetitions=0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="where the kernel tells nothing the page size counts")
def test_peak_memory_sees_an_allocation_that_is_gone(harness: ModuleType) -> None:
    before = harness.peak_memory()
    ballast = np.ones(max(before, 64 << 20), dtype=np.uint8)  # more than anything that was freed before
    size = ballast.nbytes
    assert harness.peak_memory() >= size
    del ballast
    assert harness.peak_memory() >= size


def test_report_is_kept_row_by_row(harness: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = harness.Report(
        "trial", title="A trial", protocol="Counted by hand.", settings={"folder": tmp_path, "n": 2}, folder=tmp_path
    )
    report.add(name="first", psnr=31.25, curve=[1, 2])
    after_one = json.loads((tmp_path / "trial.json").read_text(encoding="utf-8"))
    assert after_one["rows"] == [{"name": "first", "psnr": 31.25, "curve": [1, 2]}]
    report.add(name="second", psnr=None, note="left out")
    document: dict[str, Any] = json.loads((tmp_path / "trial.json").read_text(encoding="utf-8"))
    assert document["settings"] == {"folder": str(tmp_path), "n": 2}
    assert document["protocol"] == "Counted by hand."
    assert document["machine"]["packages"]["torch"] == torch.__version__
    assert document["machine"]["physical_cores"] >= 1
    report.print()
    printed = capsys.readouterr().out
    assert "Counted by hand." in printed
    assert "31.25" in printed
    assert "curve" not in printed, "lists stay in the file"


def test_generated_photos_show_what_their_cameras_see(memory_benchmark: ModuleType, tmp_path: Path) -> None:
    width, height = 96, 64
    memory_benchmark._make_photos(tmp_path, 6, width, height)
    memory_benchmark._write_transforms(tmp_path, 6, width, height)
    scene = load_scene(tmp_path, normalize="none", eval_every=0)
    assert len(scene.split("train")) == 6
    texture = memory_benchmark._texture(1024).astype(float)
    for photo in PhotoStore(list(scene.split("train"))):
        # A flat 5 x 5 patch of each photo's middle, traced back through the camera that the file tells, has the colour
        # of the ground there; JPEG and the nearest texel leave a difference.
        pixels = torch.tensor([[width / 2 + x, height / 2 + y] for x in range(-2, 3) for y in range(-2, 3)]) + 0.5
        rays = photo.camera.rays(pixels)
        reach = -rays.origins[..., 2:] / rays.directions[..., 2:]
        ground = (rays.origins + reach * rays.directions)[..., :2]
        texel = torch.floor(ground * 256).long() % 1024
        expected = texture[texel[:, 1], texel[:, 0]].mean(axis=0)
        seen = photo.image[height // 2 - 2 : height // 2 + 3, width // 2 - 2 : width // 2 + 3].float().mean(dim=(0, 1))
        assert np.abs(expected - seen.numpy()).max() < 12


def test_a_command_is_timed_as_a_whole(harness: ModuleType, tmp_path: Path) -> None:
    done = harness.train_command("splat", tmp_path, tmp_path / "runs", "--help")
    assert done.folder == tmp_path / "runs"
    assert done.seconds > 0
    assert done.peak_memory > 1 << 20
    with pytest.raises(RuntimeError, match="exit code"):
        harness.train_command("no-such-plugin", tmp_path, tmp_path / "runs")


def test_fewer_photos_are_spread_over_the_same_path(memory_benchmark: ModuleType, tmp_path: Path) -> None:
    memory_benchmark._make_photos(tmp_path, 9, 32, 24)
    memory_benchmark._write_transforms(tmp_path, 3, 32, 24)
    names = [frame["file_path"] for frame in json.loads((tmp_path / "transforms.json").read_text())["frames"]]
    assert names == ["photos/00000.jpg", "photos/00003.jpg", "photos/00006.jpg"]


@pytest.mark.parametrize("name", ["lego_psnr", "captures", "real_scenes", "memory_2000_photos", "cli_latency"])
def test_scripts_are_described(name: str) -> None:
    source = (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
    compile(source, name, "exec")
    assert f"`{name}.py`" in (BENCHMARKS / "README.md").read_text(encoding="utf-8")
