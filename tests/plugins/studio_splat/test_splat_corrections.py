"""Exposure and pose corrections: gradients, Adam, what is learnt, and their state."""

from __future__ import annotations

import math

import pytest
import torch
from splat_scenes import draw, make_camera, make_gaussians, make_photo, ring_poses, step_options
from torch import Tensor

from studio_splat.config import SplatConfig
from studio_splat.corrections import Exposure, PoseCorrection, _RowAdam
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
    colors = torch.rand(3, 50, generator=generator, dtype=torch.float64, requires_grad=True)
    matrix = exposure.values[1].clone().requires_grad_()
    weights = torch.randn(3, 50, generator=generator, dtype=torch.float64)
    shown = matrix[:, :3] @ colors + matrix[:, 3:]
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
        exposure.backward(i % 3, torch.rand(3, 5), torch.randn(3, 5))
        assert torch.allclose(exposure.values.mean(dim=0), identity, atol=1e-12)
    assert float((exposure.values - identity).abs().max()) > 1e-4
    other = Exposure(3)
    other.load_state(exposure.state())
    gradient = torch.randn(3, 5)
    for each in (exposure, other):
        each.backward(0, torch.ones(3, 5), gradient)
    assert torch.equal(exposure.values, other.values)


def test_a_state_is_a_copy() -> None:
    exposure, poses = Exposure(1), PoseCorrection(1)
    before = exposure.state(), poses.state()
    exposure.backward(0, torch.rand(3, 5), torch.rand(3, 5))
    poses.update(0, torch.eye(4), torch.rand(4, 4))
    assert not before[0]["adam"]["first"].any()
    assert torch.equal(before[1]["values"][0], torch.eye(4, dtype=torch.float64))


def make_target(params: dict[str, Tensor], index: int, pose: Tensor | None = None) -> Target:
    """A photo of the Gaussians from `pose`, which claims to be from the ring's camera."""
    named = make_camera(ring_poses(3)[index].float(), 64, 48)
    taken = named if pose is None else make_camera(pose.float(), 64, 48)
    image, _ = draw(params, taken)
    return Target(make_photo(named, (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8)), index, torch.zeros(3))


def test_exposure_learns_the_brightness_of_each_photo() -> None:
    params = make_gaussians()
    params["sh0"] = params["sh0"].clamp(-1.0, 0.5)
    engine = CpuEngine(SplatConfig(exposure=True), 3)
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


def test_pose_refinement_finds_a_disturbed_camera() -> None:
    params = make_gaussians(60)
    true = ring_poses(3)[1]
    # Half a degree and 2 cm at a distance of 3 m.
    angle = math.radians(0.5)
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    turn[:3, 3] = torch.tensor([0.02, -0.01, 0.01])
    disturbed = true @ turn
    engine = CpuEngine(SplatConfig(pose_refinement=True), 3)
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
