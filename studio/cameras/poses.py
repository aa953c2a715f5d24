"""Rigid motions: rotations, quaternions (w, x, y, z), SO(3) and SE(3) exponential and logarithm, similarities.

Poses are 4x4 matrices ``[R t; 0 1]`` that act on column vectors. Every function works on any batch shape. Closed forms
follow Eade, "Lie Groups for 2D and 3D Transformations"; close to the identity they are replaced by their Taylor series,
so values and gradients are accurate for every angle below pi, in float32 and float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

_SERIES_BELOW = 0.25
"""Squared angle below which the Taylor series are used; their first left-out term is then under 1e-15."""


def rotate(rotation: Float[Tensor, "*batch 3 3"], vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """``R v``; the batch axes broadcast."""
    x, y, z = vectors[..., 0:1], vectors[..., 1:2], vectors[..., 2:3]
    return rotation[..., 0] * x + rotation[..., 1] * y + rotation[..., 2] * z


def transform_points(pose: Float[Tensor, "*batch 4 4"], points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """``R p + t``; the batch axes broadcast."""
    return rotate(pose[..., :3, :3], points) + pose[..., :3, 3]


def make_pose(
    rotation: Float[Tensor, "*batch 3 3"], translation: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """``[R t; 0 1]``."""
    top = torch.cat([rotation, translation[..., None]], dim=-1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


def invert_pose(pose: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Inverse of a rigid motion: ``[R^T, -R^T t; 0 1]``."""
    back = pose[..., :3, :3].transpose(-1, -2)
    return make_pose(back, -rotate(back, pose[..., :3, 3]))


