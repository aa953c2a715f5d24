"""Rotations, quaternions, SE(3), similarities: group axioms and hand-computed values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from studio.cameras.poses import (
    Similarity,
    flip_opengl,
    invert_pose,
    look_at,
    matrix_to_quaternion,
    nearest_rotation,
    quaternion_conjugate,
    quaternion_multiply,
    quaternion_to_matrix,
    rotate,
    se3_exp,
    se3_log,
    slerp,
    so3_exp,
    so3_log,
    transform_points,
)

F64 = torch.float64


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def hat(turn: Tensor) -> Tensor:
    """The matrix of the cross product with ``turn``."""
    x, y, z = turn.tolist()
    return torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=F64)


def exponential(matrix: Tensor) -> Tensor:
    """SciPy's: torch.linalg.matrix_exp is only good to ten digits."""
    return torch.as_tensor(pytest.importorskip("scipy.linalg").expm(matrix.numpy()))


unit_axes = st.tuples(*[st.floats(-1, 1)] * 3).map(lambda v: vector(*v)).filter(lambda v: float(v.norm()) > 1e-2)
angles = st.one_of(
    st.floats(0, math.pi - 1e-4), st.sampled_from([0.0, 1e-12, 1e-8, 1e-4, 0.499999, 0.500001, math.pi - 1e-7])
)


@given(axis=unit_axes, angle=angles)
@settings(deadline=None, max_examples=150)
def test_so3_exp_and_log_are_inverse(axis, angle) -> None:
    turn = angle * axis / axis.norm()
    rotation = so3_exp(turn)
    assert float((rotation @ rotation.mT - torch.eye(3, dtype=F64)).abs().max()) < 1e-14
    assert float(torch.linalg.det(rotation)) == pytest.approx(1, abs=1e-14)
    torch.testing.assert_close(rotation, exponential(hat(turn)), atol=1e-13, rtol=0)
    torch.testing.assert_close(so3_log(rotation), turn, atol=1e-8 if angle > 3.14 else 1e-13, rtol=1e-12)


@given(axis=unit_axes, angle=angles, shift=unit_axes)
@settings(deadline=None, max_examples=150)
def test_se3_exp_is_the_matrix_exponential_and_log_its_inverse(axis, angle, shift) -> None:
    turn = angle * axis / axis.norm()
    twist = torch.cat([3 * shift, turn])
    generator = torch.zeros(4, 4, dtype=F64)
    generator[:3, :3] = hat(turn)
    generator[:3, 3] = twist[:3]
    pose = se3_exp(twist)
    torch.testing.assert_close(pose, exponential(generator), atol=1e-13, rtol=0)
    torch.testing.assert_close(se3_log(pose), twist, atol=1e-7 if angle > 3.14 else 1e-12, rtol=1e-12)
    torch.testing.assert_close(invert_pose(pose) @ pose, torch.eye(4, dtype=F64), atol=1e-13, rtol=0)


@pytest.mark.parametrize("scale", [0.0, 1e-9, 0.3, 2.0])
def test_gradients_of_exp_and_log_at_any_angle(scale) -> None:
    twist = (scale * vector(0.4, -0.2, 0.9, 0.3, 0.8, -0.5)).requires_grad_()
    assert torch.autograd.gradcheck(se3_exp, (twist,))
    assert torch.autograd.gradcheck(lambda t: se3_log(se3_exp(t)), (twist,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (5,), (2, 3), (0,)])
