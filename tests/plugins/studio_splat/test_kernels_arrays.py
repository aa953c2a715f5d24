"""Projection from one array a parameter: the same as from blocks, whatever the number of Gaussians and threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from studio.errors import StudioError
from studio.kernels import cache
from studio.kernels.workspace import Workspace
from studio_splat import rasterization
from studio_splat.kernels import layout
from studio_splat.kernels.arrays import Arrays, backward_arrays, gather_visible, project_arrays
from studio_splat.kernels.projection import project_forward
from studio_splat.kernels.projection_backward import project_backward
from studio_splat.kernels.view import View

VIEW = View(np.eye(4), 90.0, 95.0, 40.0, 30.0, 80, 60, near=0.2, antialiased=True)


@pytest.fixture(params=[1, 3, 64])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = cache.get_threads()
    yield cache.set_threads(request.param)
    cache.set_threads(before)


def make_arrays(count: int, coefficients: int | None, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return Arrays(
        rng.normal((0, 0, 3), 1, (count, 3)).astype(np.float32),
        rng.normal(size=(count, 4)).astype(np.float32),
        np.exp(rng.normal(-3, 1, (count, 3))).astype(np.float32),
        rng.uniform(0, 1, count).astype(np.float32),
        None if coefficients is None else rng.normal(0, 0.4, (count, coefficients, 3)).astype(np.float32),
    )


def blocks_of(arrays: Arrays, degree: int) -> NDArray[np.float32]:
    logits = np.log(arrays.opacities.astype(np.float64) / (1 - arrays.opacities.astype(np.float64)))
    sh = None if arrays.sh is None else np.ascontiguousarray(arrays.sh[:, : (degree + 1) ** 2])
    scales = np.log(arrays.scales.astype(np.float64)).astype(np.float32)
    return layout.pack(arrays.means, arrays.quats, scales, logits.astype(np.float32), sh)


@pytest.mark.parametrize(
    ("count", "coefficients", "degree"),
    [(0, 4, 1), (1, None, -1), (64, 16, 3), (715, 16, 3), (333, 25, 2), (47, 25, 4)],
)
def test_follows_the_block_kernels(threads: int, count: int, coefficients: int | None, degree: int) -> None:
    arrays, workspace = make_arrays(count, coefficients), Workspace()
    blocks = blocks_of(arrays, degree)
    records, radii = np.empty((len(blocks) * 16, 16), np.float32), np.empty(len(blocks) * 16, np.float32)
    project_forward(blocks, VIEW, degree, records, radii)
    projected = project_arrays(arrays, VIEW, degree, workspace)
    assert not projected.suspicious
    # Logarithms rounded by two functions: some ulp of their size, about 7, in the exponent of what follows.
    np.testing.assert_allclose(projected.records, records, rtol=2e-5, atol=1e-5)

    seen = gather_visible(projected)
    np.testing.assert_array_equal(seen.ids, np.flatnonzero(projected.radii))
    np.testing.assert_array_equal(seen.means2d, projected.records[seen.ids, 0:2])
    np.testing.assert_array_equal(seen.radii, np.ceil(projected.records[seen.ids, 10:12]))
    np.testing.assert_allclose(seen.opacities, np.exp2(projected.records[seen.ids, 5]), rtol=1e-6)

    rng = np.random.default_rng(1)
    shapes = {"means2d": (2,), "depths": (), "conics": (3,), "opacities": (), "rgb": (3,)}
    upstream: dict[str, NDArray[np.float32] | None] = {
        name: rng.normal(size=(len(seen.ids), *shape)).astype(np.float32) for name, shape in shapes.items()
    }
    found, pose = backward_arrays(
        arrays, VIEW, degree, projected, seen.ids, seen.opacities, upstream, workspace, pose=True
    )
    rows = np.zeros_like(records)
    scales = np.array([-0.5, -1.0, -0.5]) * np.log2(np.e)
    columns = {"means2d": slice(0, 2), "depths": 9, "conics": slice(2, 5), "opacities": 5, "rgb": slice(6, 9)}
    factors = {"conics": 1 / scales, "opacities": seen.opacities.astype(np.float64) * np.log(2)}
    for name, values in upstream.items():
        assert values is not None
        rows[seen.ids, columns[name]] = values * factors.get(name, 1.0)
    gradients = np.empty_like(blocks)
    expected_pose = project_backward(blocks, VIEW, degree, records, rows, gradients, pose=True)
    expected = layout.unpack(gradients, count)
    pairs = [(found.means, expected["means"]), (found.quats, expected["quats"])]
    pairs.append((found.scales, expected["log_scales"] / arrays.scales))
    if arrays.sh is not None:
        used = (degree + 1) ** 2
        assert found.sh is not None
        pairs.append((found.sh[:, :used], expected["sh"]))
        assert not found.sh[:, used:].any()
    for got, want in pairs:
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.abs(want).max(initial=0.0))
    given = upstream["opacities"]
    assert given is not None
    opacities = np.zeros(count)
    opacities[seen.ids] = given * seen.opacities / arrays.opacities[seen.ids]
    np.testing.assert_allclose(found.opacities, opacities, rtol=1e-5)
    if count:
        assert pose is not None
        assert expected_pose is not None
        np.testing.assert_allclose(pose, expected_pose, rtol=1e-3, atol=1e-4 * np.abs(expected_pose).max())


def test_threads_do_not_change_a_bit() -> None:
    arrays, results = make_arrays(3001, 9), []
    before = cache.get_threads()
    try:
        for count in (1, 2, 64):
            cache.set_threads(count)
            projected = project_arrays(arrays, VIEW, 2, Workspace())
            results.append((projected.records, projected.radii, *vars(gather_visible(projected)).values()))
    finally:
        cache.set_threads(before)
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("means", np.nan, "means"),
        ("quats", 0.0, "zero quaternion"),
        ("scales", -1.0, "negative"),
        ("scales", np.inf, "infinite"),
        ("opacities", 1.5, "outside"),
        ("opacities", -0.5, "outside"),
        ("colors", np.nan, "colors"),
    ],
)
@pytest.mark.parametrize("row", [0, 37, 44])
def test_kernels_notice_what_the_check_refuses(name: str, value: float, message: str, row: int) -> None:
    arrays = make_arrays(45, 4)
    tensors = dict(zip(("means", "quats", "scales", "opacities", "colors"), vars(arrays).values(), strict=True))
    tensors[name] = tensors[name].copy()
    tensors[name][row] = value
    call = {key: torch.from_numpy(array) for key, array in tensors.items()}
    cameras = {"viewmats": torch.eye(4)[None], "Ks": torch.tensor([[[50.0, 0, 20], [0, 50, 20], [0, 0, 1]]])}
    with pytest.raises(StudioError, match=rf"{name}\[{row}.*{message}|{message}"):
        rasterization(**call, **cameras, width=40, height=40, sh_degree=1, backend="cpu")
    image, _, _ = rasterization(**call, **cameras, width=40, height=40, sh_degree=1, backend="cpu", check=False)
    assert image.shape == (1, 40, 40, 3)
