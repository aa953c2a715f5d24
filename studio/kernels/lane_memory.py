"""Vectors and scalars to and from arrays, by flat element offsets and without bounds checks."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from .vector_types import HALF_LANES, I32, LANES, call, f32x8, f32x16, i32x8, i32x16, intrinsic, shuffle, splat_value


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, offset: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [offset], inbounds=True)


def _vector_of(array: Any) -> Any:
    if not isinstance(array, types.Array):
        return None
    if array.dtype == types.float32:
        return f32x16
    return i32x16 if array.dtype in (types.int32, types.uint32) else None


def _load(context: Any, builder: Any, array_type: Any, array: Any, offset: Any, vector: Any) -> Any:
    pointer = _pointer(context, builder, array_type, array, offset)
    return builder.load(builder.bitcast(pointer, vector.ir_type.as_pointer()), align=4)


@intrinsic
def load(typingctx: Any, array: Any, offset: Any) -> Any:
    """Sixteen elements of a float32 or (u)int32 array from the flat element `offset` on; any alignment."""
    vector = _vector_of(array)
    if vector is None:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _load(context, builder, sig.args[0], args[0], args[1], vector)

    return vector(array, types.intp), emit


@intrinsic
def load8(typingctx: Any, array: Any, offset: Any) -> Any:
    """Eight elements of a float32 array from the flat element `offset` on; any alignment."""
    if _vector_of(array) is not f32x16:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _load(context, builder, sig.args[0], args[0], args[1], f32x8)

    return f32x8(array, types.intp), emit


@intrinsic
def store(typingctx: Any, array: Any, offset: Any, value: Any) -> Any:
    """Write the lanes of `value`, sixteen or eight, from the flat element `offset` on; any alignment."""
    if value not in {f32x16: (f32x16, f32x8), i32x16: (i32x16, i32x8)}.get(_vector_of(array), ()):
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, sig.args[0], args[0], args[1])
        builder.store(args[2], builder.bitcast(pointer, value.ir_type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


@intrinsic
def broadcast_pair(typingctx: Any, array: Any, offset: Any) -> Any:
    """Sixteen lanes: 0-7 equal to the float32 at the flat `offset`, 8-15 to the one after it."""
    if _vector_of(array) is not f32x16:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        first = _pointer(context, builder, sig.args[0], args[0], args[1])
        second = builder.gep(first, [ir.Constant(I32, 1)], inbounds=True)
        low, high = (splat_value(builder, builder.load(pointer), HALF_LANES) for pointer in (first, second))
        return shuffle(builder, low, high, list(range(LANES)))

    return f32x16(array, types.intp), emit


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


FLAGS = 64
"""How many elements `flagged` reads."""


@intrinsic
def flagged(typingctx: Any, array: Any, offset: Any, mask: Any) -> Any:
    """FLAGS elements of a uint8 array from the flat `offset` on: bit i of the int64 is set if element i & mask is.

    This turns flags that were written thing by thing into lists that are read flag by flag.
    """
    if not (isinstance(array, types.Array) and array.dtype == types.uint8):
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        byte = ir.IntType(8)
        vector = ir.VectorType(byte, FLAGS)
        pointer = builder.bitcast(_pointer(context, builder, sig.args[0], args[0], args[1]), vector.as_pointer())
        wanted = splat_value(builder, builder.trunc(args[2], byte), FLAGS)
        bits = builder.and_(builder.load(pointer, align=1), wanted)
        found = builder.icmp_unsigned("!=", bits, ir.Constant(vector, [0] * FLAGS))
        return builder.bitcast(found, ir.IntType(FLAGS))

    return types.int64(array, types.intp, types.int64), emit


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
