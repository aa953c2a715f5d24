"""Vectors of sixteen and of eight lanes inside Numba kernels.

Numba's auto-vectoriser gives up on loops with branches, gathers and reductions, which is all a rasteriser is. Here a
value of type `f32x16`, `i32x16` or `mask16` is one LLVM vector, so the kernel says what is done in parallel. LLVM
maps a vector to one AVX-512 register, two of AVX2 or four of NEON; nothing here names a target. AVX2 has sixteen
registers in all, so what keeps many values alive may rather work on `f32x8`, `i32x8` and `mask8`, half of that; whether
sixteen lanes fit one register is what :func:`studio.kernels.target.has_wide_registers` tells.

Operators ``+ - * /`` (also with a scalar on either side), comparisons, and ``& | ^ ~`` on masks and integers work as
on numbers; integers shift with ``<<`` and ``>>`` (arithmetic). Products and sums are never contracted behind your back:
use :func:`fma`. Functions take flat element offsets into C-contiguous arrays of any rank, without bounds checks.

All names are callable inside kernels only.
"""

from __future__ import annotations

from .lane_memory import (
    FLAGS,
    broadcast,
    broadcast_pair,
    element,
    fetch_add,
    flagged,
    load,
    load8,
    prefetch,
    put,
    store,
)
from .lane_sums import (
    sum_lanes,
    sum_rows,
    transpose,
)
from .lanes import (
    absolute,
    any_lane,
    bits_of,
    bits_set,
    ceil,
    exp2,
    floor,
    fma,
    fnma,
    from_bits,
    halves,
    joined,
    lane_bits,
    lane_index,
    lane_index8,
    maximum,
    minimum,
    select,
    splat,
    splat8,
    splat_i32,
    sqrt,
    to_float,
    to_int,
    trailing_zeros,
)
from .vector_types import (
    LANES,
    VectorType,
    f32x8,
    f32x16,
    i32x8,
    i32x16,
    intrinsic,
    mask8,
    mask16,
)

__all__ = [
    "FLAGS",
    "LANES",
    "VectorType",
    "absolute",
    "any_lane",
    "bits_of",
    "bits_set",
    "broadcast",
    "broadcast_pair",
    "ceil",
    "element",
    "exp2",
    "f32x8",
    "f32x16",
    "fetch_add",
    "flagged",
    "floor",
    "fma",
    "fnma",
    "from_bits",
    "halves",
    "i32x8",
    "i32x16",
    "intrinsic",
    "joined",
    "lane_bits",
    "lane_index",
    "lane_index8",
    "load",
    "load8",
    "mask8",
    "mask16",
    "maximum",
    "minimum",
    "prefetch",
    "put",
    "select",
    "splat",
    "splat8",
    "splat_i32",
    "sqrt",
    "store",
    "sum_lanes",
    "sum_rows",
    "to_float",
    "to_int",
    "trailing_zeros",
    "transpose",
]
