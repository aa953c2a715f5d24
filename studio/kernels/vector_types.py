"""The vector types of `studio.kernels.vec` in Numba and LLVM, and how functions of them are declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import lower_builtin, models, register_model

LANES = 16
HALF_LANES = 8

intrinsic: Any = numba_intrinsic  # its annotations name the typing context as a parameter of every call

F32 = ir.FloatType()
I32 = ir.IntType(32)
VF = ir.VectorType(F32, LANES)
VI = ir.VectorType(I32, LANES)
VM = ir.VectorType(ir.IntType(1), LANES)


class VectorType(types.Type):
    """Numba type of a vector of sixteen or eight lanes."""

    def __init__(self, name: str, element: ir.Type, lanes: int) -> None:
        self.lanes = lanes
        self.ir_type = ir.VectorType(element, lanes)
        super().__init__(name=name)


f32x16 = VectorType("f32x16", F32, LANES)
i32x16 = VectorType("i32x16", I32, LANES)
mask16 = VectorType("mask16", ir.IntType(1), LANES)
f32x8 = VectorType("f32x8", F32, HALF_LANES)
i32x8 = VectorType("i32x8", I32, HALF_LANES)
mask8 = VectorType("mask8", ir.IntType(1), HALF_LANES)

WIDTHS = ((f32x16, i32x16, mask16), (f32x8, i32x8, mask8))
"""The types of one number of lanes each: of floats, of integers, of conditions."""


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: VectorType) -> None:
        super().__init__(dmm, fe_type, fe_type.ir_type)


def shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    """Emit the vector of the given lanes of `a` followed by `b`."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def splat_value(builder: Any, scalar: Any, lanes: int = LANES) -> Any:
    """Emit the vector whose lanes all equal an LLVM scalar."""
    vector_type = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(vector_type, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return shuffle(builder, first, undefined, [0] * lanes)


def constant(vector_type: Any, value: float) -> Any:
    """The constant vector whose lanes all equal `value`."""
    return ir.Constant(vector_type, [value] * vector_type.count)


def call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """Emit a call of the LLVM intrinsic `name` with this result type."""
    function_type = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


Emit = Callable[..., Any]
"""Emits instructions: (builder, operands...) -> the LLVM value."""


def register(function: Any, cases: list[tuple[Any, tuple[Any, ...]]], emit: Emit) -> None:
    """Teach Numba that `function` of the parameter types of each case (result, parameters) is emitted by `emit`.

    A scalar given where `emit` expects a vector is splatted.
    """
    rows = [signature(result, *parameters) for result, parameters in cases]

    class Template(ConcreteTemplate):
        cases = rows

    infer_global(function)(Template)
    for _, parameters in cases:

        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            lanes = next((p.lanes for p in sig.args if isinstance(p, VectorType)), 0)
            if lanes:
                args = [
                    a if isinstance(p, VectorType) else splat_value(builder, a, lanes)
                    for p, a in zip(sig.args, args, strict=True)
                ]
            return emit(builder, *args)

        lower_builtin(function, *parameters)(lower)
