"""Four table rows of four features as one vector: what a gather instruction does slowly, done with whole rows."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from studio.kernels.vec import LANES, f32x16, intrinsic

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_QUARTER = ir.VectorType(_F32, 4)


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


def _lanes(builder: Any, a: Any, b: Any, picks: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(picks)), picks))


def _row_pointers(context: Any, builder: Any, sig: Any, args: Any) -> list[Any]:
    """Pointers to the rows ``table[indices[at + q]]`` for q = 0..3."""
    table = _data(context, builder, sig.args[0], args[0])
    indices = _data(context, builder, sig.args[1], args[1])
    base = builder.gep(indices, [args[2]], inbounds=True)
    pointers = []
    for q in range(4):
        index = builder.load(builder.gep(base, [ir.Constant(_I64, q)], inbounds=True))
        offset = builder.shl(builder.zext(index, _I64), ir.Constant(_I64, 2))
        pointers.append(builder.bitcast(builder.gep(table, [offset], inbounds=True), _QUARTER.as_pointer()))
    return pointers


def _is(array: Any, name: str) -> bool:
    return isinstance(array, types.Array) and str(array.dtype) == name


@intrinsic
def load_rows(typingctx: Any, table: Any, indices: Any, at: Any) -> Any:
    """The rows ``table[indices[at + q]]``, q = 0..3, of a float32 (n, 4) table as lanes 4q..4q+3; int32 indices."""
    if not (_is(table, "float32") and _is(indices, "int32")):
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a, b, c, d = (builder.load(p, align=16) for p in _row_pointers(context, builder, sig, args))
        low, high = (_lanes(builder, x, y, list(range(8))) for x, y in ((a, b), (c, d)))
        return _lanes(builder, low, high, list(range(LANES)))

    return f32x16(table, indices, types.intp), emit


@intrinsic
def add_rows(typingctx: Any, table: Any, indices: Any, at: Any, value: Any) -> Any:
    """Add lanes 4q..4q+3 to the row ``table[indices[at + q]]``, in the order q = 0..3, so equal indices add up."""
    if not (_is(table, "float32") and _is(indices, "int32") and value is f32x16):
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        for q, pointer in enumerate(_row_pointers(context, builder, sig, args)):
            part = _lanes(builder, args[3], args[3], list(range(4 * q, 4 * q + 4)))
            builder.store(builder.fadd(builder.load(pointer, align=16), part), pointer, align=16)
        return context.get_dummy_value()

    return types.void(table, indices, types.intp, value), emit


@intrinsic
def spread(typingctx: Any, array: Any, at: Any) -> Any:
    """``array[at + q]`` in the lanes 4q..4q+3, q = 0..3; a float32 array."""
    if not _is(array, "float32"):
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        pointer = builder.gep(_data(context, builder, sig.args[0], args[0]), [args[1]], inbounds=True)
        four = builder.load(builder.bitcast(pointer, _QUARTER.as_pointer()), align=4)
        return _lanes(builder, four, four, [lane // 4 for lane in range(LANES)])

    return f32x16(array, types.intp), emit
