"""Vectors and scalars to and from arrays, by flat element offsets and without bounds checks."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from .vector_types import F32, I32, LANES, call, f32x16, i32x16, intrinsic, shuffle, splat_value


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


_QUARTER = ir.VectorType(F32, 4)


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
        low, high = (shuffle(builder, x, y, list(range(8))) for x, y in ((a, b), (c, d)))
        return shuffle(builder, low, high, list(range(LANES)))

    return f32x16(array, types.intp, types.intp), emit


@intrinsic
def store_block(typingctx: Any, array: Any, offset: Any, stride: Any, value: Any) -> Any:
    """Write the lanes as four rows of four, `stride` elements apart."""
    if _vector_of(array) is not f32x16 or value is not f32x16:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for i, row in enumerate(_quarters(context, builder, sig, args)):
            builder.store(shuffle(builder, args[3], args[3], list(range(4 * i, 4 * i + 4))), row, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp, value), emit


@intrinsic
def broadcast(typingctx: Any, array: Any, offset: Any) -> Any:
    """All lanes equal to the element at the flat `offset`."""
    vector = _vector_of(array)
    if vector is None:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return splat_value(builder, builder.load(_pointer(context, builder, sig.args[0], args[0], args[1])))

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
        hints = [ir.Constant(I32, n) for n in (0, 3, 1)]  # read, keep in all levels, data
        name = "llvm.prefetch.p0" if kind.startswith("p0") else f"llvm.prefetch.{kind}"
        call(builder, name, ir.VoidType(), [pointer, *hints])
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
