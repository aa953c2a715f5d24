"""What is done to each lane by itself: operators, comparisons, elementary instructions and 2^x."""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import types

from .cache import inline
from .vector_types import (
    I32,
    LANES,
    VF,
    VI,
    VM,
    Emit,
    call,
    constant,
    f32x16,
    i32x16,
    mask16,
    register,
    splat_value,
)


def _binary(vector: Any, scalar: Any, result: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    return [(result, (vector, vector)), (result, (vector, scalar)), (result, (scalar, vector))]


_FF = _binary(f32x16, types.float32, f32x16)
_II = _binary(i32x16, types.int32, i32x16)
_MM = [(mask16, (mask16, mask16))]


def _by_kind(floating: str, integer: str | None) -> Emit:
    """Emit one builder method for float vectors and another for integer and mask vectors."""

    def emit(builder: Any, a: Any, b: Any) -> Any:
        name = floating if a.type == VF else integer
        return getattr(builder, str(name))(a, b)

    return emit


for _ops, _float, _int in (
    ((operator.add, operator.iadd), "fadd", "add"),
    ((operator.sub, operator.isub), "fsub", "sub"),
    ((operator.mul, operator.imul), "fmul", "mul"),
):
    for _op in _ops:
        register(_op, _FF + _II, _by_kind(_float, _int))
register(operator.truediv, _FF, _by_kind("fdiv", None))
for _ops, _name in (
    ((operator.and_, operator.iand), "and_"),
    ((operator.or_, operator.ior), "or_"),
    ((operator.xor, operator.ixor), "xor"),
):
    for _op in _ops:
        register(_op, _II + _MM, _by_kind("", _name))
register(operator.lshift, [(i32x16, (i32x16, types.int32))], lambda b, x, n: b.shl(x, n))
register(operator.rshift, [(i32x16, (i32x16, types.int32))], lambda b, x, n: b.ashr(x, n))
register(operator.invert, [(mask16, (mask16,))], lambda b, m: b.xor(m, constant(VM, 1)))
register(operator.neg, [(f32x16, (f32x16,))], lambda b, x: b.fneg(x))


def _comparison(sign: str) -> Emit:
    def emit(builder: Any, a: Any, b: Any) -> Any:
        compare = builder.fcmp_ordered if a.type == VF else builder.icmp_signed
        return compare(sign, a, b)

    return emit


for _op, _sign in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
    (operator.ne, "!="),
):
    register(_op, _binary(f32x16, types.float32, mask16) + _binary(i32x16, types.int32, mask16), _comparison(_sign))


def _kernel_only() -> Any:
    raise NotImplementedError("vector functions exist inside Numba kernels only")


def splat(value: Any) -> Any:
    """All lanes equal to the scalar `value`, rounded to float32."""
    return _kernel_only()


def splat_i32(value: Any) -> Any:
    """All lanes equal to the integer `value`, cut to 32 bits."""
    return _kernel_only()


def lane_index() -> Any:
    """Integer lanes 0, 1, ..., 15."""
    return _kernel_only()


