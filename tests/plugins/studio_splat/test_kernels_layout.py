"""Blocks of sixteen: packing, permuting, the space-filling order, and the elementary functions over sixteen lanes."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.kernels.elementary import exp, log2
from studio.kernels.vec import load, store
from studio_splat.kernels import layout
from studio_splat.kernels.projection import project_forward
from studio_splat.kernels.view import View


def make_arrays(count: int, degree: int | None, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    arrays = {
        "means": rng.normal(size=(count, 3)).astype(np.float32),
        "quats": rng.normal(size=(count, 4)).astype(np.float32),
        "log_scales": rng.normal(size=(count, 3)).astype(np.float32),
        "logit_opacities": rng.normal(size=count).astype(np.float32),
    }
    if degree is not None:
        arrays["sh"] = rng.normal(size=(count, (degree + 1) ** 2, 3)).astype(np.float32)
    return arrays


@pytest.mark.parametrize("count", [0, 1, 16, 45])
@pytest.mark.parametrize("degree", [None, 0, 3, 4])
def test_unpack_undoes_pack(count: int, degree: int | None) -> None:
    arrays = make_arrays(count, degree)
    blocks = layout.pack(*arrays.values())
    assert blocks.shape == (-(-count // 16), layout.block_rows(-1 if degree is None else degree), 16)
    assert count == 0 or blocks.ctypes.data % 64 == 0
    back = layout.unpack(blocks, count)
    assert back.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(back[name], values)


def test_rows_are_where_the_layout_says() -> None:
    arrays = make_arrays(20, 1)
    blocks = layout.pack(*arrays.values())
    assert blocks[1, 2, 3] == arrays["means"][19, 2]
    assert blocks[0, 3, 5] == arrays["quats"][5, 0]
    assert blocks[0, 9, 5] == arrays["log_scales"][5, 2]
    assert blocks[0, 10, 5] == arrays["logit_opacities"][5]
    assert blocks[0, 12, 5] == arrays["sh"][5, 0, 1]
    assert blocks[0, 14, 5] == arrays["sh"][5, 1, 0]


@pytest.mark.parametrize("permuted", [False, True])
def test_padding_is_never_visible(permuted: bool) -> None:
    arrays = make_arrays(17, 0)
    arrays["means"][:] = (0, 0, 1)
    arrays["logit_opacities"][:] = 9
    blocks = layout.pack(*arrays.values())
    if permuted:
        blocks = layout.permute(blocks, np.arange(17)[::-1].copy())
    records, radii = np.empty((32, 16), np.float32), np.empty(32, np.float32)
    # Near and far planes that cull nothing: the padding is not behind the camera.
    project_forward(blocks, View(np.eye(4), 9, 9, 4, 4, 8, 8, near=-1e9, camera_model="ortho"), 0, records, radii)
    assert (radii[:17] > 0).all()
    assert (radii[17:] == 0).all()


def test_permute_repeats_and_drops() -> None:
    arrays = make_arrays(33, 1)
    order = np.array([5, 5, 32, 0] + [7] * 15)
    blocks = layout.permute(layout.pack(*arrays.values()), order)
    back = layout.unpack(blocks, len(order))
    for name, values in arrays.items():
        np.testing.assert_array_equal(back[name], values[order])
    with pytest.raises(ValueError, match="order must hold indices from 0 to 47"):
        layout.permute(layout.pack(*arrays.values()), np.array([48]))


def test_morton_order_of_a_cube() -> None:
    corners = np.array([[x, y, z] for z in (0, 1) for y in (0, 1) for x in (0, 1)], np.float32)
    shuffle = np.array([3, 6, 0, 7, 1, 5, 2, 4])
    np.testing.assert_array_equal(shuffle[layout.morton_order(corners[shuffle])], np.arange(8))


def test_morton_order_keeps_neighbours_together() -> None:
    points = np.random.default_rng(0).uniform(size=(4096, 3)).astype(np.float32)
    ordered = points[layout.morton_order(points)].reshape(-1, 16, 3)
    # A block of 16 of 4096 points in a unit cube fills a cell of side (16/4096)^(1/3) = 0.157.
    extent = np.ptp(ordered, axis=1)
    assert np.median(extent) < 0.25
    outlier = np.concatenate([points, [[1e6, 0, 0]]]).astype(np.float32)
    order = layout.morton_order(outlier)
    assert np.median(np.ptp(outlier[order][:4096].reshape(-1, 16, 3), axis=1)) < 0.25


@settings(deadline=None, max_examples=50)
@given(
    points=st.lists(st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 3), max_size=40),
)
def test_morton_order_is_a_permutation(points: list[tuple[float, float, float]]) -> None:
    means = np.array(points, np.float32).reshape(-1, 3)
    order = layout.morton_order(means)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(points)))


def test_wrong_arguments_are_named() -> None:
    arrays = make_arrays(5, 1)
    with pytest.raises(ValueError, match=r"means must have shape \(N, 3\), got \(5, 4\)"):
        layout.pack(arrays["quats"], *list(arrays.values())[1:])
    with pytest.raises(ValueError, match="quats must have 4 numbers for each of 5 Gaussians"):
        layout.pack(arrays["means"], arrays["quats"][:4], *list(arrays.values())[2:])
    with pytest.raises(ValueError, match="rows for a degree"):
        layout.pack(*list(arrays.values())[:4], arrays["sh"][:, :3])
    with pytest.raises(ValueError, match="count must be 0 to 16, got 17"):
        layout.unpack(layout.pack(*arrays.values()), 17)


@numba.njit
def _map(values: Any, exps: Any, logs: Any) -> None:
    for i in range(0, values.size, 16):
        store(exps, i, exp(load(values, i)))
        store(logs, i, log2(exp(load(values, i))))


def test_elementary_functions() -> None:
    x = np.linspace(-86.9, 87.9, 1 << 16).astype(np.float32)
    exps, logs = np.empty_like(x), np.empty_like(x)
    _map(x, exps, logs)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(exps / exact - 1).max() < 2.5e-7
    expected = np.log2(exps.astype(np.float64))
    assert (np.abs(logs - expected) / np.maximum(np.abs(expected), 1e-3)).max() < 2.5e-7
    edge = np.full(16, [-np.inf, np.inf, np.nan, 1000] * 4, np.float32)
    exps, logs = np.empty_like(edge), np.empty_like(edge)
    _map(edge, exps, logs)
    assert np.isfinite(exps).all()
    assert (exps > 0).all()
