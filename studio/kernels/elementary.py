"""Elementary functions over sixteen lanes, and how the per-Gaussian kernels are compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from .vec import bits_of, from_bits, maximum, minimum, to_float

f32 = np.float32

LOG2_E = f32(1.4426950408889634)
LN_2 = f32(0.6931471805599453)
HALF = f32(0.5)
ONE = f32(1.0)
TWO = f32(2.0)
THREE = f32(3.0)
ZERO = f32(0.0)

# Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa.
_ROUND = f32(12582912.0)
_EXP_LOW, _EXP_HIGH = f32(-87.0), f32(88.0)
# ln 2 in two parts, so that x - n ln 2 is exact to the last bit of x.
_LN_2_HIGH, _LN_2_LOW = f32(0.693359375), f32(-2.12194440e-4)
# 1 / k!: with |r| <= ln 2 / 2 the first omitted term of e^r, r^8 / 8!, is below 6e-9.
_E2, _E3, _E4, _E5 = f32(1 / 2), f32(1 / 6), f32(1 / 24), f32(1 / 120)
_E6, _E7 = f32(1 / 720), f32(1 / 5040)
# 2 / (ln 2 (2k + 1)): log2 m = sum of these times s^(2k+1), s = (m - 1) / (m + 1), |s| <= 0.1716.
_L1, _L3, _L5 = f32(2.8853900817779268), f32(0.9617966939259756), f32(0.5770780163555854)
_L7, _L9 = f32(0.4121985831111324), f32(0.3205988979753252)
_SQRT_HALF_BITS = np.int32(0x3F3504F3)
_SHIFT = np.int32(23)


def lanewise(function: Callable[..., Any]) -> Any:
    """Declare a function called by kernels, in which products and sums may be contracted to fused multiply-adds.

    Contraction (and ignoring the sign of zero) is all that is relaxed: NaN, infinity and the order of sums keep their
    meaning. Write such code with operators; `fma` says nothing more here.
    """
    return numba.njit(nogil=True, error_model="numpy", fastmath={"contract", "nsz"})(function)


@lanewise
def exp(x: Any) -> Any:
    """e^x to 2 ulp; x is clamped to [-87, 88], so the result is finite and not zero (NaN gives e^-87)."""
    x = minimum(maximum(x, _EXP_LOW), _EXP_HIGH)
    shifted = x * LOG2_E + _ROUND
    n = shifted - _ROUND
    r = x - n * _LN_2_HIGH
    r = r - n * _LN_2_LOW
    poly = _E6 + r * _E7
    poly = _E5 + r * poly
    poly = _E4 + r * poly
    poly = _E3 + r * poly
    poly = _E2 + r * poly
    poly = ONE + r * poly
    poly = ONE + r * poly
    return from_bits(bits_of(poly) + (bits_of(shifted) << _SHIFT))


@lanewise
def log2(x: Any) -> Any:
    """Base-2 logarithm to 2 ulp for normal positive x; about -127 for zero."""
    bits = bits_of(x)
    exponent = (bits - _SQRT_HALF_BITS) >> _SHIFT
    m = from_bits(bits - (exponent << _SHIFT))
    s = (m - ONE) / (m + ONE)
    s2 = s * s
    poly = _L7 + s2 * _L9
    poly = _L5 + s2 * poly
    poly = _L3 + s2 * poly
    poly = _L1 + s2 * poly
    return to_float(exponent) + s * poly
