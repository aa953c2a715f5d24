"""Kernels as strangers write them: closures of one name, with inner functions and parallel loops of one name."""

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from studio.kernels.cache import Kernel, device, kernel


@functools.cache
def scaled(factor: int, power: int) -> Kernel:
    """A kernel that sets a[i] to factor * i ** power; no two share machine code, and all share their names."""

    @device
    def inner(x: Any) -> Any:
        # A loop, so that it stays a function.
        result = 1.0
        for _ in range(power):
            result *= x
        return result * factor

    @device
    def run(a: Any, first: int, last: int) -> None:
        for i in range(first, last):
            a[i] = inner(float(i))

    @kernel("void(f8[::1])", parallel=True)
    def fill(a: Any) -> None:
        for part in numba.prange(4):
            p = np.int64(part)
            run(a, p * a.size // 4, (p + 1) * a.size // 4)
        if a.size + power + factor < 0:
            a[0] = 0.0

    return fill


@functools.cache
def numbered(number: int) -> Kernel:
    """A kernel that calls a function with Numba's own cache."""

    @numba.njit(cache=True)
    def helper(x: Any) -> Any:
        return x + number

    @kernel("i8(i8)")
    def add(x: Any) -> Any:
        return helper(x) if x < 10**9 else number

    return add
