"""Projection, forward and backward, and the fused Adam step, against float64 torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from studio.errors import StudioError
from studio.kernels import cache
from studio_splat import reference
from studio_splat.kernels import layout
from studio_splat.kernels.projection import project_forward
from studio_splat.kernels.projection_backward import AdamSettings, project_backward, project_backward_adam
from studio_splat.kernels.view import View

LOG2_E = math.log2(math.e)
CASES = [
    ("pinhole", False, 3),
    ("pinhole", True, 4),
    ("pinhole", False, 0),
    ("ortho", True, 2),
    ("fisheye", False, 1),
    ("fisheye", True, 3),
]


@dataclass
class Scene:
    means: NDArray[np.float32]
    quats: NDArray[np.float32]
    log_scales: NDArray[np.float32]
    logits: NDArray[np.float32]
    sh: NDArray[np.float32]
    view: View
    degree: int

    @property
    def count(self) -> int:
        return len(self.means)

    def blocks(self) -> NDArray[np.float32]:
        return layout.pack(self.means, self.quats, self.log_scales, self.logits, self.sh)

    def intrinsics(self) -> torch.Tensor:
        v = self.view
        return torch.tensor([[v.fx, 0, v.cx], [0, v.fy, v.cy], [0, 0, 1]], dtype=torch.float64)

    def leaves(self) -> list[torch.Tensor]:
        arrays = (self.means, self.quats, self.log_scales, self.logits, self.sh)
        tensors = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
        pose = np.vstack([np.asarray(self.view.world_to_camera, np.float32)[:3], [[0, 0, 0, 1]]])
        return [*tensors, torch.tensor(pose, dtype=torch.float64, requires_grad=True)]

    def reference(self, leaves: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Columns 0-9 of the records, and the radii, in float64."""
        means, quats, log_scales, logits, sh, pose = leaves
        v = self.view
        p = reference.project(
            means,
            reference.covariance(quats, log_scales.exp()),
            pose,
            self.intrinsics(),
            v.width,
            v.height,
            eps2d=v.eps2d,
            camera_model=v.camera_model,
        )
        log_opacity = torch.nn.functional.logsigmoid(logits) * LOG2_E
        if v.antialiased:
            log_opacity = log_opacity + p.compensations.log2()
        radii = reference.splat_radii(
            p,
            torch.exp2(log_opacity),
            v.width,
            v.height,
            near_plane=v.near,
            far_plane=v.far,
            radius_clip=v.radius_clip,
        )
        colour = reference.view_dependent_colors(self.degree, means, sh, pose)
        a, b, c = (-0.5 * LOG2_E * p.conics).unbind(-1)
        columns = [p.means2d, torch.stack([a, 2 * b, c, log_opacity], -1), colour, p.depths[:, None]]
        return torch.cat(columns, -1), radii


