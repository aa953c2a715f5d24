"""From the parameters of 16 Gaussians to their ellipses on the image: what forward and backward both compute.

Each stage works on one block, sixteen lanes at a time, and leaves its results as rows of a scratch vector. There are no
branches on lane values: culled lanes compute meaningless numbers, NaN included, that the callers mask out.

The screen-space covariance is M M^T + eps2d I with M = T S, T = J W R (2x3): J the Jacobian of the projection, W the
world-to-camera rotation, R and S the Gaussian's rotation and scales. Products of nearly equal numbers are never
subtracted: by Cauchy-Binet det(M M^T) is the sum of the squared 2x2 minors of M, which are those of T (the cross
product of its rows) times two scales. An ellipse 1000 times longer than wide keeps its determinant to 1e-6 in float32,
where xx yy - xy^2 has no correct digit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from studio.kernels.elementary import ONE, TWO, ZERO, exp, f32, lanewise
from studio.kernels.vec import load, maximum, minimum, splat, sqrt, store

from .view import (
    CENTRE_X,
    CENTRE_Y,
    CENTRE_Z,
    CX,
    CY,
    EPS2D,
    FISHEYE,
    FX,
    FY,
    HIGH_U,
    HIGH_V,
    LOW_U,
    LOW_V,
    PINHOLE,
)

# Rows of a block, as offsets.
MEAN, QUATERNION, LOG_SCALE, LOGIT, COLOUR = 0, 3 * 16, 7 * 16, 10 * 16, 11 * 16

# Rows of the scratch vector, as offsets.
XC, YC, ZC = 0, 16, 32  # mean in camera space
DIR, DIR_Y, DIR_Z = 48, 64, 80  # unit vector camera centre -> mean
DIR_INV = 96  # 1 / distance
PX, PY = 112, 128  # projected mean, pixels
J00, J01, J02, J10, J11, J12 = range(144, 240, 16)  # Jacobian of the projection
T00, T01, T02, T10, T11, T12 = range(240, 336, 16)
S0, S1, S2 = range(336, 384, 16)  # squared scales
XX, XY, YY = range(384, 432, 16)  # covariance before the dilation
N0, N1, N2 = range(432, 480, 16)  # cross product of the rows of T
DET_SHARP, DET = 480, 496  # determinant before and after the dilation
GEOMETRY_SIZE = 512

_TINY = f32(1e-30)
_SERIES_LIMIT = 1e-3


@lanewise
def aligned_scratch(size: int) -> np.ndarray:
    """An uninitialised float32 vector that starts on a cache line."""
    buffer = np.empty(size + 16, np.float32)
    start = ((64 - buffer.ctypes.data % 64) % 64) // 4
    return buffer[start : start + size]


@lanewise
def camera_space(params: np.ndarray, at: int, view: np.ndarray, s: np.ndarray) -> None:
    """Means in camera space, and the direction and inverse distance from the camera centre."""
    x, y, z = load(params, at), load(params, at + 16), load(params, at + 32)
    store(s, XC, x * view[0] + (y * view[1] + (z * view[2] + view[3])))
    store(s, YC, x * view[4] + (y * view[5] + (z * view[6] + view[7])))
    store(s, ZC, x * view[8] + (y * view[9] + (z * view[10] + view[11])))
    x, y, z = x - view[CENTRE_X], y - view[CENTRE_Y], z - view[CENTRE_Z]
    inverse = ONE / sqrt(maximum(x * x + y * y + z * z, _TINY))
    store(s, DIR, x * inverse)
    store(s, DIR_Y, y * inverse)
    store(s, DIR_Z, z * inverse)
    store(s, DIR_INV, inverse)


@lanewise
def _pinhole(view: np.ndarray, s: np.ndarray) -> None:
    fx, fy = view[FX], view[FY]
    inverse = ONE / load(s, ZC)
    u, v = load(s, XC) * inverse, load(s, YC) * inverse
    store(s, PX, fx * u + view[CX])
    store(s, PY, fy * v + view[CY])
    zero = splat(ZERO)
    store(s, J00, fx * inverse)
    store(s, J01, zero)
    store(s, J02, -fx * inverse * minimum(maximum(u, view[LOW_U]), view[HIGH_U]))
    store(s, J10, zero)
    store(s, J11, fy * inverse)
    store(s, J12, -fy * inverse * minimum(maximum(v, view[LOW_V]), view[HIGH_V]))


@lanewise
def _ortho(view: np.ndarray, s: np.ndarray) -> None:
    fx, fy = view[FX], view[FY]
    store(s, PX, fx * load(s, XC) + view[CX])
    store(s, PY, fy * load(s, YC) + view[CY])
    zero = splat(ZERO)
    store(s, J00, splat(fx))
    store(s, J01, zero)
    store(s, J02, zero)
    store(s, J10, zero)
    store(s, J11, splat(fy))
    store(s, J12, zero)


@lanewise
def fisheye_terms(x: float, y: float, z: float) -> tuple[float, float, float]:
    """g = theta / r, h = (dg/dr) / r and k = (dh/dr) / r of the equidistant fisheye, in float64.

    r = |(x, y)|, theta = atan2(r, z); the image point is f (x, y) g. All three are 0 / 0 on the axis, where their
    series in (r / z)^2 take over.
    """
    r2, z2 = x * x + y * y, z * z
    if r2 < _SERIES_LIMIT * z2 and z > 0.0:
        u = r2 / z2
        g = (1.0 - u * (1 / 3 - u * (1 / 5 - u * (1 / 7 - u / 9)))) / z
        h = -(2 / 3 - u * (4 / 5 - u * (6 / 7 - u * (8 / 9 - u * (10 / 11))))) / (z * z2)
        k = 2.0 * (4 / 5 - u * (12 / 7 - u * (24 / 9 - u * (40 / 11 - u * (60 / 13))))) / (z * z2 * z2)
        return g, h, k
    r2 = max(r2, 1e-30)
    r = math.sqrt(r2)
    d2 = r2 + z2
    g = math.atan2(r, z) / r
    h = (z / d2 - g) / r2
    k = (-2.0 * z / (d2 * d2) - 3.0 * h) / r2
    return g, h, k


@lanewise
def _fisheye(view: np.ndarray, s: np.ndarray) -> None:
    fx, fy, cx, cy = np.float64(view[FX]), np.float64(view[FY]), np.float64(view[CX]), np.float64(view[CY])
    for i in range(16):
        x, y, z = np.float64(s[XC + i]), np.float64(s[YC + i]), np.float64(s[ZC + i])
        g, h, _ = fisheye_terms(x, y, z)
        dz = -1.0 / max(x * x + y * y + z * z, 1e-30)
        s[PX + i] = fx * x * g + cx
        s[PY + i] = fy * y * g + cy
        s[J00 + i] = fx * (g + x * x * h)
        s[J01 + i] = fx * x * y * h
        s[J02 + i] = fx * x * dz
        s[J10 + i] = fy * x * y * h
        s[J11 + i] = fy * (g + y * y * h)
        s[J12 + i] = fy * y * dz


@lanewise
def project_means(model: int, view: np.ndarray, s: np.ndarray) -> None:
    """Projected means and the Jacobian, for the camera model with this code."""
    if model == PINHOLE:
        _pinhole(view, s)
    elif model == FISHEYE:
        _fisheye(view, s)
    else:
        _ortho(view, s)


@lanewise
def unit_quaternion(params: np.ndarray, at: int) -> Any:
    """w, x, y, z of the rotations, and 1 / length of the quaternions they were."""
    at += QUATERNION
    w, x, y, z = load(params, at), load(params, at + 16), load(params, at + 32), load(params, at + 48)
    inverse = ONE / sqrt(w * w + x * x + y * y + z * z)
    return w * inverse, x * inverse, y * inverse, z * inverse, inverse


@lanewise
def rotation_matrix(w: Any, x: Any, y: Any, z: Any) -> Any:
    """The nine entries of a unit quaternion's rotation matrix, row by row."""
    x2, y2, z2 = TWO * x, TWO * y, TWO * z
    return (
        ONE - y2 * y - z2 * z,
        x2 * y - z2 * w,
        x2 * z + y2 * w,
        x2 * y + z2 * w,
        ONE - x2 * x - z2 * z,
        y2 * z - x2 * w,
        x2 * z - y2 * w,
        y2 * z + x2 * w,
        ONE - x2 * x - y2 * y,
    )


