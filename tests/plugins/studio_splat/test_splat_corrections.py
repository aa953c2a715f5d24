"""Exposure and pose corrections: gradients, Adam, what is learnt, and their state."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from splat_scenes import draw, make_camera, make_gaussians, make_photo, ring_poses, step_options
from torch import Tensor

from studio.errors import StudioError
from studio_splat.config import SplatConfig
from studio_splat.corrections import (
    BilateralExposure,
    Exposure,
    PoseCorrection,
    _RowAdam,
    make_exposure,
    total_variation,
)
from studio_splat.engine import Target
from studio_splat.engine_cpu import CpuEngine
from studio_splat.schedule import LearningRates

pytestmark = pytest.mark.usefixtures("one_thread")

STILL = LearningRates(means=0.0, quats=0.0, scales=0.0, opacities=0.0, sh0=0.0, shN=0.0)
"""The scene stays as it is, so that only corrections learn."""


def test_adam_on_rows_is_torch_s_adam() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, rows = _RowAdam(3, 4, rate=0.1), torch.zeros(3, 4, dtype=torch.float64)
    theirs = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([theirs], lr=0.1, eps=1e-12)
    for _ in range(5):
        gradient = torch.randn(4, generator=generator, dtype=torch.float64)
        rows[1] += ours.step(1, gradient)
        theirs.grad = gradient
        optimizer.step()
    assert torch.allclose(rows[1], theirs.detach(), rtol=1e-9)
    assert not rows[[0, 2]].any()
    assert ours.steps.tolist() == [0, 5, 0]


def test_exposure_gradients_are_those_of_autograd() -> None:
    generator = torch.Generator().manual_seed(1)
    exposure = Exposure(2)
    exposure.values[1] += 0.1 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    colors = torch.rand(3, 5, 10, generator=generator, dtype=torch.float64, requires_grad=True)
    matrix = exposure.values[1].clone().requires_grad_()
    weights = torch.randn(3, 5, 10, generator=generator, dtype=torch.float64)
    shown = torch.einsum("rc,chw->rhw", matrix[:, :3], colors) + matrix[:, 3, None, None]
    assert torch.allclose(exposure.apply(1, colors.detach()), shown.detach())
    (shown * weights).sum().backward()
    through = exposure.backward(1, colors.detach(), weights)
    assert colors.grad is not None
    assert matrix.grad is not None
    assert torch.allclose(through, colors.grad)
    assert torch.allclose(exposure.state()["adam"]["first"][1], 0.1 * matrix.grad.flatten())


def test_the_mean_exposure_stays_the_identity() -> None:
    exposure = Exposure(3)
    identity = torch.eye(3, 4, dtype=torch.float64)
    assert torch.equal(exposure.values, identity.repeat(3, 1, 1))
    for i in range(7):
        exposure.backward(i % 3, torch.rand(3, 1, 5), torch.randn(3, 1, 5))
        assert torch.allclose(exposure.values.mean(dim=0), identity, atol=1e-12)
    assert float((exposure.values - identity).abs().max()) > 1e-4
    other = Exposure(3)
    other.load_state(exposure.state())
    gradient = torch.randn(3, 1, 5)
    for each in (exposure, other):
        each.backward(0, torch.ones(3, 1, 5), gradient)
    assert torch.equal(exposure.values, other.values)


def test_a_state_is_a_copy() -> None:
    exposure, poses = Exposure(1), PoseCorrection(1)
    before = exposure.state(), poses.state()
    exposure.backward(0, torch.rand(3, 1, 5), torch.rand(3, 1, 5))
    poses.update(0, torch.eye(4), torch.rand(4, 4))
    assert not before[0]["adam"]["first"].any()
    assert torch.equal(before[1]["values"][0], torch.eye(4, dtype=torch.float64))


def _looked_up(grid: Tensor, colors: Tensor) -> Tensor:
    """The bilateral exposure pixel by pixel: eight cells, each with the product of its three distances."""
    _, height, width = colors.shape
    sizes = grid.shape[1:]
    rows = []
    for i in range(height):
        for j in range(width):
            color = colors[:, i, j]
            luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
            place = (luma.clamp(0, 1), torch.tensor((i + 0.5) / height), torch.tensor((j + 0.5) / width))
            place = tuple(p * (n - 1) for p, n in zip(place, sizes, strict=True))
            transform = torch.zeros(12, dtype=torch.float64)
            for cell in itertools.product((0, 1), repeat=3):
                corner = [int(p) + c for p, c in zip(place, cell, strict=True)]
                share = [p - int(p) if c else 1 - (p - int(p)) for p, c in zip(place, cell, strict=True)]
                if all(k < n for k, n in zip(corner, sizes, strict=True)):
                    transform = transform + math.prod(share) * grid[(slice(None), *corner)]
            rows.append(transform.view(3, 4)[:, :3] @ color + transform.view(3, 4)[:, 3])
    return torch.stack(rows, dim=-1).view(3, height, width)


def _bilateral_case() -> tuple[BilateralExposure, Tensor, Tensor]:
    """Grids far from the identity, colours partly outside [0, 1], and a gradient; in float64."""
    generator = torch.Generator().manual_seed(5)
    exposure = BilateralExposure(3)
    exposure.values += 0.3 * torch.randn(exposure.values.shape, generator=generator)
    colors = 1.4 * torch.rand(3, 4, 6, generator=generator, dtype=torch.float64) - 0.2
    return exposure, colors, torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)


def test_bilateral_exposure_is_the_one_looked_up_by_hand() -> None:
    exposure, colors, _ = _bilateral_case()
    expected = _looked_up(exposure.grid(1).double(), colors)
    torch.testing.assert_close(exposure.apply(1, colors), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(exposure.apply(1, colors.float()), expected.float(), rtol=1e-5, atol=1e-5)
    # At first it changes nothing.
    torch.testing.assert_close(BilateralExposure(1).apply(0, colors), colors, rtol=1e-6, atol=1e-6)


def test_bilateral_gradients_are_those_of_the_lookup() -> None:
    exposure, colors, gradient = _bilateral_case()
    grid = exposure.grid(2).double().requires_grad_()
    leaf = colors.clone().requires_grad_()
    (_looked_up(grid, leaf) * gradient).sum().backward()
    assert grid.grad is not None
    assert leaf.grad is not None
    smooth = exposure.grid(2).double().requires_grad_()
    for axis, length in ((1, 8), (2, 16), (3, 16)):
        difference = smooth.narrow(axis, 1, length - 1) - smooth.narrow(axis, 0, length - 1)
        ((difference**2).sum() / difference.numel()).backward()
    assert smooth.grad is not None
    through = exposure.backward(2, colors, gradient)
    torch.testing.assert_close(through, leaf.grad, rtol=1e-10, atol=1e-10)
    own = exposure.state()["adam"]["first"][2].view(grid.shape) / 0.1
    torch.testing.assert_close(own.double(), grid.grad + 10 * smooth.grad, rtol=1e-4, atol=1e-6)


def test_total_variation_by_hand() -> None:
    assert float(total_variation(torch.full((12, 8, 16, 16), 3.0))) == 0
    grid = torch.zeros(12, 2, 3, 4)
    grid[5, 0, 1, 0] = 2.0
    # One difference along brightness, two from top to bottom, one from left to right; each squared is 4.
    expected = 4 / (12 * 1 * 3 * 4) + 8 / (12 * 2 * 2 * 4) + 4 / (12 * 2 * 3 * 3)
    assert float(total_variation(grid)) == pytest.approx(expected)


def test_the_mean_grid_stays_the_identity_and_a_resumed_one_goes_on_the_same() -> None:
    generator = torch.Generator().manual_seed(6)
    exposure, resumed = BilateralExposure(3), BilateralExposure(3)
    pictures = torch.rand(8, 2, 3, 5, 7, generator=generator)
    for i in range(4):
        exposure.backward(i % 2, pictures[i, 0], pictures[i, 1] - 0.5)
    resumed.load_state(exposure.state())
    for i in range(4, 8):
        for each in (exposure, resumed):
            each.backward(i % 3, pictures[i, 0], pictures[i, 1] - 0.5)
    assert torch.equal(exposure.values, resumed.values)
    for i in range(3):
        assert torch.equal(exposure.grid(i), resumed.grid(i))
    mean = torch.stack([exposure.grid(i) for i in range(3)]).mean(dim=0)
    identity = BilateralExposure(1).grid(0)
    torch.testing.assert_close(mean, identity, rtol=0, atol=1e-6)
    assert float((exposure.grid(0) - identity).abs().max()) > 1e-3


def test_exposures_by_name() -> None:
    assert make_exposure("none", 2) is None
    assert isinstance(make_exposure("affine", 2), Exposure)
    assert isinstance(make_exposure("bilateral", 2), BilateralExposure)
    # Runs from before there were two kinds.
    assert SplatConfig.from_dict({"exposure": True}).exposure == "affine"
    assert SplatConfig.from_dict({"exposure": False}).exposure == "none"
    with pytest.raises(StudioError, match="exposure: 'dim' must be one of 'none', 'affine', 'bilateral'"):
        SplatConfig.from_dict({"exposure": "dim"})
    with pytest.raises(StudioError, match="A bilateral grid for each of 1,000,000,000 photos needs about"):
        make_exposure("bilateral", 10**9)


def make_target(params: dict[str, Tensor], index: int, pose: Tensor | None = None) -> Target:
    """A photo of the Gaussians from `pose`, which claims to be from the ring's camera."""
    named = make_camera(ring_poses(3)[index].float(), 64, 48)
    taken = named if pose is None else make_camera(pose.float(), 64, 48)
    image, _ = draw(params, taken)
    return Target(make_photo(named, (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8)), index, torch.zeros(3))