def fma(a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once where the CPU can (LLVM ``fmuladd``: never a slow emulation)."""
    return _kernel_only()


def fnma(a: Any, b: Any, c: Any) -> Any:
    """c − a b, rounded once where the CPU can."""
    return _kernel_only()


def minimum(a: Any, b: Any) -> Any:
    """Lane-wise a < b ? a : b, so `b` where either is NaN (one instruction; IEEE minimum would be four)."""
    return _kernel_only()


def maximum(a: Any, b: Any) -> Any:
    """Lane-wise a > b ? a : b, so `b` where either is NaN."""
    return _kernel_only()


def select(mask: Any, a: Any, b: Any) -> Any:
    """Lane-wise mask ? a : b."""
    return _kernel_only()


def absolute(a: Any) -> Any:
    """|a|."""
    return _kernel_only()


def sqrt(a: Any) -> Any:
    """Correctly rounded square root."""
    return _kernel_only()


def floor(a: Any) -> Any:
    """Largest whole number not above `a`, as a float."""
    return _kernel_only()


def ceil(a: Any) -> Any:
    """Smallest whole number not below `a`, as a float."""
    return _kernel_only()


def to_float(a: Any) -> Any:
    """Integer lanes as floats."""
    return _kernel_only()


def to_int(a: Any) -> Any:
    """Float lanes cut towards zero; undefined outside the int32 range and for NaN, so clamp first."""
    return _kernel_only()


def bits_of(a: Any) -> Any:
    """The float lanes' bit patterns as integers."""
    return _kernel_only()


def from_bits(a: Any) -> Any:
    """Floats of the integer lanes' bit patterns."""
    return _kernel_only()


def any_lane(mask: Any) -> Any:
    """True if any lane is set."""
    return _kernel_only()


def lane_bits(mask: Any) -> Any:
    """The mask as an int32, lane i in bit i."""
    return _kernel_only()


def _minimum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(_comparison("<")(builder, a, b), a, b)


def _maximum(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(_comparison(">")(builder, a, b), a, b)


def _unary_call(name: str) -> Emit:
    return lambda builder, a: call(builder, f"llvm.{name}.v16f32", VF, [a])


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return call(builder, "llvm.fmuladd.v16f32", VF, [a, b, c])


_THREE = [
    (f32x16, tuple(kinds))
    for kinds in (
        (f32x16, f32x16, f32x16),
        (f32x16, f32x16, types.float32),
        (f32x16, types.float32, f32x16),
        (types.float32, f32x16, f32x16),
        (f32x16, types.float32, types.float32),
        (types.float32, f32x16, types.float32),
        (types.float32, types.float32, f32x16),
    )
]
register(splat, [(f32x16, (types.float32,))], splat_value)
register(splat_i32, [(i32x16, (types.int32,))], splat_value)
register(lane_index, [(i32x16, ())], lambda b: ir.Constant(VI, list(range(LANES))))
register(fma, _THREE, _fma)
register(fnma, _THREE, lambda builder, a, b, c: _fma(builder, builder.fneg(a), b, c))
register(minimum, _FF + _II, _minimum)
register(maximum, _FF + _II, _maximum)
register(
    select,
    [
        (vector, (mask16, a, b))
        for vector, scalar in ((f32x16, types.float32), (i32x16, types.int32))
        for a, b in ((vector, vector), (vector, scalar), (scalar, vector), (scalar, scalar))
    ]
    + [(mask16, (mask16, mask16, mask16))],
    lambda b, m, x, y: b.select(m, x, y),
)
register(absolute, [(f32x16, (f32x16,))], _unary_call("fabs"))
register(sqrt, [(f32x16, (f32x16,))], _unary_call("sqrt"))
register(floor, [(f32x16, (f32x16,))], _unary_call("floor"))
register(ceil, [(f32x16, (f32x16,))], _unary_call("ceil"))
register(to_float, [(f32x16, (i32x16,))], lambda b, x: b.sitofp(x, VF))
register(to_int, [(i32x16, (f32x16,))], lambda b, x: b.fptosi(x, VI))
register(bits_of, [(i32x16, (f32x16,))], lambda b, x: b.bitcast(x, VI))
register(from_bits, [(f32x16, (i32x16,))], lambda b, x: b.bitcast(x, VF))
register(
    any_lane,
    [(types.boolean, (mask16,))],
    lambda b, m: b.icmp_unsigned("!=", b.bitcast(m, ir.IntType(LANES)), ir.Constant(ir.IntType(LANES), 0)),
)
register(lane_bits, [(types.int32, (mask16,))], lambda b, m: b.zext(b.bitcast(m, ir.IntType(LANES)), I32))

_ROUND = 12582912.0  # 1.5·2^23: adding it leaves the nearest whole number in the low mantissa bits


@inline
def exp2(x: Any) -> Any:
    """2^x with relative error below 1.7e-7, exact for whole x, for x in [-126, 127); elsewhere some number, no trap.

    x = n + f with f in [-1/2, 1/2]: a degree-5 minimax polynomial with constant term 1 in f, then n added to the
    exponent bits.
    """
    shifted = x + _ROUND
    f = x - (shifted - _ROUND)
    p = fma(f, 1.326472032815218e-3, 9.671512991189957e-3)
    p = fma(p, f, 5.550733581185341e-2)
    p = fma(p, f, 2.4022242426872253e-1)
    p = fma(p, f, 6.931470036506653e-1)
    p = fma(p, f, 1.0)
    return from_bits(bits_of(p) + (bits_of(shifted) << 23))