@lanewise
def _row_times(j0: Any, j1: Any, j2: Any, view: np.ndarray, rotation: Any) -> Any:
    """(j0, j1, j2) W R."""
    e0 = j0 * view[0] + j1 * view[4] + j2 * view[8]
    e1 = j0 * view[1] + j1 * view[5] + j2 * view[9]
    e2 = j0 * view[2] + j1 * view[6] + j2 * view[10]
    r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation
    return e0 * r00 + e1 * r10 + e2 * r20, e0 * r01 + e1 * r11 + e2 * r21, e0 * r02 + e1 * r12 + e2 * r22


@lanewise
def project_shapes(params: np.ndarray, at: int, view: np.ndarray, s: np.ndarray) -> None:
    """T, squared scales, covariance on the image, minors and determinants; reads the Jacobian."""
    w, x, y, z, _ = unit_quaternion(params, at)
    rotation = rotation_matrix(w, x, y, z)
    t00, t01, t02 = _row_times(load(s, J00), load(s, J01), load(s, J02), view, rotation)
    t10, t11, t12 = _row_times(load(s, J10), load(s, J11), load(s, J12), view, rotation)
    s0 = exp(TWO * load(params, at + LOG_SCALE))
    s1 = exp(TWO * load(params, at + LOG_SCALE + 16))
    s2 = exp(TWO * load(params, at + LOG_SCALE + 32))
    n0, n1, n2 = t01 * t12 - t02 * t11, t02 * t10 - t00 * t12, t00 * t11 - t01 * t10
    xx = t00 * t00 * s0 + t01 * t01 * s1 + t02 * t02 * s2
    yy = t10 * t10 * s0 + t11 * t11 * s1 + t12 * t12 * s2
    det_sharp = n0 * n0 * (s1 * s2) + n1 * n1 * (s0 * s2) + n2 * n2 * (s0 * s1)
    eps = view[EPS2D]
    store(s, T00, t00)
    store(s, T01, t01)
    store(s, T02, t02)
    store(s, T10, t10)
    store(s, T11, t11)
    store(s, T12, t12)
    store(s, S0, s0)
    store(s, S1, s1)
    store(s, S2, s2)
    store(s, N0, n0)
    store(s, N1, n1)
    store(s, N2, n2)
    store(s, XX, xx)
    store(s, XY, t00 * t10 * s0 + t01 * t11 * s1 + t02 * t12 * s2)
    store(s, YY, yy)
    store(s, DET_SHARP, det_sharp)
    store(s, DET, det_sharp + eps * (xx + yy) + eps * eps)
