"""What joins lanes: sums in a fixed order, and the transpose of sixteen vectors."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from .vector_types import F32, HALF_LANES, I32, LANES, constant, f32x8, f32x16, intrinsic, shuffle

# The levels of the summing tree. At each, two vectors become one, and the two lists pick the halves that are added:
# those that x86 picks in one instruction (whole 128-bit, 64-bit, then 32-bit pieces).
_TREE = (
    ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]),
    ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]),
    ([0, 2, 8, 10, 4, 6, 12, 14], [1, 3, 9, 11, 5, 7, 13, 15]),
)


def _sum_eight(builder: Any, vectors: list[Any]) -> Any:
    """Emit the sums of up to eight vectors of eight lanes, in the order of the vectors; 0 in the lanes beyond."""
    vector_type = ir.VectorType(F32, HALF_LANES)
    if not vectors:
        return constant(vector_type, 0.0)
    # Leaves are dealt so that each sum ends in the lane of its vector.
    slots: list[Any] = [None] * HALF_LANES
    for lane, vector in enumerate(vectors):
        slots[_LEAF[lane]] = vector
    for low, high in _TREE:
        merged: list[Any] = []
        for a, b in zip(slots[::2], slots[1::2], strict=True):
            if a is None and b is None:
                merged.append(None)
                continue
            a, b = (constant(vector_type, 0.0) if node is None else node for node in (a, b))
            merged.append(builder.fadd(shuffle(builder, a, b, low), shuffle(builder, a, b, high)))
        slots = merged
    return slots[0]


def _leaves() -> list[int]:
    """Which leaf of the tree ends in each lane."""
    leaves: list[list[int]] = [[leaf] * HALF_LANES for leaf in range(HALF_LANES)]
    for low, _ in _TREE:
        leaves = [[(a + b)[lane] for lane in low] for a, b in zip(leaves[::2], leaves[1::2], strict=True)]
    return leaves[0]


_LEAF = _leaves()


@intrinsic
def sum_rows(typingctx: Any, vectors: Any) -> Any:
    """Lane i of the sixteen is the sum of the lanes of ``vectors[i]``; up to 16 vectors of eight lanes.

    Lanes beyond the vectors are 0. The order of the additions is fixed by the source.
    """
    if not (isinstance(vectors, types.UniTuple) and vectors.dtype is f32x8 and 0 < len(vectors) <= LANES):
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        rows = cgutils.unpack_tuple(builder, args[0], sig.args[0].count)
        low, high = _sum_eight(builder, rows[:HALF_LANES]), _sum_eight(builder, rows[HALF_LANES:])
        return shuffle(builder, low, high, list(range(LANES)))

    return f32x16(vectors), emit


@intrinsic
def sum_lanes(typingctx: Any, vector: Any) -> Any:
    """Sum of the lanes as a float32, in a fixed order."""
    if vector is not f32x16 and vector is not f32x8:
        return None

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        total = args[0]
        if vector is f32x16:
            low, high = (shuffle(builder, total, total, list(range(i, i + HALF_LANES))) for i in (0, HALF_LANES))
            total = builder.fadd(low, high)
        total = _sum_eight(builder, [total])
        return builder.extract_element(total, ir.Constant(I32, 0))

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
                    matrix[i] = shuffle(builder, a, b, low)
                    matrix[i + step] = shuffle(builder, a, b, high)
        return context.make_tuple(builder, sig.return_type, matrix)

    return rows(rows), emit
