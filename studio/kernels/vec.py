"""Sixteen-lane vectors inside Numba kernels.

Numba's auto-vectoriser gives up on loops with branches, gathers and reductions, which is all a rasteriser is. Here a
value of type `f32x16`, `i32x16` or `mask16` is one LLVM vector, so the kernel says what is done in parallel. LLVM
maps a vector to one AVX-512 register, two of AVX2 or four of NEON; nothing here names a target.

Operators ``+ - * /`` (also with a scalar on either side), comparisons, and ``& | ^ ~`` on masks and integers work as
on numbers; integers shift with ``<<`` and ``>>`` (arithmetic). Products and sums are never contracted behind your back:
use :func:`fma`. Functions take flat element offsets into C-contiguous arrays of any rank, without bounds checks.

All names are callable inside kernels only.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import lower_builtin, models, register_model

from .cache import inline

LANES = 16

intrinsic: Any = numba_intrinsic  # its annotations name the typing context as a parameter of every call

_F32 = ir.FloatType()
_I32 = ir.IntType(32)
_VF = ir.VectorType(_F32, LANES)
_VI = ir.VectorType(_I32, LANES)
_VM = ir.VectorType(ir.IntType(1), LANES)


class VectorType(types.Type):
    """Numba type of a vector of sixteen lanes."""

    def __init__(self, name: str, element: ir.Type) -> None:
        self.ir_type = ir.VectorType(element, LANES)
        super().__init__(name=name)


f32x16 = VectorType("f32x16", _F32)
i32x16 = VectorType("i32x16", _I32)
mask16 = VectorType("mask16", ir.IntType(1))


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: VectorType) -> None:
        super().__init__(dmm, fe_type, fe_type.ir_type)


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


def _splat(builder: Any, scalar: Any) -> Any:
    vector_type = ir.VectorType(scalar.type, LANES)
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
    return _shuffle(builder, first, undefined, [0] * LANES)


def _constant(vector_type: Any, value: float) -> Any:
    return ir.Constant(vector_type, [value] * LANES)


def _call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    function_type = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


_Emit = Callable[..., Any]


def _register(function: Any, cases: list[tuple[Any, tuple[Any, ...]]], emit: _Emit) -> None:
    """Teach Numba that `function` of the parameter types of each case (result, parameters) is emitted by `emit`.

    A scalar given where `emit` expects a vector is splatted.
    """
    rows = [signature(result, *parameters) for result, parameters in cases]

    class Template(ConcreteTemplate):
        cases = rows

    infer_global(function)(Template)
    for _, parameters in cases:

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            wide = any(isinstance(p, VectorType) for p in sig.args)
            if wide:
                args = [
                    a if isinstance(p, VectorType) else _splat(builder, a) for p, a in zip(sig.args, args, strict=True)
                ]
            return emit(builder, *args)

        lower_builtin(function, *parameters)(lower)


def _binary(vector: Any, scalar: Any, result: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    return [(result, (vector, vector)), (result, (vector, scalar)), (result, (scalar, vector))]


_FF = _binary(f32x16, types.float32, f32x16)
_II = _binary(i32x16, types.int32, i32x16)
_MM = [(mask16, (mask16, mask16))]


def _by_kind(floating: str, integer: str | None) -> _Emit:
    """Emit one builder method for float vectors and another for integer and mask vectors."""

    def emit(builder: Any, a: Any, b: Any) -> Any:
        name = floating if a.type == _VF else integer
        return getattr(builder, str(name))(a, b)

    return emit


for _ops, _float, _int in (
    ((operator.add, operator.iadd), "fadd", "add"),
    ((operator.sub, operator.isub), "fsub", "sub"),
    ((operator.mul, operator.imul), "fmul", "mul"),
):
    for _op in _ops:
        _register(_op, _FF + _II, _by_kind(_float, _int))
_register(operator.truediv, _FF, _by_kind("fdiv", None))
for _ops, _name in (
    ((operator.and_, operator.iand), "and_"),
    ((operator.or_, operator.ior), "or_"),
    ((operator.xor, operator.ixor), "xor"),
):
    for _op in _ops:
        _register(_op, _II + _MM, _by_kind("", _name))
_register(operator.lshift, [(i32x16, (i32x16, types.int32))], lambda b, x, n: b.shl(x, n))
_register(operator.rshift, [(i32x16, (i32x16, types.int32))], lambda b, x, n: b.ashr(x, n))
_register(operator.invert, [(mask16, (mask16,))], lambda b, m: b.xor(m, _constant(_VM, 1)))
_register(operator.neg, [(f32x16, (f32x16,))], lambda b, x: b.fneg(x))


def _comparison(sign: str) -> _Emit:
    def emit(builder: Any, a: Any, b: Any) -> Any:
        compare = builder.fcmp_ordered if a.type == _VF else builder.icmp_signed
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
    _register(_op, _binary(f32x16, types.float32, mask16) + _binary(i32x16, types.int32, mask16), _comparison(_sign))


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


def _unary_call(name: str) -> _Emit:
    return lambda builder, a: _call(builder, f"llvm.{name}.v16f32", _VF, [a])


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call(builder, "llvm.fmuladd.v16f32", _VF, [a, b, c])


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
_register(splat, [(f32x16, (types.float32,))], _splat)
_register(splat_i32, [(i32x16, (types.int32,))], _splat)
_register(lane_index, [(i32x16, ())], lambda b: ir.Constant(_VI, list(range(LANES))))
_register(fma, _THREE, _fma)
_register(fnma, _THREE, lambda builder, a, b, c: _fma(builder, builder.fneg(a), b, c))
_register(minimum, _FF + _II, _minimum)
_register(maximum, _FF + _II, _maximum)
_register(
    select,
    [
        (vector, (mask16, a, b))
        for vector, scalar in ((f32x16, types.float32), (i32x16, types.int32))
        for a, b in ((vector, vector), (vector, scalar), (scalar, vector), (scalar, scalar))
    ]
    + [(mask16, (mask16, mask16, mask16))],
    lambda b, m, x, y: b.select(m, x, y),
)
_register(absolute, [(f32x16, (f32x16,))], _unary_call("fabs"))
_register(sqrt, [(f32x16, (f32x16,))], _unary_call("sqrt"))
_register(floor, [(f32x16, (f32x16,))], _unary_call("floor"))
_register(ceil, [(f32x16, (f32x16,))], _unary_call("ceil"))
_register(to_float, [(f32x16, (i32x16,))], lambda b, x: b.sitofp(x, _VF))
_register(to_int, [(i32x16, (f32x16,))], lambda b, x: b.fptosi(x, _VI))
_register(bits_of, [(i32x16, (f32x16,))], lambda b, x: b.bitcast(x, _VI))
_register(from_bits, [(f32x16, (i32x16,))], lambda b, x: b.bitcast(x, _VF))
_register(
    any_lane,
    [(types.boolean, (mask16,))],
    lambda b, m: b.icmp_unsigned("!=", b.bitcast(m, ir.IntType(LANES)), ir.Constant(ir.IntType(LANES), 0)),
)
_register(lane_bits, [(types.int32, (mask16,))], lambda b, m: b.zext(b.bitcast(m, ir.IntType(LANES)), _I32))


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset], inbounds=True)


def _vector_of(array: Any) -> Any:
    if not isinstance(array, types.Array):
        return None
    if array.dtype == types.float32:
        return f32x16
    return i32x16 if array.dtype in (types.int32, types.uint32) else None


@intrinsic
def load(typingctx: Any, array: Any, offset: Any) -> Any:
    """Sixteen elements of a float32 or (u)int32 array from the flat element `offset` on; any alignment."""
    vector = _vector_of(array)
    if vector is None:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1])
        return builder.load(builder.bitcast(pointer, vector.ir_type.as_pointer()), align=4)

    return vector(array, types.intp), emit


@intrinsic
def store(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """Write the sixteen lanes of `value` from the flat element `offset` on; any alignment."""
    if _vector_of(array) is not value:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(pointer, value.ir_type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


_QUARTER = ir.VectorType(_F32, 4)


def _quarters(context: Any, builder: Any, sig: Any, args: Any) -> list[Any]:
    """Pointers to the four rows of four floats that :func:`load_block` and :func:`store_block` name."""
    rows = []
    offset = args[1]
    for _ in range(4):
        pointer = _pointer(context, builder, sig.args[0], args[0], offset)
        rows.append(builder.bitcast(pointer, _QUARTER.as_pointer()))
        offset = builder.add(offset, args[2])
    return rows


@intrinsic
def load_block(typingctx: Any, array: Any, offset: Any, stride: Any) -> Any:
    """Four rows of four float32, `stride` elements apart, as the lanes 0-3, 4-7, 8-11 and 12-15."""
    if _vector_of(array) is not f32x16:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b, c, d = (builder.load(row, align=4) for row in _quarters(context, builder, sig, args))
        low, high = (_shuffle(builder, x, y, list(range(8))) for x, y in ((a, b), (c, d)))
        return _shuffle(builder, low, high, list(range(LANES)))

    return f32x16(array, types.intp, types.intp), emit


@intrinsic
def store_block(typingctx: Any, array: Any, offset: Any, stride: Any, value: Any) -> Any:
    """Write the lanes as four rows of four, `stride` elements apart."""
    if _vector_of(array) is not f32x16 or value is not f32x16:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for i, row in enumerate(_quarters(context, builder, sig, args)):
            builder.store(_shuffle(builder, args[3], args[3], list(range(4 * i, 4 * i + 4))), row, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value), emit


@intrinsic
def broadcast(typingctx: Any, array: Any, offset: Any) -> Any:
    """All lanes equal to the element at the flat `offset`."""
    vector = _vector_of(array)
    if vector is None:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _splat(builder, builder.load(_pointer(context, builder, sig.args[0], args[0], args[1])))

    return vector(array, types.intp), emit


@intrinsic
def element(typingctx: Any, array: Any, offset: Any) -> Any:
    """The scalar at the flat `offset`: plain indexing without the test for negative indices."""
    if not isinstance(array, types.Array):
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, sig.args[0], args[0], args[1]))

    return array.dtype(array, types.intp), emit


@intrinsic
def put(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """Write the scalar at the flat `offset`: plain assignment without the test for negative indices."""
    if not isinstance(array, types.Array):
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.store(args[2], _pointer(context, builder, sig.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), emit


@intrinsic
def prefetch(typingctx: Any, array: Any, offset: Any) -> Any:
    """Ask for the cache line of the element at the flat `offset`; harmless for any address."""

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        kind = pointer.type.intrinsic_name if hasattr(pointer.type, "intrinsic_name") else "p0"
        hints = [ir.Constant(_I32, n) for n in (0, 3, 1)]  # read, keep in all levels, data
        name = "llvm.prefetch.p0" if kind.startswith("p0") else f"llvm.prefetch.{kind}"
        _call(builder, name, ir.VoidType(), [pointer, *hints])
        return context.get_dummy_value()

    return types.void(array, types.intp), emit


@intrinsic
def fetch_add(typingctx: Any, counter: Any, amount: Any) -> Any:
    """Add to the first element of an int64 array atomically, and return what it was."""
    if not (isinstance(counter, types.Array) and counter.dtype == types.int64):
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, args[1], "monotonic")

    return types.int64(counter, types.int64), emit


# The four levels of the summing tree. At each, two vectors become one: `low` and `high` pick the halves that are added.
# The picks are those that x86 does in one instruction (whole 256-bit, 128-bit, 64-bit, then 32-bit pieces).
_TREE = (
    ([0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23], [8, 9, 10, 11, 12, 13, 14, 15, *range(24, 32)]),
    (
        [0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27],
        [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31],
    ),
    (
        [0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29],
        [2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31],
    ),
    (
        [0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30],
        [1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31],
    ),
)


def _sum_tree(builder: Any, vectors: list[Any]) -> Any:
    nodes = list(vectors)
    for low, high in _TREE:
        merged = []
        for i in range(0, len(nodes), 2):
            a = nodes[i]
            # A missing partner leaves lanes that nobody reads.
            b = nodes[i + 1] if i + 1 < len(nodes) else ir.Constant(_VF, ir.Undefined)
            merged.append(builder.fadd(_shuffle(builder, a, b, low), _shuffle(builder, a, b, high)))
        nodes = merged
    # Leaf 4p + l has ended in lane 4l + p; lanes without a leaf become 0.
    order = [4 * (leaf % 4) + leaf // 4 if leaf < len(vectors) else LANES for leaf in range(LANES)]
    return _shuffle(builder, nodes[0], _constant(_VF, 0.0), order)


@intrinsic
def sum_rows(typingctx: Any, vectors: Any) -> Any:
    """Lane i of the result is the sum of the lanes of ``vectors[i]``; up to 16 vectors, lanes beyond are 0.

    The order of the additions is fixed by the source, so the result does not depend on the CPU.
    """
    if not (isinstance(vectors, types.UniTuple) and vectors.dtype is f32x16 and 0 < len(vectors) <= LANES):
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _sum_tree(builder, cgutils.unpack_tuple(builder, args[0], sig.args[0].count))

    return f32x16(vectors), emit


@intrinsic
def sum_lanes(typingctx: Any, vector: Any) -> Any:
    """Sum of the sixteen lanes as a float32, in a fixed order."""
    if vector is not f32x16:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.extract_element(_sum_tree(builder, [args[0]]), ir.Constant(_I32, 0))

    return types.float32(vector), emit


@intrinsic
def transpose(typingctx: Any, rows: Any) -> Any:
    """Sixteen vectors as the rows of a 16x16 matrix -> its columns; a tuple of 16 in and out."""
    if not (isinstance(rows, types.UniTuple) and rows.dtype is f32x16 and len(rows) == LANES):
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        matrix = cgutils.unpack_tuple(builder, args[0], LANES)
        for step in (8, 4, 2, 1):
            # Swap the off-diagonal blocks of size `step`: after all four, element (i, j) has moved to (j, i).
            low = [lane if not lane & step else LANES + (lane ^ step) for lane in range(LANES)]
            high = [(lane ^ step) if not lane & step else LANES + lane for lane in range(LANES)]
            for i in range(LANES):
                if not i & step:
                    a, b = matrix[i], matrix[i + step]
                    matrix[i] = _shuffle(builder, a, b, low)
                    matrix[i + step] = _shuffle(builder, a, b, high)
        return context.make_tuple(builder, sig.return_type, matrix)

    return rows(rows), emit


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
