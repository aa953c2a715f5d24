"""Small matrix products inside kernels: the operands stay in L1 and L2, the accumulators in registers.

All matrices are row-major with rows of whole vectors of sixteen. One tile routine serves the three products of a layer
``Y = X W``: forward (A = X, B = W), gradient of the input (A = dY, B = W transposed) and gradient of the weights
(A = X read along its columns, B = dY).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from studio.kernels.cache import device
from studio.kernels.target import has_wide_registers
from studio.kernels.vec import LANES, intrinsic

STORE, RELU, ADD, MASK = 0, 1, 2, 3
"""What happens to a tile of sums S over C: C = S; C = max(S, 0); C += S; C = S where C > 0, else 0."""

_WIDE = has_wide_registers()
_F32 = ir.FloatType()
_VF = ir.VectorType(_F32, LANES)
_I32 = ir.IntType(32)


def _vector_pointer(builder: Any, data: Any, offset: Any) -> Any:
    return builder.bitcast(builder.gep(data, [offset], inbounds=True), _VF.as_pointer())


@intrinsic
def _tile(
    typingctx: Any,
    a: Any,
    a_at: Any,
    a_row: Any,
    a_step: Any,
    b: Any,
    b_at: Any,
    b_step: Any,
    c: Any,
    c_at: Any,
    c_row: Any,
    depth: Any,
    rows: Any,
    vectors: Any,
    mode: Any,
) -> Any:
    """One tile of C: ``C[i, :] (mode) sum_k A[i, k] B[k, :]`` for `rows` rows of `vectors` vectors.

    `a`, `b` and `c` are float32 arrays; ``*_at`` are flat offsets of the tile's first elements, ``*_row`` and
    ``*_step`` the distances of its rows and of its steps in k. `rows`, `vectors` and `mode` are literals.
    """
    literals = (rows, vectors, mode)
    if not all(isinstance(value, types.IntegerLiteral) for value in literals):
        return None
    height, width, what = (value.literal_value for value in literals)

    def emit(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        a_data, b_data, c_data = (context.make_array(sig.args[i])(context, builder, args[i]).data for i in (0, 4, 7))
        zero = ir.Constant(_VF, [0.0] * LANES)
        sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(width)] for _ in range(height)]
        function_type = ir.FunctionType(_VF, [_VF, _VF, _VF])
        fma = cgutils.get_or_insert_function(builder.module, function_type, "llvm.fmuladd.v16f32")
        undefined = ir.Constant(_VF, ir.Undefined)
        first_lane = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
        starts = [builder.add(args[1], builder.mul(args[2], ir.Constant(args[2].type, i))) for i in range(height)]
        with cgutils.for_range(builder, args[10]) as loop:
            a_shift, b_shift = builder.mul(loop.index, args[3]), builder.mul(loop.index, args[6])
            b_start = builder.add(args[5], b_shift)
            columns = [
                builder.load(
                    _vector_pointer(builder, b_data, builder.add(b_start, ir.Constant(b_start.type, LANES * j))),
                    align=4,
                )
                for j in range(width)
            ]
            for i in range(height):
                scalar = builder.load(builder.gep(a_data, [builder.add(starts[i], a_shift)], inbounds=True))
                lone = builder.insert_element(undefined, scalar, ir.Constant(_I32, 0))
                wide = builder.shuffle_vector(lone, undefined, first_lane)
                for j in range(width):
                    cell = sums[i][j]
                    builder.store(builder.call(fma, [wide, columns[j], builder.load(cell)]), cell)
        for i in range(height):
            row = builder.add(args[8], builder.mul(args[9], ir.Constant(args[9].type, i)))
            for j in range(width):
                place = _vector_pointer(builder, c_data, builder.add(row, ir.Constant(row.type, LANES * j)))
                value = builder.load(sums[i][j])
                if what == RELU:
                    value = builder.select(builder.fcmp_ordered(">", value, zero), value, zero)
                elif what == ADD:
                    value = builder.fadd(builder.load(place, align=4), value)
                elif what == MASK:
                    value = builder.select(builder.fcmp_ordered(">", builder.load(place, align=4), zero), value, zero)
                builder.store(value, place, align=4)
        return context.get_dummy_value()

    integers = (types.intp,) * 3
    parameters = (a, *integers, b, types.intp, types.intp, c, types.intp, types.intp, types.intp, rows, vectors, mode)
    return types.void(*parameters), emit


def _product(mode: int) -> Any:
    """The routine for one mode; each is compiled once and called, not inlined."""

    def multiply(
        a: Any, a_at: int, a_row: int, a_step: int, b: Any, b_at: int, b_step: int,
        c: Any, c_at: int, c_row: int, rows: int, depth: int, width: int,
    ) -> None:  # fmt: skip
        j = 0
        if _WIDE:
            while j + 64 <= width:
                for i in range(0, rows, 4):
                    _tile(a, a_at + i * a_row, a_row, a_step, b, b_at + j, b_step, c, c_at + i * c_row + j, c_row,
                          depth, 4, 4, mode)  # fmt: skip
                j += 64
            while j + 32 <= width:
                for i in range(0, rows, 8):
                    _tile(a, a_at + i * a_row, a_row, a_step, b, b_at + j, b_step, c, c_at + i * c_row + j, c_row,
                          depth, 8, 2, mode)  # fmt: skip
                j += 32
            if j < width:
                for i in range(0, rows, 8):
                    _tile(a, a_at + i * a_row, a_row, a_step, b, b_at + j, b_step, c, c_at + i * c_row + j, c_row,
                          depth, 8, 1, mode)  # fmt: skip
        else:
            # Eight registers of sums, two of B and one of A: sixteen (AVX2) hold no larger tile without spilling, and
            # these are as many independent sums as two units of four cycles' latency can have under way.
            while j < width:
                for i in range(0, rows, 4):
                    _tile(a, a_at + i * a_row, a_row, a_step, b, b_at + j, b_step, c, c_at + i * c_row + j, c_row,
                          depth, 4, 1, mode)  # fmt: skip
                j += LANES

    return device(multiply)


multiply_store = _product(STORE)
"""C = A B. Arguments: a, a_at, a_row, a_step, b, b_at, b_step, c, c_at, c_row, rows, depth, width.

Offsets and distances count elements. `rows` is a multiple of 8, `width` of 16, `depth` any number."""
multiply_relu = _product(RELU)
"""C = max(A B, 0); arguments as `multiply_store`."""
multiply_add = _product(ADD)
"""C += A B; arguments as `multiply_store`."""
multiply_mask = _product(MASK)
"""C = A B where C > 0, else 0, the gradient through a ReLU whose output C held; arguments as `multiply_store`."""
