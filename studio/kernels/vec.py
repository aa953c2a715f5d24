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

from .lane_memory import (
    broadcast,
    element,
    fetch_add,
    load,
    load_block,
    prefetch,
    put,
    store,
    store_block,
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
    ceil,
    exp2,
    floor,
    fma,
    fnma,
    from_bits,
    lane_bits,
    lane_index,
    maximum,
    minimum,
    select,
    splat,
    splat_i32,
    sqrt,
    to_float,
    to_int,
)
from .vector_types import (
    LANES,
    VectorType,
    f32x16,
    i32x16,
    intrinsic,
    mask16,
)

__all__ = [
    "LANES",
    "VectorType",
    "absolute",
    "any_lane",
    "bits_of",
    "broadcast",
    "ceil",
    "element",
    "exp2",
    "f32x16",
    "fetch_add",
    "floor",
    "fma",
    "fnma",
    "from_bits",
    "i32x16",
    "intrinsic",
    "lane_bits",
    "lane_index",
    "load",
    "load_block",
    "mask16",
    "maximum",
    "minimum",
    "prefetch",
    "put",
    "select",
    "splat",
    "splat_i32",
    "sqrt",
    "store",
    "store_block",
    "sum_lanes",
    "sum_rows",
    "to_float",
    "to_int",
    "transpose",
]
