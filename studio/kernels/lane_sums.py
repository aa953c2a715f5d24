"""What joins lanes: sums in a fixed order, and the transpose of sixteen vectors."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from .vector_types import I32, LANES, VF, constant, f32x16, intrinsic, shuffle

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
            b = nodes[i + 1] if i + 1 < len(nodes) else ir.Constant(VF, ir.Undefined)
            merged.append(builder.fadd(shuffle(builder, a, b, low), shuffle(builder, a, b, high)))
        nodes = merged
    # Leaf 4p + l has ended in lane 4l + p; lanes without a leaf become 0.
    order = [4 * (leaf % 4) + leaf // 4 if leaf < len(vectors) else LANES for leaf in range(LANES)]
    return shuffle(builder, nodes[0], constant(VF, 0.0), order)


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
        return builder.extract_element(_sum_tree(builder, [args[0]]), ir.Constant(I32, 0))

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
