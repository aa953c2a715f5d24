"""The gradients of 16 Gaussians: from the rasteriser's gradient rows to all parameters and the camera pose.

They are hand-derived in a form that keeps float32 exact for thin Gaussians. With the notation of `geometry`
(covariance V = T S^2 T^T + eps2d I, conic V^-1, columns t_k of T, squared scales s_k) and G the gradient with respect
to the conic:

    p_k = V^-1 t_k,   y_k = -G p_k,   q_jk = p_j . y_k
    d/d log scale_k   = 2 s_k q_kk
    d/d rotation      = 2 q_jk (s_j - s_k) about the Gaussian's own third axis, for (j, k) in cyclic order
    d/d t_k           = 2 s_k V^-1 y_k

and V^-1 t_k has no cancellation either: adj(T S^2 T^T) t_k is a cross product of a row of S^2 T with the minors of T.
The antialiasing compensation sqrt(det V_0 / det V), V_0 = V - eps2d I, adds h eps2d V_0^-1 t_k to y_k, because
V_0^-1 - V^-1 = eps2d V_0^-1 V^-1; h is half the gradient of the log opacity.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from studio.kernels.elementary import HALF, LOG2_E, ONE, TWO, ZERO, exp, f32, lanewise
from studio.kernels.vec import load, maximum, minimum, select, splat, sqrt, store, sum_lanes, transpose

from .geometry import (
    COLOUR,
    DET,
    DET_SHARP,
    DIR,
    DIR_INV,
    DIR_Y,
    DIR_Z,
    GEOMETRY_SIZE,
    J00,
    J10,
    LOG_SCALE,
    LOGIT,
    MEAN,
    N0,
    N1,
    N2,
    QUATERNION,
    S0,
    S1,
    S2,
    T00,
    T01,
    T02,
    T10,
    T11,
    T12,
    XC,
    XX,
    XY,
    YC,
    YY,
    ZC,
    camera_space,
    fisheye_terms,
    project_means,
    project_shapes,
    rotation_matrix,
    unit_quaternion,
)
from .layout import GEOMETRY_ROWS
from .sh import MAX_BASIS, basis_gradient, evaluate_basis
from .view import EPS2D, FISHEYE, FX, FY, HIGH_U, HIGH_V, LOW_U, LOW_V, PINHOLE

# Rows of the scratch vector after those of the geometry.
_GX, _GY, _GZ = range(GEOMETRY_SIZE, GEOMETRY_SIZE + 48, 16)  # of the projected mean and the depth, then of the mean
_GJ = GEOMETRY_SIZE + 48  # of the Jacobian, six rows
_RGB = _GJ + 96
_POSE = _RGB + 48  # of world_to_camera (12 rows, row-major) and of the camera centre (3 rows)
POSE_ROWS = 15
BASIS = _POSE + POSE_ROWS * 16
WEIGHT = BASIS + MAX_BASIS * 16
GRADIENT = WEIGHT + MAX_BASIS * 16
SCRATCH_SIZE = GRADIENT + (GEOMETRY_ROWS + 3 * MAX_BASIS) * 16


_HALF_LOG2_E = HALF * LOG2_E


@lanewise
def _colour_gradient(
    params: np.ndarray,
    at: int,
    degree: int,
    s: np.ndarray,
    basis: np.ndarray,
    weight: np.ndarray,
    out: np.ndarray,
) -> Any:
    """Gradients of the coefficients, and of the mean through the viewing direction (three vectors)."""
    x, y, z = load(s, DIR), load(s, DIR_Y), load(s, DIR_Z)
    gr, gg, gb = load(s, _RGB), load(s, _RGB + 16), load(s, _RGB + 32)
    evaluate_basis(degree, x, y, z, basis)
    for k in range((degree + 1) * (degree + 1)):
        value, c = load(basis, 16 * k), COLOUR + 48 * k
        store(
            weight, 16 * k, gr * load(params, at + c) + gg * load(params, at + c + 16) + gb * load(params, at + c + 32)
        )
        store(out, c, value * gr)
        store(out, c + 16, value * gg)
        store(out, c + 32, value * gb)
    dx, dy, dz = basis_gradient(degree, x, y, z, weight)
    along = dx * x + dy * y + dz * z
    inverse = load(s, DIR_INV)
    return (dx - along * x) * inverse, (dy - along * y) * inverse, (dz - along * z) * inverse


@lanewise
def _pinhole_gradient(view: np.ndarray, s: np.ndarray) -> None:
    """Gradients of the projected mean, the depth and the Jacobian -> of the mean in camera space, in _GX, _GY, _GZ."""
    fx, fy = view[FX], view[FY]
    inverse = ONE / load(s, ZC)
    u, v = load(s, XC) * inverse, load(s, YC) * inverse
    gx, gy = fx * load(s, _GX), fy * load(s, _GY)
    free_u, free_v = (u >= view[LOW_U]) & (u <= view[HIGH_U]), (v >= view[LOW_V]) & (v <= view[HIGH_V])
    clamped_u = minimum(maximum(u, view[LOW_U]), view[HIGH_U])
    clamped_v = minimum(maximum(v, view[LOW_V]), view[HIGH_V])
    squared = inverse * inverse
    g02, g12 = fx * load(s, _GJ + 32), fy * load(s, _GJ + 80)
    store(s, _GX, gx * inverse - select(free_u, g02 * squared, ZERO))
    store(s, _GY, gy * inverse - select(free_v, g12 * squared, ZERO))
    jacobian = (
        g02 * clamped_u * select(free_u, TWO, ONE)
        + g12 * clamped_v * select(free_v, TWO, ONE)
        - fx * load(s, _GJ)
        - fy * load(s, _GJ + 64)
    )
    store(s, _GZ, load(s, _GZ) + squared * jacobian - inverse * (gx * u + gy * v))


@lanewise
def _ortho_gradient(view: np.ndarray, s: np.ndarray) -> None:
    store(s, _GX, view[FX] * load(s, _GX))
    store(s, _GY, view[FY] * load(s, _GY))


@lanewise
def _fisheye_gradient(view: np.ndarray, s: np.ndarray) -> None:
    fx, fy = np.float64(view[FX]), np.float64(view[FY])
    for i in range(16):
        x, y, z = np.float64(s[XC + i]), np.float64(s[YC + i]), np.float64(s[ZC + i])
        g, h, k = fisheye_terms(x, y, z)
        inverse = 1.0 / max(x * x + y * y + z * z, 1e-30)
        square = 2.0 * inverse * inverse
        gx, gy = fx * s[_GX + i], fy * s[_GY + i]
        g00, g01, g02 = fx * s[_GJ + i], fx * s[_GJ + 16 + i], fx * s[_GJ + 32 + i]
        g10, g11, g12 = fy * s[_GJ + 48 + i], fy * s[_GJ + 64 + i], fy * s[_GJ + 80 + i]
        cross = g01 + g10
        xx, xy, yy = x * x, x * y, y * y
        # Derivatives of g + x^2 h, x y h, g + y^2 h, -x / d^2 and -y / d^2; those of g, h along x are x h, x k, and
        # along z -1 / d^2 and 2 / d^4.
        s[_GX + i] = (
            gx * (g + xx * h)
            + gy * xy * h
            + g00 * x * (3.0 * h + xx * k)
            + cross * y * (h + xx * k)
            + g11 * x * (h + yy * k)
            + g02 * (square * xx - inverse)
            + g12 * square * xy
        )
        s[_GY + i] = (
            gx * xy * h
            + gy * (g + yy * h)
            + g00 * y * (h + xx * k)
            + cross * x * (h + yy * k)
            + g11 * y * (3.0 * h + yy * k)
            + g02 * square * xy
            + g12 * (square * yy - inverse)
        )
        s[_GZ + i] += (
            -(gx * x + gy * y) * inverse
            + g00 * (square * xx - inverse)
            + cross * square * xy
            + g11 * (square * yy - inverse)
            + (g02 * x + g12 * y) * square * z
        )


@lanewise
def _add(s: np.ndarray, row: int, mask: Any, value: Any) -> None:
    store(s, row, load(s, row) + select(mask, value, ZERO))


@lanewise
def load_records(records: np.ndarray, first: int) -> Any:
    """Sixteen records or gradient rows as sixteen vectors, one a column."""
    at = first * 16
    return transpose(
        (
            load(records, at),
            load(records, at + 16),
            load(records, at + 32),
            load(records, at + 48),
            load(records, at + 64),
            load(records, at + 80),
            load(records, at + 96),
            load(records, at + 112),
            load(records, at + 128),
            load(records, at + 144),
            load(records, at + 160),
            load(records, at + 176),
            load(records, at + 192),
            load(records, at + 208),
            load(records, at + 224),
            load(records, at + 240),
        )
    )


@lanewise
def block_gradients(
    params: np.ndarray,
    at: int,
    view: np.ndarray,
    model: int,
    antialiased: bool,
    degree: int,
    want_pose: bool,
    opacity_weight: f32,
    scale_weight: f32,
    s: np.ndarray,
    basis: np.ndarray,
    weight: np.ndarray,
    records: np.ndarray,
    first: int,
    g: Any,
    touched: Any,
    out: np.ndarray,
) -> None:
    """Gradients of one block into `out`, for the rows that `degree` uses, from the columns `g` of its gradient rows.

    Lanes that were not touched hold meaningless numbers.
    """
    camera_space(params, at, view, s)
    project_means(model, view, s)
    project_shapes(params, at, view, s)

    # Opacity: L = -log2(1 + e^-logit), and its regulariser's weight times the sigmoid.
    e = exp(-load(params, at + LOGIT))
    sigmoid = ONE / (ONE + e)
    store(out, LOGIT, e * sigmoid * (LOG2_E * g[5] + opacity_weight * sigmoid))

    # Shape.
    eps = view[EPS2D]
    t00, t01, t02, t10, t11, t12 = load(s, T00), load(s, T01), load(s, T02), load(s, T10), load(s, T11), load(s, T12)
    s0, s1, s2, n0, n1, n2 = load(s, S0), load(s, S1), load(s, S2), load(s, N0), load(s, N1), load(s, N2)
    a0, a1, a2 = s0 * t10, s1 * t11, s2 * t12
    b0, b1, b2 = s0 * t00, s1 * t01, s2 * t02
    r00, r01, r02 = a1 * n2 - a2 * n1, a2 * n0 - a0 * n2, a0 * n1 - a1 * n0
    r10, r11, r12 = b2 * n1 - b1 * n2, b0 * n2 - b2 * n0, b1 * n0 - b0 * n1
    inverse_det = ONE / load(s, DET)
    p00, p01, p02 = (r00 + eps * t00) * inverse_det, (r01 + eps * t01) * inverse_det, (r02 + eps * t02) * inverse_det
    p10, p11, p12 = (r10 + eps * t10) * inverse_det, (r11 + eps * t11) * inverse_det, (r12 + eps * t12) * inverse_det
    ga, gb, gc = _HALF_LOG2_E * g[2], _HALF_LOG2_E * g[3], _HALF_LOG2_E * g[4]
    y00, y01, y02 = ga * p00 + gb * p10, ga * p01 + gb * p11, ga * p02 + gb * p12
    y10, y11, y12 = gb * p00 + gc * p10, gb * p01 + gc * p11, gb * p02 + gc * p12
    if antialiased:
        h = _HALF_LOG2_E * g[5] * eps / load(s, DET_SHARP)
        y00, y01, y02 = y00 + h * r00, y01 + h * r01, y02 + h * r02
        y10, y11, y12 = y10 + h * r10, y11 + h * r11, y12 + h * r12
    store(out, LOG_SCALE, TWO * s0 * (p00 * y00 + p10 * y10) + scale_weight * sqrt(s0))
    store(out, LOG_SCALE + 16, TWO * s1 * (p01 * y01 + p11 * y11) + scale_weight * sqrt(s1))
    store(out, LOG_SCALE + 32, TWO * s2 * (p02 * y02 + p12 * y12) + scale_weight * sqrt(s2))

    # Rotation: gradient about the Gaussian's own axes, then d q = q (0, axis) / 2, the length of q undone.
    w, x, y, z, inverse = unit_quaternion(params, at)
    scale = TWO * TWO * inverse
    o0 = scale * (p01 * y02 + p11 * y12) * (s1 - s2)
    o1 = scale * (p00 * y02 + p10 * y12) * (s2 - s0)
    o2 = scale * (p00 * y01 + p10 * y11) * (s0 - s1)
    store(out, QUATERNION, -x * o0 - y * o1 - z * o2)
    store(out, QUATERNION + 16, w * o0 + y * o2 - z * o1)
    store(out, QUATERNION + 32, w * o1 + z * o0 - x * o2)
    store(out, QUATERNION + 48, w * o2 + x * o1 - y * o0)

    # J W = T R^T, so its gradient is V^-1 (2 S^2 y) R^T.
    s0, s1, s2 = TWO * s0, TWO * s1, TWO * s2
    y00, y01, y02, y10, y11, y12 = s0 * y00, s1 * y01, s2 * y02, s0 * y10, s1 * y11, s2 * y12
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = rotation_matrix(w, x, y, z)
    e00, e01, e02 = (
        y00 * m00 + y01 * m01 + y02 * m02,
        y00 * m10 + y01 * m11 + y02 * m12,
        y00 * m20 + y01 * m21 + y02 * m22,
    )
    e10, e11, e12 = (
        y10 * m00 + y11 * m01 + y12 * m02,
        y10 * m10 + y11 * m11 + y12 * m12,
        y10 * m20 + y11 * m21 + y12 * m22,
    )
    c00, c01, c11 = (load(s, YY) + eps) * inverse_det, -load(s, XY) * inverse_det, (load(s, XX) + eps) * inverse_det
    z00, z01, z02 = c00 * e00 + c01 * e10, c00 * e01 + c01 * e11, c00 * e02 + c01 * e12
    z10, z11, z12 = c01 * e00 + c11 * e10, c01 * e01 + c11 * e11, c01 * e02 + c11 * e12
    for i in range(3):
        w0, w1, w2 = view[4 * i], view[4 * i + 1], view[4 * i + 2]
        store(s, _GJ + 16 * i, z00 * w0 + z01 * w1 + z02 * w2)
        store(s, _GJ + 48 + 16 * i, z10 * w0 + z11 * w1 + z12 * w2)

    # Position.
    store(s, _GX, g[0])
    store(s, _GY, g[1])
    store(s, _GZ, g[9])
    if model == PINHOLE:
        _pinhole_gradient(view, s)
    elif model == FISHEYE:
        _fisheye_gradient(view, s)
    else:
        _ortho_gradient(view, s)
    gx, gy, gz = load(s, _GX), load(s, _GY), load(s, _GZ)
    mx = gx * view[0] + gy * view[4] + gz * view[8]
    my = gx * view[1] + gy * view[5] + gz * view[9]
    mz = gx * view[2] + gy * view[6] + gz * view[10]
    if degree >= 0:
        c = load_records(records, first)
        # No gradient through a colour that was clamped at 0.
        store(s, _RGB, select(c[6] > ZERO, g[6], ZERO))
        store(s, _RGB + 16, select(c[7] > ZERO, g[7], ZERO))
        store(s, _RGB + 32, select(c[8] > ZERO, g[8], ZERO))
        dx, dy, dz = _colour_gradient(params, at, degree, s, basis, weight, out)
        mx, my, mz = mx + dx, my + dy, mz + dz
        if want_pose:
            _add(s, _POSE + 192, touched, -dx)
            _add(s, _POSE + 208, touched, -dy)
            _add(s, _POSE + 224, touched, -dz)
    store(out, MEAN, mx)
    store(out, MEAN + 16, my)
    store(out, MEAN + 32, mz)
    if want_pose:
        x, y, z = load(params, at), load(params, at + 16), load(params, at + 32)
        for i in range(3):
            j0, j1, gc = load(s, J00 + 16 * i), load(s, J10 + 16 * i), load(s, _GX + 16 * i)
            row = _POSE + 64 * i
            _add(s, row, touched, j0 * z00 + j1 * z10 + gc * x)
            _add(s, row + 16, touched, j0 * z01 + j1 * z11 + gc * y)
            _add(s, row + 32, touched, j0 * z02 + j1 * z12 + gc * z)
            _add(s, row + 48, touched, gc)


@lanewise
def clear_pose(s: np.ndarray) -> None:
    for row in range(POSE_ROWS):
        store(s, _POSE + 16 * row, splat(ZERO))


@lanewise
def sum_pose(s: np.ndarray, pose: np.ndarray, chunk: int) -> None:
    for row in range(POSE_ROWS):
        pose[chunk, row] = sum_lanes(load(s, _POSE + 16 * row))