def make_scene(
    model: Any,
    antialiased: bool,
    degree: int,
    *,
    count: int = 403,
    seed: int = 0,
    spread: float = 3.0,
    focal: float = 150.0,
    scale: tuple[float, float] = (-3.0, 1.0),
) -> Scene:
    """Gaussians all around the camera: in front, behind, beside, and across the near and far planes."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    pose = np.zeros((3, 4), np.float32)
    pose[:, :3] = rotation * np.sign(np.linalg.det(rotation))
    pose[:, 3] = (0.1, -0.2, 2.0)
    if model == "ortho":
        focal *= 0.25
    view = View(
        pose, focal, 1.1 * focal, 97.0, 51.0, 160, 120, near=0.2, far=6.0, antialiased=antialiased, camera_model=model
    )
    return Scene(
        rng.uniform(-spread, spread, (count, 3)).astype(np.float32),
        (2 * rng.normal(size=(count, 4))).astype(np.float32),
        rng.normal(*scale, (count, 3)).astype(np.float32),
        rng.normal(0, 2, count).astype(np.float32),
        rng.normal(0, 0.4, (count, (degree + 1) ** 2, 3)).astype(np.float32),
        view,
        degree,
    )


def forward(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    blocks = scene.blocks()
    records = np.full((blocks.shape[0] * 16, 16), np.nan, np.float32)
    radii = np.full(blocks.shape[0] * 16, np.nan, np.float32)
    project_forward(blocks, scene.view, scene.degree, records, radii)
    return blocks, records, radii


def random_rows(scene: Scene, radii: NDArray[np.float32], seed: int = 1) -> NDArray[np.float32]:
    rows = np.zeros((len(radii), 16), np.float32)
    visible = radii > 0
    rows[visible, :12] = np.random.default_rng(seed).normal(size=(visible.sum(), 12))
    return rows


def assert_matches(scene: Scene) -> int:
    _, records, radii = forward(scene)
    with torch.no_grad():
        expected, expected_radii = scene.reference(scene.leaves())
    visible = expected_radii[:, 0].numpy() > 0
    n = scene.count
    np.testing.assert_array_equal(radii[:n] > 0, visible)
    np.testing.assert_array_equal(np.ceil(records[:n, 10:12]), expected_radii)
    np.testing.assert_array_equal(radii, records[:, 10:12].max(1))
    got, want = records[:n, :10].astype(np.float64)[visible], expected.numpy()[visible]
    size = np.abs(want)
    size[:, 0], size[:, 1] = scene.view.width, scene.view.height
    size[:, 2:5] = size[:, 2:5].max(1, keepdims=True)
    size[:, 5:9] = 1.0
    assert (np.abs(got - want) / size).max() < 1e-5
    culled = np.zeros(16, np.float32)
    culled[5] = -1e30
    np.testing.assert_array_equal(records[radii == 0], np.broadcast_to(culled, ((radii == 0).sum(), 16)))
    return int(visible.sum())


@pytest.mark.parametrize(("model", "antialiased", "degree"), CASES)
def test_records_match_the_reference(model: str, antialiased: bool, degree: int) -> None:
    visible = assert_matches(make_scene(model, antialiased, degree))
    assert 30 < visible < 400


@pytest.mark.parametrize("scale", [(-12.0, 0.5), (0.5, 1.0), (-3.0, 3.0)])
def test_records_of_tiny_huge_and_thin_gaussians(scale: tuple[float, float]) -> None:
    assert assert_matches(make_scene("pinhole", False, 1, scale=scale)) > 20


def test_radius_clip_and_eps2d_follow_the_reference() -> None:
    scene = make_scene("pinhole", True, 0)
    everything = assert_matches(scene)
    scene.view = replace(scene.view, radius_clip=4.0, eps2d=0.1)
    assert 0 < assert_matches(scene) < everything


def test_hand_computed_record() -> None:
    # On the axis at depth 2, scale 0.1, f = 100: sigma = 5 px, variance 25 + 0.3; opacity 1/2; grey 0.5 + 0.2 C0.
    view = View(np.eye(4), 100, 100, 32, 24, 64, 48)
    blocks = layout.pack(
        np.array([[0, 0, 2]]),
        np.array([[3, 0, 0, 0]]),
        np.full((1, 3), np.log(0.1)),
        np.zeros(1),
        np.full((1, 1, 3), 0.2),
    )
    records, radii = np.empty((16, 16), np.float32), np.empty(16, np.float32)
    project_forward(blocks, view, 0, records, radii)
    a = -0.5 * LOG2_E / 25.3
    extent = math.sqrt(2 * math.log(127.5) * 25.3)
    grey = 0.5 + 0.2 * 0.28209479
    expected = [32, 24, a, 0, a, -1, grey, grey, grey, 2, extent, extent, 0, 0, 0, 0]
    np.testing.assert_allclose(records[0], expected, rtol=2e-6, atol=1e-7)
    assert (radii[1:] == 0).all(), "the padding must not be visible"


def test_needle_keeps_its_thickness() -> None:
    # 4000 times longer than wide and oblique: xx yy - xy^2 in float32 has no correct digit, the conic must.
    angle = math.pi / 8
    scene = make_scene("pinhole", False, 0, count=1)
    scene.means[:] = (0.02, -0.01, 2)
    scene.quats[:] = (math.cos(angle / 2), 0, 0, math.sin(angle / 2))
    scene.log_scales[:] = np.log([20.0, 0.005, 0.005])
    scene.logits[:] = 3
    scene.view = View(np.eye(4), 500, 500, 100, 100, 200, 200)
    _, records, _ = forward(scene)
    with torch.no_grad():
        expected, _ = scene.reference(scene.leaves())
    np.testing.assert_allclose(records[0, 2:5], expected[0, 2:5], rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"means": (0, 0, -2)},
        {"means": (0, 0, 0.1)},
        {"means": (0, 0, 7)},
        {"means": (40, 0, 2)},
        {"means": (math.nan, 0, 2)},
        {"means": (0, 0, math.inf)},
        {"quats": (0, 0, 0, 0)},
        {"quats": (math.nan, 0, 0, 1)},
        {"log_scales": (60, 60, 60)},
        {"log_scales": (0, math.nan, 0)},
        {"logits": -6},
        {"logits": math.nan},
    ],
)
def test_culled(change: dict[str, Any]) -> None:
    scene = make_scene("pinhole", False, 0, count=3)
    scene.means[:], scene.logits[:] = (0, 0, 2), 2
    scene.view = replace(scene.view, world_to_camera=np.eye(4))
    for name, value in change.items():
        getattr(scene, name)[1] = value
    _, records, radii = forward(scene)
    np.testing.assert_array_equal(radii[:4] > 0, [True, False, True, False])
    assert np.isfinite(records).all()


extreme = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(deadline=None, max_examples=150)
@given(
    numbers=st.lists(extreme, min_size=11, max_size=11),
    model=st.sampled_from(["pinhole", "ortho", "fisheye"]),
    antialiased=st.booleans(),
    eps2d=st.sampled_from([0.0, 0.3]),
    near=st.sampled_from([-1.0, 0.0, 0.01]),
)
def test_records_are_finite_whatever_the_parameters(
    numbers: list[float], model: Any, antialiased: bool, eps2d: float, near: float
) -> None:
    values = np.array(numbers, np.float32)
    blocks = layout.pack(values[None, :3], values[None, 3:7], values[None, 7:10], values[10:])
    view = View(np.eye(4), 50, 50, 20, 20, 40, 40, near=near, eps2d=eps2d, antialiased=antialiased, camera_model=model)
    records, radii = np.empty((16, 16), np.float32), np.empty(16, np.float32)
    project_forward(blocks, view, -1, records, radii)
    assert np.isfinite(records).all()
    assert np.isfinite(radii).all()


def relative_errors(got: NDArray, want: NDArray, rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    got, want = got.reshape(len(got), -1).astype(np.float64)[rows], want.reshape(len(want), -1)[rows]
    return np.abs(got - want).max(1) / np.maximum(np.abs(want).max(1), 1e-6 * np.abs(want).max())


def assert_gradients_match(scene: Scene, tolerance: float = 1e-4) -> None:
    blocks, records, radii = forward(scene)
    rows = random_rows(scene, radii)
    gradients = np.full(blocks.shape, np.nan, np.float32)
    pose = project_backward(blocks, scene.view, scene.degree, records, rows, gradients, pose=True)
    leaves = scene.leaves()
    columns, _ = scene.reference(leaves)
    visible = radii[: scene.count] > 0
    assert visible.sum() > 10
    (columns[visible] * torch.tensor(rows[: scene.count, :10][visible], dtype=torch.float64)).sum().backward()
    parts = layout.unpack(gradients, scene.count)
    for name, leaf in zip(("means", "quats", "log_scales", "logit_opacities", "sh"), leaves, strict=False):
        assert leaf.grad is not None
        assert relative_errors(parts[name], leaf.grad.numpy(), visible).max() < tolerance, name
        assert not parts[name][~visible].any(), name
    assert leaves[5].grad is not None
    expected = leaves[5].grad.numpy()[:3]
    assert pose is not None
    assert np.abs(pose - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize(("model", "antialiased", "degree"), CASES)
def test_gradients_match_autograd(model: str, antialiased: bool, degree: int) -> None:
    assert_gradients_match(make_scene(model, antialiased, degree))


@pytest.mark.parametrize("scale", [(-9.0, 0.5), (0.0, 0.7)])
def test_gradients_of_tiny_and_huge_gaussians(scale: tuple[float, float]) -> None:
    assert_gradients_match(make_scene("pinhole", False, 1, scale=scale))


def test_gradients_where_the_jacobian_is_clamped() -> None:
    # A narrow view and large Gaussians close by: many centres lie far outside the image.
    scene = make_scene("pinhole", True, 0, focal=700.0, scale=(-0.5, 0.3), count=800)
    _, _, radii = forward(scene)
    camera = (
        scene.means @ np.asarray(scene.view.world_to_camera)[:, :3].T + np.asarray(scene.view.world_to_camera)[:, 3]
    )
    u = (camera[:, 0] / camera[:, 2])[radii[: scene.count] > 0]
    assert ((u < scene.view.packed[25]) | (u > scene.view.packed[26])).sum() > 10
    assert_gradients_match(scene)


def test_gradients_on_the_fisheye_axis() -> None:
    scene = make_scene("fisheye", False, 0, count=64)
    scene.view = replace(scene.view, world_to_camera=np.eye(4)[:3])
    radius = np.geomspace(1e-6, 0.3, 64)
    scene.means = np.stack([radius, -0.5 * radius, np.full(64, 1.5)], -1).astype(np.float32)
    scene.logits[:] = 2
    assert_gradients_match(scene)


def test_clamped_colours_pass_no_gradient() -> None:
    scene = make_scene("pinhole", False, 1)
    scene.sh[:, 0] -= 2.0
    _, records, radii = forward(scene)
    visible = radii > 0
    assert (records[visible, 6:9] == 0).mean() > 0.3
    assert_gradients_match(scene)


def test_flags_skip_whole_blocks() -> None:
    scene = make_scene("pinhole", False, 1)
    blocks, records, radii = forward(scene)
    rows = random_rows(scene, radii)
    every, some = np.empty_like(blocks), np.empty_like(blocks)
    project_backward(blocks, scene.view, 1, records, rows, every)
    flags = np.arange(len(blocks), dtype=np.uint8) % 2
    project_backward(blocks, scene.view, 1, records, rows, some, touched=flags)
    np.testing.assert_array_equal(some, every * flags[:, None, None])


@pytest.mark.parametrize("degree", [-1, 1])
def test_unused_coefficients_get_no_gradient(degree: int) -> None:
    scene = make_scene("pinhole", False, 2)
    scene.degree = degree
    blocks, records, radii = forward(scene)
    gradients = np.full_like(blocks, np.nan)
    project_backward(blocks, scene.view, degree, records, random_rows(scene, radii), gradients)
    used = layout.block_rows(degree)
    assert not gradients[:, used:].any()
    assert gradients[:, :11].any()
    if degree < 0:
        assert not records[:, 6:9].any()


def adam_by_hand(
    params: NDArray, first: NDArray, second: NDArray, gradient: NDArray, rates: NDArray, step: int, touched: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """Kingma and Ba, algorithm 1, in float64, on arrays whose first axis is the Gaussian."""
    mask = touched[:, None]
    first = np.where(mask, 0.9 * first + 0.1 * gradient, first)
    second = np.where(mask, 0.999 * second + 0.001 * gradient**2, second)
    change = rates * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-15)
    return np.where(mask, params - change, params), first, second


def by_gaussian(blocks: NDArray) -> NDArray[np.float64]:
    return blocks.transpose(0, 2, 1).reshape(-1, blocks.shape[1]).astype(np.float64)


def test_fused_adam_follows_the_algorithm_on_touched_gaussians_only() -> None:
    scene = make_scene("pinhole", True, 2, spread=1.0)
    blocks, _, _ = forward(scene)
    rates = np.geomspace(1e-4, 1e-2, blocks.shape[1]).astype(np.float32)
    first, second = np.zeros_like(blocks), np.zeros_like(blocks)
    statistics = np.zeros((len(blocks), 3, 16), np.float32)
    records, radii = np.empty((len(blocks) * 16, 16), np.float32), np.empty(len(blocks) * 16, np.float32)
    expected = (by_gaussian(blocks), by_gaussian(first), by_gaussian(second))
    norms, views, largest = np.zeros(len(radii)), np.zeros(len(radii)), np.zeros(len(radii))
    gradients = np.empty_like(blocks)
    regularised = AdamSettings(opacity_weight=0.3, scale_weight=0.2)
    for step in range(1, 5):
        project_forward(blocks, scene.view, 1, records, radii)
        rows = random_rows(scene, radii, seed=step)
        rows[np.random.default_rng(step).random(len(rows)) < 0.4] = 0
        touched = rows[:, :10].any(1)
        project_backward(blocks, scene.view, 1, records, rows, gradients)
        gradient = by_gaussian(gradients)
        values = by_gaussian(blocks)
        sigmoid = 0.5 + 0.5 * np.tanh(0.5 * values[:, 10])
        gradient[:, 10] += np.where(touched, 0.3 * sigmoid * (1 - sigmoid), 0)
        gradient[:, 7:10] += np.where(touched[:, None], 0.2 * np.exp(values[:, 7:10]), 0)
        used = layout.block_rows(1)
        after = adam_by_hand(values, by_gaussian(first), by_gaussian(second), gradient, rates, step, touched)
        expected = tuple(
            np.concatenate([new[:, :used], by_gaussian(old)[:, used:]], 1)
            for new, old in zip(after, (blocks, first, second), strict=True)
        )
        norms += np.hypot(rows[:, 0] * 80.0, rows[:, 1] * 60.0)
        views += radii > 0
        largest = np.maximum(largest, radii / 160)
        project_backward_adam(
            blocks, first, second, rates, step, scene.view, 1, records, radii, rows,
            settings=regularised, statistics=statistics,
        )  # fmt: skip
        for got, want in zip((blocks, first, second), expected, strict=True):
            np.testing.assert_allclose(by_gaussian(got), want, rtol=2e-5, atol=1e-6 * np.abs(want).max())
        np.testing.assert_array_equal(by_gaussian(blocks)[~touched], values[~touched])
    np.testing.assert_allclose(statistics[:, 0].ravel(), norms, rtol=1e-5)
    np.testing.assert_array_equal(statistics[:, 1].ravel(), views)
    np.testing.assert_allclose(statistics[:, 2].ravel(), largest, rtol=1e-6)


def test_absolute_gradients_and_pose_through_the_fused_step() -> None:
    scene = make_scene("pinhole", False, 0)
    blocks, records, radii = forward(scene)
    rows = random_rows(scene, radii)
    statistics = np.zeros((len(blocks), 3, 16), np.float32)
    expected = project_backward(blocks, scene.view, 0, records, rows, np.empty_like(blocks), pose=True)
    zeros = np.zeros_like(blocks), np.zeros_like(blocks)
    rates = np.zeros(blocks.shape[1], np.float32)
    pose = project_backward_adam(
        blocks, *zeros, rates, 1, scene.view, 0, records, radii, rows, statistics=statistics, absgrad=True, pose=True
    )
    np.testing.assert_array_equal(pose, expected)
    np.testing.assert_allclose(statistics[:, 0].ravel(), np.hypot(rows[:, 10] * 80, rows[:, 11] * 60), rtol=1e-5)


def test_same_bits_on_any_number_of_threads() -> None:
    scene = make_scene("pinhole", True, 3, count=2011)
    results = []
    before = cache.get_threads()
    try:
        for threads in (1, 2, 3, 64, 2):
            cache.set_threads(threads)
            blocks, records, radii = forward(scene)
            rows = random_rows(scene, radii)
            gradients = np.empty_like(blocks)
            pose = project_backward(blocks, scene.view, 3, records, rows, gradients, pose=True)
            moments = np.zeros_like(blocks), np.zeros_like(blocks)
            rates = np.full(blocks.shape[1], 1e-3, np.float32)
            project_backward_adam(blocks, *moments, rates, 1, scene.view, 3, records, radii, rows)
            results.append((records, radii, gradients, pose, blocks, *moments))
    finally:
        cache.set_threads(before)
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(got, want)


def test_no_gaussians() -> None:
    scene = make_scene("pinhole", False, 0, count=0)
    blocks, records, _ = forward(scene)
    assert blocks.shape == (0, 14, 16)
    pose = project_backward(blocks, scene.view, 0, records, records.copy(), blocks.copy(), pose=True)
    np.testing.assert_array_equal(pose, np.zeros((3, 4)))


def test_wrong_arguments_are_named() -> None:
    scene = make_scene("pinhole", False, 0)
    blocks, records, radii = forward(scene)
    with pytest.raises(ValueError, match=r"records must be float32 of shape \(416, 16\), got float64"):
        project_forward(blocks, scene.view, 0, records.astype(np.float64), radii)
    with pytest.raises(ValueError, match="radii must be C-contiguous"):
        project_forward(blocks, scene.view, 0, records, np.empty(832, np.float32)[::2])
    with pytest.raises(ValueError, match="sh_degree must be -1 to 0"):
        project_forward(blocks, scene.view, 1, records, radii)
    with pytest.raises(ValueError, match="rows"):
        project_forward(np.zeros((2, 13, 16), np.float32), scene.view, 0, records, radii)
    with pytest.raises(ValueError, match="gradients"):
        project_backward(blocks, scene.view, 0, records, records, blocks[:-1])
    with pytest.raises(ValueError, match="step must be at least 1"):
        project_backward_adam(
            blocks, blocks, blocks, np.zeros(14, np.float32), 0, scene.view, 0, records, radii, records
        )


def test_impossible_cameras_are_refused() -> None:
    flat = np.eye(4)
    flat[2, 2] = 0
    with pytest.raises(StudioError, match="singular"):
        View(flat, 1, 1, 0, 0, 4, 4)
    with pytest.raises(StudioError, match="NaN or infinite"):
        View(np.full((3, 4), np.nan), 1, 1, 0, 0, 4, 4)
    with pytest.raises(StudioError, match="focal lengths"):
        View(np.eye(4), 0, 1, 0, 0, 4, 4)
    with pytest.raises(ValueError, match=r"shape \(3, 4\)"):
        View(np.eye(3), 1, 1, 0, 0, 4, 4)
    with pytest.raises(ValueError, match="camera_model"):
        View(np.eye(4), 1, 1, 0, 0, 4, 4, camera_model="spherical")  # type: ignore[arg-type]
