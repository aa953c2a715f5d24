"""What is done to each lane by itself: operators, comparisons, elementary instructions and 2^x."""

from __future__ import annotations

import itertools
import operator
from typing import Any

from llvmlite import ir
from numba.core import types

from .cache import inline
from .vector_types import (
    F32,
    HALF_LANES,
    I32,
    LANES,
    WIDTHS,
    Emit,
    call,
    constant,
    f32x8,
    f32x16,
    i32x8,
    i32x16,
    intrinsic,
    register,
    shuffle,
    splat_value,
)


def _binary(vector: Any, scalar: Any, result: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    return [(result, (vector, vector)), (result, (vector, scalar)), (result, (scalar, vector))]


_FF = [case for floats, _, _ in WIDTHS for case in _binary(floats, types.float32, floats)]
_II = [case for _, integers, _ in WIDTHS for case in _binary(integers, types.int32, integers)]
_MM = [(masks, (masks, masks)) for _, _, masks in WIDTHS]
_COMPARED = [
    case
    for floats, integers, masks in WIDTHS
    for case in _binary(floats, types.float32, masks) + _binary(integers, types.int32, masks)
]


def _by_kind(floating: str, integer: str | None) -> Emit:
    """Emit one builder method for float vectors and another for integer and mask vectors."""

    def emit(builder: Any, a: Any, b: Any) -> Any:
        name = floating if a.type.element == F32 else integer
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
register(operator.lshift, [(i, (i, types.int32)) for _, i, _ in WIDTHS], lambda b, x, n: b.shl(x, n))
register(operator.rshift, [(i, (i, types.int32)) for _, i, _ in WIDTHS], lambda b, x, n: b.ashr(x, n))
register(operator.invert, [(m, (m,)) for _, _, m in WIDTHS], lambda b, m: b.xor(m, constant(m.type, 1)))
register(operator.neg, [(f, (f,)) for f, _, _ in WIDTHS], lambda b, x: b.fneg(x))


def _comparison(sign: str) -> Emit:
    def emit(builder: Any, a: Any, b: Any) -> Any:
        compare = builder.fcmp_ordered if a.type.element == F32 else builder.icmp_signed
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
    register(_op, _COMPARED, _comparison(_sign))


def _kernel_only() -> Any:
    raise NotImplementedError("vector functions exist inside Numba kernels only")


def splat(value: Any) -> Any:
    """All lanes equal to the scalar `value`, rounded to float32."""
    return _kernel_only()


def splat8(value: Any) -> Any:
    """Eight lanes equal to the scalar `value`, rounded to float32."""
    return _kernel_only()


def splat_i32(value: Any) -> Any:
    """All lanes equal to the integer `value`, cut to 32 bits."""
    return _kernel_only()


def lane_index() -> Any:
    """Integer lanes 0, 1, ..., 15."""
    return _kernel_only()


def lane_index8() -> Any:
    """Integer lanes 0, 1, ..., 7."""
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


def joined(low: Any, high: Any) -> Any:
    """Two vectors of eight lanes as one of sixteen."""
    return _kernel_only()


def trailing_zeros(bits: Any) -> Any:
    """The number of the lowest bit that is set in an int64 other than 0."""
    return _kernel_only()


def bits_set(bits: Any) -> Any:
    """How many bits of an int64 are set."""
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
    return lambda builder, a: call(builder, f"llvm.{name}.v{a.type.count}f32", a.type, [a])


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return call(builder, f"llvm.fmuladd.v{a.type.count}f32", a.type, [a, b, c])


def _index(vector: Any) -> Emit:
    return lambda builder: ir.Constant(vector.ir_type, list(range(vector.lanes)))


def _bits(builder: Any, mask: Any) -> Any:
    return builder.bitcast(mask, ir.IntType(mask.type.count))


_THREE = [
    (floats, tuple(floats if wide else types.float32 for wide in kinds))
    for floats, _, _ in WIDTHS
    for kinds in itertools.product((True, False), repeat=3)
    if any(kinds)
]
register(splat, [(f32x16, (types.float32,))], lambda b, x: splat_value(b, x, LANES))
register(splat8, [(f32x8, (types.float32,))], lambda b, x: splat_value(b, x, HALF_LANES))
register(splat_i32, [(i32x16, (types.int32,))], lambda b, x: splat_value(b, x, LANES))
register(lane_index, [(i32x16, ())], _index(i32x16))
register(lane_index8, [(i32x8, ())], _index(i32x8))
register(fma, _THREE, _fma)
register(fnma, _THREE, lambda builder, a, b, c: _fma(builder, builder.fneg(a), b, c))
register(minimum, _FF + _II, _minimum)
register(maximum, _FF + _II, _maximum)
register(
    select,
    [
        (vector, (masks, a, b))
        for floats, integers, masks in WIDTHS
        for vector, scalar in ((floats, types.float32), (integers, types.int32))
        for a, b in ((vector, vector), (vector, scalar), (scalar, vector), (scalar, scalar))
    ]
    + [(masks, (masks, masks, masks)) for _, _, masks in WIDTHS],
    lambda b, m, x, y: b.select(m, x, y),
)
for _function, _name in ((absolute, "fabs"), (sqrt, "sqrt"), (floor, "floor"), (ceil, "ceil")):
    register(_function, [(f, (f,)) for f, _, _ in WIDTHS], _unary_call(_name))
for _floats, _integers, _masks in WIDTHS:
    _VFloat, _VInt = _floats.ir_type, _integers.ir_type
    register(to_float, [(_floats, (_integers,))], lambda b, x, t=_VFloat: b.sitofp(x, t))
    register(to_int, [(_integers, (_floats,))], lambda b, x, t=_VInt: b.fptosi(x, t))
    register(bits_of, [(_integers, (_floats,))], lambda b, x, t=_VInt: b.bitcast(x, t))
    register(from_bits, [(_floats, (_integers,))], lambda b, x, t=_VFloat: b.bitcast(x, t))
register(
    any_lane,
    [(types.boolean, (m,)) for _, _, m in WIDTHS],
    lambda b, m: b.icmp_unsigned("!=", _bits(b, m), ir.Constant(ir.IntType(m.type.count), 0)),
)
register(lane_bits, [(types.int32, (m,)) for _, _, m in WIDTHS], lambda b, m: b.zext(_bits(b, m), I32))
register(
    joined,
    [(f32x16, (f32x8, f32x8))],
    lambda b, low, high: shuffle(b, low, high, list(range(LANES))),
)
register(bits_set, [(types.int64, (types.int64,))], lambda b, x: call(b, "llvm.ctpop.i64", x.type, [x]))
register(
    trailing_zeros,
    [(types.int64, (types.int64,))],
    lambda b, x: call(b, "llvm.cttz.i64", x.type, [x, ir.Constant(ir.IntType(1), 1)]),
)


@intrinsic
def halves(typingctx: Any, a: Any) -> Any:
    """Sixteen float lanes as two vectors of eight: lanes 0-7 and lanes 8-15."""
    if a is not f32x16:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        parts = [shuffle(builder, args[0], args[0], list(range(at, at + HALF_LANES))) for at in (0, HALF_LANES)]
        return context.make_tuple(builder, sig.return_type, parts)

    return types.UniTuple(f32x8, 2)(f32x16), emit


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