def flip_opengl(pose: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
    """Turn an OpenGL camera_to_world (+y up, looking along -z) into OpenCV's (+y down, along +z), or back."""
    return pose * pose.new_tensor([1.0, -1.0, -1.0, 1.0])


def look_at(
    eye: Float[Tensor, "*batch 3"], target: Float[Tensor, "*batch 3"], up: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 4 4"]:
    """OpenCV camera_to_world of a camera at ``eye`` whose optical axis meets ``target``, with ``up`` upright.

    Where ``up`` is parallel to the view, any level is as good as another: one is chosen that does not jump to NaN.

    Raises:
        ValueError: If an eye lies on its target.
    """
    eye, target, up = torch.broadcast_tensors(eye, target, up)
    forward = target - eye
    if bool((forward.abs().amax(-1) == 0).any()):
        raise ValueError("look_at: eye and target are the same point")
    forward = normalize(forward, dim=-1)
    right = torch.linalg.cross(forward, up, dim=-1)
    # The world axis furthest from the view is never parallel to it.
    spare = torch.zeros_like(forward).scatter(-1, forward.abs().argmin(-1, keepdim=True), 1.0)
    parallel = right.norm(dim=-1, keepdim=True) < 1e-6 * up.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    right = normalize(torch.where(parallel, torch.linalg.cross(forward, spare, dim=-1), right), dim=-1)
    down = torch.linalg.cross(forward, right, dim=-1)
    return make_pose(torch.stack([right, down, forward], dim=-1), eye)


def nearest_rotation(matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """The rotation closest to a matrix in the Frobenius norm (orthogonal Procrustes, by SVD)."""
    u, _, vh = torch.linalg.svd(matrix)
    sign = torch.linalg.det(u @ vh)
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
    return (u * flip[..., None, :]) @ vh


def quaternion_multiply(a: Float[Tensor, "*batch 4"], b: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Hamilton product: the rotation ``a`` after the rotation ``b``."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=-1,
    )


def quaternion_conjugate(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """The inverse rotation of a unit quaternion."""
    return q * q.new_tensor([1.0, -1.0, -1.0, -1.0])


def quaternion_to_matrix(q: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of a quaternion of any length but zero."""
    w, x, y, z = normalize(q, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def matrix_to_quaternion(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Unit quaternion with ``w >= 0`` of a rotation matrix.

    Each row of ``4 q q^T`` is the quaternion times one of its components; the row of the largest component is taken
    (Shepperd 1978), which is accurate for every angle.
    """
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in rotation.unbind(-2))
    outer = torch.stack(
        [
            torch.stack([1 + a + e + i, h - f, c - g, d - b], dim=-1),
            torch.stack([h - f, 1 + a - e - i, b + d, c + g], dim=-1),
            torch.stack([c - g, b + d, 1 - a + e - i, f + h], dim=-1),
            torch.stack([d - b, c + g, f + h, 1 - a - e + i], dim=-1),
        ],
        dim=-2,
    )
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = torch.take_along_dim(outer, largest[..., None, None], dim=-2).squeeze(-2)
    q = normalize(row, dim=-1)
    return torch.where(q[..., :1] < 0, -q, q)


def slerp(
    a: Float[Tensor, "*batch 4"], b: Float[Tensor, "*batch 4"], t: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 4"]:
    """Constant-speed rotation from unit quaternion ``a`` (t = 0) to ``b`` (t = 1) along the shorter arc."""
    step = quaternion_log(quaternion_multiply(quaternion_conjugate(a), b))
    return quaternion_multiply(a, quaternion_exp(step * t[..., None]))


def so3_exp(rotation_vector: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Rotation matrix of a rotation vector (axis times angle in radians)."""
    return quaternion_to_matrix(quaternion_exp(rotation_vector))


def so3_log(rotation: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Rotation vector, of length at most pi, of a rotation matrix."""
    return quaternion_log(matrix_to_quaternion(rotation))


def se3_exp(twist: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 4 4"]:
    """Pose of a twist ``(translation part, rotation vector)``: the screw motion of unit time."""
    linear, angular = twist[..., :3], twist[..., 3:]
    square = angular.square().sum(-1, keepdim=True)
    turned = torch.linalg.cross(angular, linear, dim=-1)
    turned_twice = torch.linalg.cross(angular, turned, dim=-1)
    return make_pose(
        so3_exp(angular), linear + _one_minus_cos(square) * turned + _angle_minus_sin(square) * turned_twice
    )


def se3_log(pose: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 6"]:
    """Twist of a pose: the inverse of `se3_exp` for angles below pi."""
    angular = so3_log(pose[..., :3, :3])
    translation = pose[..., :3, 3]
    square = angular.square().sum(-1, keepdim=True)
    turned = torch.linalg.cross(angular, translation, dim=-1)
    turned_twice = torch.linalg.cross(angular, turned, dim=-1)
    return torch.cat([translation - turned / 2 + _inverse_jacobian_term(square) * turned_twice, angular], dim=-1)


@dataclass(frozen=True, eq=False)
class Similarity:
    """The map ``p -> scale * R p + t`` of one frame of reference into another; what normalises a scene.

    Attributes:
        scale: Above zero.
        rotation: A rotation matrix.
        translation: In units of the target frame.
    """

    scale: float
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, " 3"]

    def __post_init__(self) -> None:
        if not (self.scale > 0 and self.scale < float("inf")):
            raise ValueError(f"Similarity: scale must be positive and finite, got {self.scale}")
        if self.rotation.shape != (3, 3) or self.translation.shape != (3,):
            raise ValueError(
                "Similarity: rotation must be (3, 3) and translation (3,), got "
                f"{tuple(self.rotation.shape)} and {tuple(self.translation.shape)}"
            )

    @classmethod
    def identity(cls, *, dtype: torch.dtype = torch.float64) -> Similarity:
        return cls(1.0, torch.eye(3, dtype=dtype), torch.zeros(3, dtype=dtype))

    @classmethod
    def from_matrix(cls, matrix: Float[Tensor, "4 4"]) -> Similarity:
        """Take apart ``[s R, t; 0 1]``."""
        scale = torch.linalg.det(matrix[:3, :3]).abs() ** (1 / 3)
        return cls(float(scale), nearest_rotation(matrix[:3, :3] / scale), matrix[:3, 3].clone())

    @property
    def matrix(self) -> Float[Tensor, "4 4"]:
        """``[s R, t; 0 1]``."""
        return make_pose(self.scale * self.rotation, self.translation)

    def inverse(self) -> Similarity:
        back = self.rotation.T
        return Similarity(1 / self.scale, back, -rotate(back, self.translation) / self.scale)

    def __matmul__(self, first: Similarity) -> Similarity:
        """This map after ``first``."""
        return Similarity(self.scale * first.scale, self.rotation @ first.rotation, self.points(first.translation))

    def points(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Map points."""
        return self.scale * rotate(self.rotation.to(points), points) + self.translation.to(points)

    def poses(self, poses: Float[Tensor, "*batch 4 4"]) -> Float[Tensor, "*batch 4 4"]:
        """Map camera_to_world poses; they stay rigid: the scale moves the cameras but not their axes."""
        return make_pose(self.rotation.to(poses) @ poses[..., :3, :3], self.points(poses[..., :3, 3]))


def quaternion_exp(rotation_vector: Tensor) -> Tensor:
    half_square = rotation_vector.square().sum(-1, keepdim=True) / 4
    safe = torch.where(half_square < _SERIES_BELOW, torch.ones_like(half_square), half_square)
    series = _polynomial(half_square, [1, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800, 1 / 6227020800])
    sinc = torch.where(half_square < _SERIES_BELOW, series, safe.sqrt().sin() / safe.sqrt())
    series = _polynomial(half_square, [1, -1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800, 1 / 479001600])
    cos = torch.where(half_square < _SERIES_BELOW, series, safe.sqrt().cos())
    return torch.cat([cos, rotation_vector * sinc / 2], dim=-1)


def quaternion_log(q: Tensor) -> Tensor:
    q = torch.where(q[..., :1] < 0, -q, q)  # q and -q are one rotation; this one turns by at most pi
    w, v = q[..., :1], q[..., 1:]
    square = v.square().sum(-1, keepdim=True)
    small = square < torch.finfo(q.dtype).eps
    length = torch.where(small, torch.ones_like(square), square).sqrt()
    # 2 atan2(|v|, w) / |v|; for small |v| that is 2 (1/w) (1 - |v|^2 / (3 w^2)).
    near = 2 / w.clamp(min=0.5) * (1 - square / (3 * w.clamp(min=0.5) ** 2))
    return v * torch.where(small, near, 2 * torch.atan2(length, w) / length)


def _one_minus_cos(square: Tensor) -> Tensor:
    """(1 - cos a) / a^2 of the squared angle."""
    small = square < _SERIES_BELOW
    safe = torch.where(small, torch.ones_like(square), square)
    series = _polynomial(square, [1 / 2, -1 / 24, 1 / 720, -1 / 40320, 1 / 3628800, -1 / 479001600])
    return torch.where(small, series, (1 - safe.sqrt().cos()) / safe)


def _angle_minus_sin(square: Tensor) -> Tensor:
    """(a - sin a) / a^3 of the squared angle."""
    small = square < _SERIES_BELOW
    safe = torch.where(small, torch.ones_like(square), square)
    angle = safe.sqrt()
    series = _polynomial(square, [1 / 6, -1 / 120, 1 / 5040, -1 / 362880, 1 / 39916800, -1 / 6227020800])
    return torch.where(small, series, (angle - angle.sin()) / (safe * angle))


def _inverse_jacobian_term(square: Tensor) -> Tensor:
    """(1 - a sin a / (2 (1 - cos a))) / a^2 of the squared angle."""
    small = square < _SERIES_BELOW
    safe = torch.where(small, torch.ones_like(square), square)
    angle = safe.sqrt()
    # The series of the half-angle cotangent, with Bernoulli numbers.
    series = _polynomial(
        square, [1 / 12, 1 / 720, 1 / 30240, 1 / 1209600, 1 / 47900160, 691 / 1307674368000, 1 / 74724249600]
    )
    return torch.where(small, series, (1 - angle * angle.sin() / (2 * (1 - angle.cos()))) / safe)


def _polynomial(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    value = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = value * x + c
    return value