def test_batch_shapes_and_types(batch, dtype) -> None:
    twist = torch.randn(*batch, 6, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 0.9
    pose = se3_exp(twist)
    assert pose.shape == (*batch, 4, 4)
    assert pose.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(se3_log(pose), twist, atol=tolerance, rtol=tolerance)
    q = matrix_to_quaternion(pose[..., :3, :3])
    assert q.shape == (*batch, 4)
    torch.testing.assert_close(quaternion_to_matrix(q), pose[..., :3, :3], atol=tolerance, rtol=tolerance)


@given(a=unit_axes, b=unit_axes, angle=angles, other=angles)
@settings(deadline=None, max_examples=80)
def test_quaternion_product_is_the_matrix_product(a, b, angle, other) -> None:
    first, second = so3_exp(angle * a / a.norm()), so3_exp(other * b / b.norm())
    p, q = matrix_to_quaternion(first), matrix_to_quaternion(second)
    torch.testing.assert_close(quaternion_to_matrix(quaternion_multiply(p, q)), first @ second, atol=1e-13, rtol=0)
    torch.testing.assert_close(quaternion_to_matrix(quaternion_conjugate(p)), first.mT, atol=1e-13, rtol=0)
    assert float(p[0]) >= 0


def test_quaternion_is_wxyz() -> None:
    """90 degrees about +z takes x to y."""
    q = vector(math.sqrt(0.5), 0, 0, math.sqrt(0.5))
    torch.testing.assert_close(rotate(quaternion_to_matrix(q), vector(1, 0, 0)), vector(0, 1, 0))
    torch.testing.assert_close(matrix_to_quaternion(so3_exp(vector(0, 0, math.pi / 2))), q)


def test_half_turns_have_quaternions() -> None:
    for axis in torch.eye(3, dtype=F64):
        half_turn = 2 * torch.outer(axis, axis) - torch.eye(3, dtype=F64)
        torch.testing.assert_close(quaternion_to_matrix(matrix_to_quaternion(half_turn)), half_turn)
        assert float(so3_log(half_turn).norm()) == pytest.approx(math.pi)


def test_slerp_turns_evenly_along_the_shorter_arc() -> None:
    a = matrix_to_quaternion(so3_exp(vector(0, 0, 0.2)))
    b = -matrix_to_quaternion(so3_exp(vector(0, 0, 1.4)))  # the far one of the two quaternions of a rotation
    t = torch.linspace(0, 1, 5, dtype=F64)
    between = slerp(a, b, t)
    expected = torch.stack([vector(0, 0, 0.2 + 1.2 * float(x)) for x in t])
    torch.testing.assert_close(so3_log(quaternion_to_matrix(between)), expected)
    torch.testing.assert_close(slerp(a, a, vector(0.3)), a[None])


def test_look_at_by_hand() -> None:
    pose = look_at(vector(3, 0, 1), vector(0, 0, 1), vector(0, 0, 1))
    assert pose[:3, 2].tolist() == [-1, 0, 0]  # forward
    assert pose[:3, 1].tolist() == [0, 0, -1]  # down
    assert pose[:3, 0].tolist() == [0, 1, 0]  # right
    assert pose[:3, 3].tolist() == [3, 0, 1]


@given(eye=unit_axes, target=unit_axes, up=unit_axes)
@settings(deadline=None, max_examples=80)
def test_look_at_is_a_rotation_that_keeps_up_upright(eye, target, up) -> None:
    eye = 3 * eye + 5
    pose = look_at(eye, target, up)
    rotation = pose[:3, :3]
    assert float((rotation @ rotation.mT - torch.eye(3, dtype=F64)).abs().max()) < 1e-9
    assert float(torch.linalg.det(rotation)) == pytest.approx(1)
    local = transform_points(invert_pose(pose), target)
    assert float(local[:2].norm()) < 1e-9 * float(local[2])
    assert float(-rotation[:, 1] @ up) > -1e-6 * float(up.norm())


def test_look_at_along_up_is_finite_and_on_itself_an_error() -> None:
    pose = look_at(vector(0, 0, 5), vector(0, 0, 0), vector(0, 0, 2))
    assert bool(pose.isfinite().all())
    assert pose[:3, 2].tolist() == [0, 0, -1]
    assert float(torch.linalg.det(pose[:3, :3])) == pytest.approx(1)
    with pytest.raises(ValueError, match="same point"):
        look_at(vector(1, 2, 3), vector(1, 2, 3), vector(0, 0, 1))


def test_flip_opengl_is_its_own_inverse() -> None:
    pose = se3_exp(torch.randn(4, 6, dtype=F64))
    flipped = flip_opengl(pose)
    torch.testing.assert_close(flipped[:, :3, 2], -pose[:, :3, 2])
    torch.testing.assert_close(flipped[:, :3, 1], -pose[:, :3, 1])
    torch.testing.assert_close(flipped[:, :3, 3], pose[:, :3, 3])
    assert torch.equal(flip_opengl(flipped), pose)


def test_nearest_rotation() -> None:
    rotation = so3_exp(vector(0.3, -0.5, 0.8))
    torch.testing.assert_close(nearest_rotation(1.7 * rotation), rotation)
    mirror = torch.diag(vector(1, 1, -1))
    assert float(torch.linalg.det(nearest_rotation(rotation @ mirror))) == pytest.approx(1)


@given(scale=st.floats(0.05, 20), turn=unit_axes, shift=unit_axes, other=st.floats(0.05, 20))
@settings(deadline=None, max_examples=50)
def test_similarities_are_a_group_that_acts_on_points(scale, turn, shift, other) -> None:
    a = Similarity(scale, so3_exp(turn), 4 * shift)
    b = Similarity(other, so3_exp(shift), turn)
    points = torch.randn(6, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((a @ b).points(points), a.points(b.points(points)))
    torch.testing.assert_close(a.inverse().points(a.points(points)), points, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(transform_points(a.matrix, points), a.points(points))
    again = Similarity.from_matrix(a.matrix)
    assert again.scale == pytest.approx(scale)
    torch.testing.assert_close(again.rotation, a.rotation)
    torch.testing.assert_close(Similarity.identity().points(points), points)
    pose = se3_exp(torch.cat([shift, turn]))
    moved = a.poses(pose)
    torch.testing.assert_close(moved[:3, 3], a.points(pose[:3, 3]))
    torch.testing.assert_close(moved[:3, :3], a.rotation @ pose[:3, :3])


def test_similarity_refuses_bad_values() -> None:
    with pytest.raises(ValueError, match="scale"):
        Similarity(0.0, torch.eye(3), torch.zeros(3))
    with pytest.raises(ValueError, match="rotation must be"):
        Similarity(1.0, torch.eye(4), torch.zeros(3))
