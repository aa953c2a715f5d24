"""Real spherical harmonics over the 16 lanes of a block, to degree 4, and their gradients.

The polynomials of Sloan, *Efficient Spherical Harmonic Evaluation* (JCGT 2013), on the unit sphere, with the
Condon-Shortley phase and in the order l = 0, 1, ..., m = -l ... l in which 3D Gaussian splatting stores coefficients.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from studio.kernels.elementary import ZERO, f32, lanewise
from studio.kernels.vec import load, splat, store

MAX_DEGREE = 4
MAX_BASIS = (MAX_DEGREE + 1) ** 2

_pi = math.pi
C0 = f32(0.5 / math.sqrt(_pi))
_C1 = f32(math.sqrt(3 / (4 * _pi)))
_C2_XY = f32(0.5 * math.sqrt(15 / _pi))
_C2_ZZ = f32(0.25 * math.sqrt(5 / _pi))
_C2_XX = f32(0.25 * math.sqrt(15 / _pi))
_C3_3 = f32(0.25 * math.sqrt(35 / (2 * _pi)))
_C3_XYZ = f32(0.5 * math.sqrt(105 / _pi))
_C3_1 = f32(0.25 * math.sqrt(21 / (2 * _pi)))
_C3_0 = f32(0.25 * math.sqrt(7 / _pi))
_C3_2 = f32(0.25 * math.sqrt(105 / _pi))
_C4_4S = f32(0.75 * math.sqrt(35 / _pi))
_C4_3 = f32(0.75 * math.sqrt(35 / (2 * _pi)))
_C4_2S = f32(0.75 * math.sqrt(5 / _pi))
_C4_1 = f32(0.75 * math.sqrt(5 / (2 * _pi)))
_C4_0 = f32(0.1875 / math.sqrt(_pi))
_C4_2 = f32(0.375 * math.sqrt(5 / _pi))
_C4_4 = f32(0.1875 * math.sqrt(35 / _pi))
_1, _2, _3, _4, _5, _6, _7 = (f32(i) for i in range(1, 8))
_10, _12, _14, _15, _21, _30 = f32(10), f32(12), f32(14), f32(15), f32(21), f32(30)
_35, _60, _140 = f32(35), f32(60), f32(140)


@lanewise
def evaluate_basis(degree: int, x: Any, y: Any, z: Any, basis: np.ndarray) -> None:
    """Write the (degree + 1)^2 basis functions of 16 unit vectors; basis function k goes to 16 k."""
    store(basis, 0, splat(C0))
    if degree >= 1:
        store(basis, 16, -_C1 * y)
        store(basis, 32, _C1 * z)
        store(basis, 48, -_C1 * x)
    if degree >= 2:
        store(basis, 4 * 16, _C2_XY * x * y)
        store(basis, 5 * 16, -_C2_XY * y * z)
        store(basis, 6 * 16, _C2_ZZ * (_3 * z * z - _1))
        store(basis, 7 * 16, -_C2_XY * x * z)
        store(basis, 8 * 16, _C2_XX * (x * x - y * y))
    if degree >= 3:
        xx, yy, zz = x * x, y * y, z * z
        store(basis, 9 * 16, -_C3_3 * y * (_3 * xx - yy))
        store(basis, 10 * 16, _C3_XYZ * x * y * z)
        store(basis, 11 * 16, -_C3_1 * y * (_5 * zz - _1))
        store(basis, 12 * 16, _C3_0 * z * (_5 * zz - _3))
        store(basis, 13 * 16, -_C3_1 * x * (_5 * zz - _1))
        store(basis, 14 * 16, _C3_2 * z * (xx - yy))
        store(basis, 15 * 16, -_C3_3 * x * (xx - _3 * yy))
    if degree >= 4:
        xx, yy, zz = x * x, y * y, z * z
        sin3, cos3 = y * (_3 * xx - yy), x * (xx - _3 * yy)
        store(basis, 16 * 16, _C4_4S * x * y * (xx - yy))
        store(basis, 17 * 16, -_C4_3 * z * sin3)
        store(basis, 18 * 16, _C4_2S * x * y * (_7 * zz - _1))
        store(basis, 19 * 16, -_C4_1 * y * z * (_7 * zz - _3))
        store(basis, 20 * 16, _C4_0 * (zz * (_35 * zz - _30) + _3))
        store(basis, 21 * 16, -_C4_1 * x * z * (_7 * zz - _3))
        store(basis, 22 * 16, _C4_2 * (xx - yy) * (_7 * zz - _1))
        store(basis, 23 * 16, -_C4_3 * z * cos3)
        store(basis, 24 * 16, _C4_4 * (x * cos3 - y * sin3))


@lanewise
def basis_gradient(degree: int, x: Any, y: Any, z: Any, weight: np.ndarray) -> Any:
    """Gradient (three vectors) of sum_k weight_k basis_k with respect to x, y, z, as of a polynomial in them.

    Only its part tangent to the sphere has a meaning; the caller projects. `weight` has weight k at 16 k.
    """
    gx, gy, gz = splat(ZERO), splat(ZERO), splat(ZERO)
    if degree >= 1:
        gx = -_C1 * load(weight, 48)
        gy = -_C1 * load(weight, 16)
        gz = _C1 * load(weight, 32)
    if degree >= 2:
        w4, w5, w7 = _C2_XY * load(weight, 64), _C2_XY * load(weight, 80), _C2_XY * load(weight, 112)
        w6, w8 = _6 * _C2_ZZ * load(weight, 96), _2 * _C2_XX * load(weight, 128)
        gx = gx + w4 * y - w7 * z + w8 * x
        gy = gy + w4 * x - w5 * z - w8 * y
        gz = gz + w6 * z - w5 * y - w7 * x
    if degree >= 3:
        xx, yy, zz, xy = x * x, y * y, z * z, x * y
        w9, w10 = _3 * _C3_3 * load(weight, 9 * 16), _C3_XYZ * load(weight, 10 * 16)
        w11, w12 = _C3_1 * load(weight, 11 * 16), _C3_0 * load(weight, 12 * 16)
        w13, w14 = _C3_1 * load(weight, 13 * 16), _C3_2 * load(weight, 14 * 16)
        w15 = _3 * _C3_3 * load(weight, 15 * 16)
        along = _5 * zz - _1
        gx = gx - _2 * w9 * xy + w10 * y * z - w13 * along + _2 * w14 * x * z - w15 * (xx - yy)
        gy = gy - w9 * (xx - yy) + w10 * x * z - w11 * along - _2 * w14 * y * z + _2 * w15 * xy
        gz = gz + (w10 * xy - _10 * z * (w11 * y + w13 * x) + w12 * (_15 * zz - _3) + w14 * (xx - yy))
    if degree >= 4:
        xx, yy, zz, xy = x * x, y * y, z * z, x * y
        sin3, cos3 = y * (_3 * xx - yy), x * (xx - _3 * yy)
        w16, w17 = _C4_4S * load(weight, 16 * 16), _C4_3 * load(weight, 17 * 16)
        w18, w19 = _C4_2S * load(weight, 18 * 16), _C4_1 * load(weight, 19 * 16)
        w20, w21 = _C4_0 * load(weight, 20 * 16), _C4_1 * load(weight, 21 * 16)
        w22, w23 = _C4_2 * load(weight, 22 * 16), _C4_3 * load(weight, 23 * 16)
        w24 = _4 * _C4_4 * load(weight, 24 * 16)
        a, b, c = _7 * zz - _1, z * (_7 * zz - _3), _21 * zz - _3
        gx = gx + (
            w16 * sin3
            - _6 * w17 * xy * z
            + w18 * y * a
            - w21 * b
            + _2 * w22 * x * a
            - _3 * w23 * z * (xx - yy)
            + w24 * cos3
        )
        gy = gy + (
            w16 * cos3
            - _3 * w17 * z * (xx - yy)
            + w18 * x * a
            - w19 * b
            - _2 * w22 * y * a
            + _6 * w23 * xy * z
            - w24 * sin3
        )
        gz = gz + (
            -w17 * sin3
            + _14 * z * (w18 * xy + w22 * (xx - yy))
            - c * (w19 * y + w21 * x)
            + w20 * z * (_140 * zz - _60)
            - w23 * cos3
        )
    return gx, gy, gz
