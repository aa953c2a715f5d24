"""Parts of the splat benchmark: counted operations against the compiled code, denser scenes, the peer's input."""

from __future__ import annotations

import importlib
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numba
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.kernels.vec import load8, store
from studio.scene import Photo
from studio_splat import reference
from studio_splat.kernels import blend, tile_gradients
from studio_splat.kernels.records import REST, SLOPE

Benchmark = Callable[[str], ModuleType]
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Benchmark:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def _operations(function: Any) -> int:
    """Float operations, one for each lane, in the compiled code of a function of (input, output)."""
    compiled = numba.njit("void(f4[::1], f4[::1])", error_model="numpy")(function)
    (code,) = compiled.inspect_llvm().values()
    # The wrappers for Python contain no vectors.
    single = re.findall(r"= (?:fadd|fsub|fmul|fdiv) <(\d+) x float>", code)
    fused = re.findall(r"call <(\d+) x float> @llvm\.fmuladd\.v", code)
    return sum(map(int, single)) + 2 * sum(map(int, fused))


def _rows(values: Any, out: Any) -> None:
    out[32] = blend.measure_rows(values, 0, np.float32(0.5), load8(values, 16), out, 0)


def _exponents(values: Any, out: Any) -> None:
    store(out, 0, blend.strip_exponent(values, 0, 0, values[40], blend.load_strip(values, 64)))


def _alphas(values: Any, out: Any) -> None:
    exponent = blend.load_strip(values, 0)
    store(out, 0, blend.alpha_of(exponent, blend.is_drawn(exponent)))


def _light(values: Any, out: Any) -> None:
    weight, after = blend.pass_light(blend.load_strip(values, 0), blend.load_strip(values, 64))
    store(out, 0, weight)
    store(out, 16, after)


def _light_gradient(values: Any, out: Any) -> None:
    alpha = blend.load_strip(values, 0)
    weight, g, light, rest = tile_gradients.strip_gradient(
        alpha,
        tile_gradients.odds_of(alpha),
        blend.load_strip(values, 16),
        blend.load_strip(values, 32),
        blend.load_strip(values, 48),
    )
    store(out, 0, weight)
    store(out, 16, g)
    store(out, 32, light)
    store(out, 48, rest)


def _moments(values: Any, out: Any) -> None:
    g = load8(values, 0)
    sums = tile_gradients.add_moments(load8(values, 8), load8(values, 16), load8(values, 24), g, values[32])
    store(out, 0, sums[0])
    store(out, 8, sums[1])
    store(out, 16, sums[2])


def test_counted_operations_are_those_of_the_compiled_code(benchmark: Benchmark) -> None:
    operations = benchmark("kernel_operations")
    assert _operations(_rows) == operations.EXECUTED_ROWS
    for function, expected in (
        (_exponents, operations.EXECUTED_EXPONENT),
        (_alphas, operations.ALPHA),
        (_light, operations.LIGHT),
        (_light_gradient, operations.LIGHT_GRADIENT),
    ):
        assert _operations(function) == blend.STRIP * expected
    assert _operations(_moments) == 8 * operations.EXECUTED_MOMENTS


def test_executed_operations_grow_with_the_rows_reached(benchmark: Benchmark) -> None:
    operations = benchmark("kernel_operations")
    # 4 + 13 + 3 + 2 a channel for each of the 8 pixels of three rows, and 80 once a splat looked at.
    assert operations.executed_forward(2, 3, 3) == 2 * 80 + 3 * 8 * 26
    # 4 + 13 + 5 + 9 + 5 + 6 a pixel, then 8 more; never more than the yardstick's, which counts all eight rows.
    assert operations.executed_backward(2, 3, 3, absgrad=False) == 2 * 80 + 3 * 8 * 42
    assert operations.executed_backward(2, 3, 3, absgrad=True) == 2 * 80 + 3 * 8 * 50
    assert operations.executed_backward(1, 8, 3, absgrad=True) < operations.backward_operations(1, 3, absgrad=True)
    assert operations.executed_forward(1, 8, 3) < operations.forward_operations(1, 1, 3)


def test_rows_reached_are_those_with_a_point_over_the_threshold(benchmark: Benchmark) -> None:
    operations = benchmark("kernel_operations")
    records = np.zeros((2, 16), np.float32)
    # Round splats of one pixel, opacity 1, at the middle of the first tile: 255 exp(-y^2 / 2) >= 1 for |y| <= 3.33,
    # that is for the six rows at y = -2.5 to 2.5. The second has its centre 7 pixels further right, 3.5 past the tile.
    records[:, 0:2] = 4.0
    records[1, 0] = 11.0
    records[:, SLOPE] = np.sqrt(0.5 / np.log(2.0))
    records[:, REST] = -0.5 / np.log(2.0)
    tiles = SimpleNamespace(
        count=np.array([2, 0], np.int32), start=np.array([0, 2, 2]), ids=np.array([0, 1, 0], np.int32), columns=2
    )
    assert operations.rows_reached(records, tiles) == 6
    records[1, 0] = 10.0  # 2.5 past it: sqrt(3.33^2 - 2.5^2) = 2.2, the rows at -1.5 to 1.5
    assert operations.rows_reached(records, tiles) == 6 + 4


def test_operations_grow_with_the_lists(benchmark: Benchmark) -> None:
    operations = benchmark("kernel_operations")
    # A splat that covers nothing: its exponents only. One that does: 7.5 + 13 + 3 + 2 a channel, for each of 64 pixels.
    assert operations.forward_operations(1, 0, 3) == 64 * 7.5
    assert operations.forward_operations(1, 1, 3) == 64 * 29.5
    # 7.5 + 13 + 5 + 9 + 9 + 5.25 a pixel, and nine sums of sixteen lanes added to a row.
    assert operations.backward_operations(1, 3, absgrad=False) == 64 * 48.75 + 9 * 17
    assert operations.backward_operations(2, 4, absgrad=True) == 2 * (64 * (48.75 + 2 + 1.75 + 8.5) + 12 * 17)


