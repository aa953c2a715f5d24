"""Contraction and normalised device coordinates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from studio.cameras import Cameras, look_at
from studio.errors import StudioError
from studio.marching import (
    contract,
    ndc_points,
    ndc_points_inverse,
    ndc_rays,
    ndc_scale,
    uncontract,
    world_to_front,
    z_from_ndc,
)
from studio.marching.contraction import Norm

F8 = torch.float64
NORMS: tuple[Norm, ...] = ("l2", "linf")
points = st.tuples(*[st.floats(-1e3, 1e3)] * 3)


def _size(x: Tensor, norm: Norm) -> Tensor:
    return x.norm(dim=-1) if norm == "l2" else x.abs().amax(-1)


def test_contraction_by_hand() -> None:
    x = torch.tensor([[0.3, -0.4, 0.0], [0.0, 4.0, 0.0], [3.0, 0.0, 4.0]])
    assert contract(x).flatten().tolist() == pytest.approx([0.3, -0.4, 0, 0, 1.75, 0, 1.08, 0, 1.44])
    # Maximum norm: (2 − 1/4) x / 4.
    assert contract(x, "linf")[2].tolist() == pytest.approx([1.3125, 0, 1.75])


@settings(deadline=None, max_examples=150)
@given(points, st.sampled_from(NORMS))
def test_contraction_inverts(point: tuple, norm: Norm) -> None:
    x = torch.tensor(point, dtype=F8)
    y = contract(x, norm)
    assert float(_size(y, norm)) < 2
    assert torch.allclose(uncontract(y, norm), x, rtol=1e-8, atol=1e-12)
    if float(_size(x, norm)) <= 1:
        assert torch.equal(y, x)


@settings(deadline=None, max_examples=100)
@given(points.filter(lambda p: max(map(abs, p)) > 1e-3), st.sampled_from(NORMS), st.floats(1.001, 50))
def test_contraction_is_radial_and_monotone(point: tuple, norm: Norm, factor: float) -> None:
    x = torch.tensor(point, dtype=F8)
    y, further = contract(x, norm), contract(factor * x, norm)
    assert float(torch.linalg.cross(x, y).norm()) < 1e-9 * float(x.norm() * y.norm())
    assert float(_size(further, norm)) > float(_size(y, norm))


@settings(deadline=None, max_examples=40)
@given(st.tuples(*[st.floats(-3, 3)] * 3).filter(lambda p: sum(v * v for v in p) > 1.1))
def test_contraction_jacobian(point: tuple) -> None:
    """Radially the derivative of 2 − 1/r is 1/r²; across, lengths shrink by (2 − 1/r) / r."""
    x = torch.tensor(point, dtype=F8)
    r = float(x.norm())
    jacobian = torch.autograd.functional.jacobian(contract, x)
    radial = x / r
    across = (2 - 1 / r) / r
    expected = across * torch.eye(3, dtype=F8) + (1 / r**2 - across) * radial[:, None] * radial
    assert torch.allclose(jacobian, expected, atol=1e-10)


@pytest.mark.parametrize("norm", NORMS)
def test_contraction_gradients_are_right_near_and_finite_everywhere(norm: Norm) -> None:
    g = torch.Generator().manual_seed(0)
    x = (2 * torch.randn(8, 3, generator=g, dtype=F8)).requires_grad_()
    torch.autograd.gradcheck(lambda x: contract(x, norm), x)
    torch.autograd.gradcheck(lambda y: uncontract(y, norm), (0.5 * x.detach().tanh()).requires_grad_())
    special = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [1e20, 1e20, 0], [1e-30, 0, 0]], requires_grad=True)
    y = contract(special, norm)
    y.sum().backward()
    assert special.grad is not None
    assert bool(special.grad.isfinite().all())
    assert float(_size(y[2].detach(), norm)) == pytest.approx(2.0)
    beyond = torch.tensor([[2.5, 0, 0]], requires_grad=True)
    far = uncontract(beyond, norm)
    far.sum().backward()
    assert bool(far.isfinite().all())


def test_unknown_norm() -> None:
    with pytest.raises(ValueError, match="norm"):
        contract(torch.zeros(3), "l1")  # type: ignore[arg-type]


def _forward_cameras() -> Cameras:
    eyes = torch.tensor([[0.5, 0.2, -4.0], [-0.5, 0.1, -4.2], [0.0, -0.3, -3.9]], dtype=F8)
    poses = look_at(
        eyes, torch.tensor([0.0, 0.0, 5.0], dtype=F8).expand(3, 3), torch.tensor([0.0, -1.0, 0.0], dtype=F8)
    )
    return Cameras.make(poses, fx=90.0, fy=80.0, cx=50.0, cy=40.0, width=100, height=80)


def test_front_frame_looks_along_z() -> None:
    cameras = _forward_cameras()
    front = world_to_front(cameras)
    centres = cameras.origins @ front[:3, :3].T + front[:3, 3]
    assert torch.allclose(centres.mean(0), torch.zeros(3, dtype=F8), atol=1e-12)
    views = cameras.forward @ front[:3, :3].T
    assert bool((views[:, 2] > 0.9).all())
    assert ndc_scale(cameras) == pytest.approx((1.8, 2.0))
    back = torch.cat([cameras.camera_to_world, cameras.camera_to_world[:1]]).clone()
    back[3, :3, :3] = back[3, :3, :3] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0], dtype=F8))
    turned = Cameras.make(back, fx=90.0, fy=80.0, cx=50.0, cy=40.0, width=100, height=80)
    with pytest.raises(StudioError, match="cameras: camera 3 looks away"):
        world_to_front(turned)


positive = st.floats(0.2, 100)


@settings(deadline=None, max_examples=100)
@given(st.floats(-5, 5), st.floats(-5, 5), positive, st.floats(0.1, 3))
def test_ndc_inverts(x: float, y: float, z: float, near: float) -> None:
    point = torch.tensor([x, y, z], dtype=F8)
    image = ndc_points(point, (1.8, 2.0), near)
    assert torch.allclose(ndc_points_inverse(image, (1.8, 2.0), near), point, rtol=1e-9)
    assert float(z_from_ndc(image[2], near)) == pytest.approx(z)


def test_ndc_corners_and_planes() -> None:
    scale, near = (1.8, 2.0), 0.5
    edge = torch.tensor([50 / 90 * 2.0, 40 / 80 * 2.0, 2.0], dtype=F8)  # the corner of a picture, at z = 2
    assert ndc_points(edge, scale, near).tolist() == pytest.approx([1.0, 1.0, 0.5])
    on_plane = torch.tensor([0.1, 0.2, near], dtype=F8)
    assert float(ndc_points(on_plane, scale, near)[2]) == pytest.approx(-1.0)
    assert float(ndc_points(torch.tensor([0.0, 0.0, 1e9], dtype=F8), scale, near)[2]) == pytest.approx(1.0)


@settings(deadline=None, max_examples=100)
@given(st.tuples(*[st.floats(-1, 1)] * 3), st.tuples(st.floats(-1, 1), st.floats(-1, 1)), st.floats(1.1, 60))
def test_ndc_rays_are_the_images_of_rays(origin: tuple, slope: tuple, z: float) -> None:
    scale, near = (1.8, 2.0), 1.0
    o = torch.tensor(origin, dtype=F8)
    d = torch.tensor([*slope, 1.0], dtype=F8)
    start, direction, far = ndc_rays(o, d / d.norm(), scale, near)
    assert float(start[2]) == pytest.approx(-1.0)
    assert float(direction.norm()) == pytest.approx(1.0)
    assert float((start + far * direction)[2]) == pytest.approx(1.0)
    image = ndc_points(o + d * (z - o[2]), scale, near)
    t = (image - start) @ direction
    assert torch.allclose(start + t * direction, image, atol=1e-9)
    assert 0 <= float(t) <= float(far)
    # Even steps in NDC are even in disparity.
    steps = start + direction * far * torch.linspace(0, 0.9, 10, dtype=F8)[:, None]
    assert torch.allclose((1 / z_from_ndc(steps[:, 2], near)).diff().diff(), torch.zeros(8, dtype=F8), atol=1e-12)


def test_ndc_bad_input_is_named() -> None:
    o, d = torch.zeros(2, 3), torch.tensor([[0.0, 0, 1], [0, 0.6, -0.8]])
    with pytest.raises(StudioError, match=r"directions: ray 1 does not look forward"):
        ndc_rays(o, d, (1.0, 1.0))
    with pytest.raises(StudioError, match="near"):
        ndc_rays(o, d.abs(), (1.0, 1.0), near=0.0)