def test_exposure_learns_the_brightness_of_each_photo() -> None:
    params = make_gaussians()
    params["sh0"] = params["sh0"].clamp(-1.0, 0.5)
    engine = CpuEngine(SplatConfig(exposure="affine"), 3)
    engine.load(params)
    targets = [make_target(params, index) for index in range(3)]
    factors = [0.8, 1.0, 1.2]
    for target, factor in zip(targets, factors, strict=True):
        target.photo.image[:] = (target.photo.image.float() * factor).clamp(0, 255).to(torch.uint8)
    figures = [engine.step(targets[i % 3], step_options(rates=STILL)) for i in range(450)]
    first, last = (sum(float(f["loss"]) for f in part) for part in (figures[:3], figures[-3:]))
    assert last < 0.35 * first
    learnt = engine.state()["exposure"]["values"]
    brightness = (learnt[:, :, :3] @ torch.ones(3, dtype=torch.float64)).mean(dim=1)
    assert bool((brightness.diff() > 0.1).all()), brightness


def test_bilateral_exposure_learns_darkened_corners() -> None:
    """One photo has dark corners, one bright ones; no transform of whole photos can tell corners from the middle."""
    params = make_gaussians()
    params["sh0"] = params["sh0"].clamp(-1.0, 0.5)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 64), indexing="ij")
    corners = 0.25 * (x * x + y * y) / 2
    last = {}
    for kind in ("affine", "bilateral"):
        engine = CpuEngine(SplatConfig(exposure=kind), 2)
        engine.load(params)
        targets = [make_target(params, index) for index in range(2)]
        for target, sign in zip(targets, (-1, 1), strict=True):
            lit = target.photo.image.float() * (1 + sign * corners)[..., None]
            target.photo.image[:] = lit.clamp(0, 255).to(torch.uint8)
        figures = [engine.step(targets[i % 2], step_options(rates=STILL)) for i in range(80)]
        last[kind] = sum(float(f["l1"]) for f in figures[-2:])
    assert last["bilateral"] < 0.65 * last["affine"], last


def test_pose_refinement_finds_a_disturbed_camera() -> None:
    params = make_gaussians(60)
    true = ring_poses(3)[1]
    # Half a degree and 2 cm at a distance of 3 m.
    angle = math.radians(0.5)
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turn[:3, 3] = torch.tensor([0.02, -0.01, 0.01])
    disturbed = true @ turn
    # Narrow Gaussians: those that are drawn wider have less of a slope to go down.
    engine = CpuEngine(SplatConfig(pose_refinement=True, eps2d=0.1), 3)
    engine.load(params)
    target = make_target(params, 1, disturbed)
    losses = [float(engine.step(target, step_options(rates=STILL))["loss"]) for _ in range(250)]
    assert losses[-1] < 0.3 * losses[0]
    corrected = engine.state()["poses"]["values"][1] @ torch.linalg.inv(true)
    wanted = torch.linalg.inv(disturbed)
    before = (torch.linalg.inv(true) - wanted).abs().max()
    assert float((corrected - wanted).abs().max()) < 0.3 * float(before)
    rotation = engine.state()["poses"]["values"][1, :3, :3]
    assert torch.allclose(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    for index in (0, 2):
        assert torch.equal(engine.state()["poses"]["values"][index], torch.eye(4, dtype=torch.float64))