def test_denser_scenes_look_like_their_model(benchmark: Benchmark) -> None:
    scenes = benchmark("gaussian_scenes")
    generator = torch.Generator().manual_seed(0)
    n = 40
    model = {
        "means": torch.randn(n, 3, generator=generator),
        "quats": torch.randn(n, 4, generator=generator),
        "scales": torch.randn(n, 3, generator=generator) - 2,
        "opacities": torch.randn(n, generator=generator),
        "sh0": torch.arange(n, dtype=torch.float32)[:, None, None].expand(n, 1, 3).contiguous(),
        "shN": torch.randn(n, 15, 3, generator=generator),
    }
    count = 200 * n
    split = scenes.denser(model, count)
    assert {name: values.shape[0] for name, values in split.items()} == dict.fromkeys(model, count)
    source = split["sh0"][:, 0, 0].long()
    assert torch.equal(source.bincount(), torch.full((n,), 200))
    # Each has 1 / 200 of its parent's volume, and together they have its mean and covariance.
    torch.testing.assert_close(split["scales"].sum(dim=1), model["scales"].sum(dim=1)[source] - float(np.log(200)))
    offsets = split["means"] - model["means"][source]
    covariances = torch.stack([offsets[source == i].T.cov() for i in range(n)])
    expected = reference.covariance(model["quats"], model["scales"].exp())
    error = (covariances - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert error.median() < 0.15
    assert scenes.blocks_of(split).shape == (count // 16, 59, 16)


class _Photos:
    """Two photos with alpha, as a store gives them."""

    def __init__(self) -> None:
        image = torch.zeros(4, 6, 4, dtype=torch.uint8)
        image[:2] = torch.tensor([255, 0, 0, 255], dtype=torch.uint8)
        pose = torch.eye(4)
        pose[:3, 3] = torch.tensor([1.0, 2.0, 3.0])
        one, size = torch.tensor(5.0), (torch.tensor(6), torch.tensor(4))
        self._photo = Photo(frame=None, image=image, mask=None, camera=Cameras(pose, one, one, 3 * one / 5, one, *size))  # type: ignore[arg-type]

    def __len__(self) -> int:
        return 2

    def get(self, index: int) -> Photo:
        return self._photo


@pytest.fixture
def parameters() -> dict[str, torch.Tensor]:
    return {"means": torch.arange(9.0).reshape(3, 3), "sh0": torch.zeros(3, 1, 3)}


def test_peer_gets_the_photos_on_white_and_the_points(
    benchmark: Benchmark, tmp_path: Path, parameters: dict[str, torch.Tensor]
) -> None:
    benchmark("opensplat").write_project(tmp_path, _Photos(), parameters)
    project = json.loads((tmp_path / "transforms.json").read_text())
    assert len(project["frames"]) == 2
    frame = project["frames"][1]
    assert (frame["w"], frame["h"], frame["fl_x"], frame["cx"]) == (6, 4, 5.0, 3.0)
    # OpenGL's camera looks along -z with y up.
    assert frame["transform_matrix"] == [[1, 0, 0, 1], [0, -1, 0, 2], [0, 0, -1, 3], [0, 0, 0, 1]]
    pixels = np.asarray(Image.open(tmp_path / frame["file_path"]))
    np.testing.assert_array_equal(pixels[0, 0], [255, 0, 0])
    np.testing.assert_array_equal(pixels[3, 0], [255, 255, 255])
    points = trimesh.load(tmp_path / project["ply_file_path"])
    np.testing.assert_allclose(points.vertices, np.arange(9.0).reshape(3, 3))


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for the peer is a shell script")
def test_peer_is_timed_by_the_difference_of_two_runs(
    benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, parameters: dict[str, torch.Tensor]
) -> None:
    opensplat = benchmark("opensplat")
    binary = tmp_path / "opensplat"
    binary.write_text('#!/bin/sh\ntest -f "$1/transforms.json" || exit 3\necho "$2 $3" >> "$(dirname "$0")/calls"\n')
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    # The clock is read before and after each run: 10 s for the shorter, 16 s for the longer.
    times = iter([0.0, 10.0, 20.0, 36.0])
    monkeypatch.setattr(opensplat.time, "perf_counter", lambda: next(times))
    took = opensplat.milliseconds_an_iteration(binary, _Photos(), parameters, iterations=3, threads=1)
    assert took == pytest.approx(2000.0)
    assert (tmp_path / "calls").read_text().split("\n")[:2] == ["-n 2", "-n 5"]


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for the peer is a shell script")
def test_peer_that_fails_or_is_missing_is_told(
    benchmark: Benchmark, tmp_path: Path, parameters: dict[str, torch.Tensor]
) -> None:
    opensplat = benchmark("opensplat")
    options = {"iterations": 3, "threads": 1}
    with pytest.raises(StudioError, match="there is no such file"):
        opensplat.milliseconds_an_iteration(tmp_path / "absent", _Photos(), parameters, **options)
    binary = tmp_path / "opensplat"
    binary.write_text("#!/bin/sh\necho 'no such option' >&2\nexit 2\n")
    binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(StudioError, match="stopped with code 2: no such option"):
        opensplat.milliseconds_an_iteration(binary, _Photos(), parameters, **options)
    with pytest.raises(ValueError, match="iterations must be"):
        opensplat.milliseconds_an_iteration(binary, _Photos(), parameters, iterations=600, threads=1)
