"""Declaring kernels, and the functions that only kernels call."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import numba

from studio.kernels import ahead, building, compile_time, folder
from studio.kernels.image import KernelImage, Unusable
from studio.kernels.sources import Sources, sources_of
from studio.kernels.threads import launching

_njit: Any = numba.njit


class Kernel:
    """A function compiled for one signature on its first call, or read from the cache, and called from Python.

    Compilation waits for the first call so that importing a module costs nothing and unused variants are never built;
    `studio.kernels.ahead.compile_ahead` builds several at once in processes of their own.
    """

    def __init__(self, function: Callable[..., Any], signature: str, parallel: bool) -> None:
        self.function = function
        self.signature = signature
        self.parallel = parallel
        self.__doc__ = function.__doc__
        self._compiled: Any = None
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        """Module and name of the function."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @functools.cached_property
    def sources(self) -> Sources:
        """What the kernel is made of; found out at the first use, as later definitions in its module count too."""
        return sources_of(self.function, self.signature, self.parallel)

    @property
    def ready(self) -> bool:
        """Whether nothing needs to be compiled: it has been, or there is a file for it."""
        return self._compiled is not None or folder.has_kernel(self.name, self.sources.key)

    def compile(self) -> Any:
        """The Numba dispatcher, compiled or loaded from the cache now if it has not been.

        Raises:
            StudioError: ``NUMBA_CPU_NAME`` names no processor.
        """
        with self._lock:
            if self._compiled is None:
                self._compiled = self._find() or self._build()
            return self._compiled

    def _find(self) -> Any:
        image = folder.read_kernel(self.name, self.sources.key)
        if image is not None:
            try:
                return self._load(image)
            except Unusable as problem:
                folder.reject_kernel(image, str(problem))
        began = time.perf_counter()
        image = ahead.built_elsewhere(self.sources.key)
        if image is None:
            return None
        compile_time.record(began, time.perf_counter())
        return self._load(image)

    def _build(self) -> Any:
        from studio.kernels.build import OnlyHere, build, only_here

        began = time.perf_counter()
        with building.announced(self.name):
            try:
                image = build(self.function, self.signature, self.parallel, self.sources)
            except OnlyHere:
                compiled = only_here(self.function, self.signature, self.parallel)
            else:
                folder.write_kernel(image)
                compiled = self._load(image)
        compile_time.record(began, time.perf_counter())
        return compiled

    def _load(self, image: KernelImage) -> Any:
        from studio.kernels.loading import load

        return load(image, self.function, self.signature)

    def assembly(self) -> str:
        """The assembler text for the processor that is compiled for, from compiling it anew."""
        from studio.kernels.build import assembly

        return assembly(self.function, self.signature, self.parallel, self.sources)

    def llvm(self) -> str:
        """The optimised code in LLVM's intermediate language, from compiling it anew."""
        from studio.kernels.build import llvm

        return llvm(self.function, self.signature, self.parallel, self.sources)

    def __call__(self, *args: Any) -> Any:
        compiled = self._compiled or self.compile()
        if not self.parallel:
            return compiled(*args)
        with launching():
            return compiled(*args)


def kernel(signature: str, *, parallel: bool = False) -> Callable[[Callable[..., Any]], Kernel]:
    """Declare a kernel called from Python: cached, without the GIL, compiled for `signature` on its first call.

    It may call functions of any module, declared with :func:`inline`, :func:`device` or Numba's own decorators, and use
    constants; an edit of any of them is noticed. Overloads that no name in the kernel leads to must stand in the
    kernel's folder.

    Args:
        signature: Numba signature, for example ``"void(f4[:, ::1], i8)"``.
        parallel: allow ``numba.prange``. Keep the loop body one call of an :data:`inline` or ``device`` function:
            Numba's analysis of parallel code is slow on long bodies.
    """
    return lambda function: Kernel(function, signature, parallel)


# Never called from Python, so wrappers for that would only cost compile time.
DEVICE = {
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


def inline(function: Callable[..., Any]) -> Any:
    """Declare a function called by kernels only and always inlined into them."""
    return _njit(**DEVICE, forceinline=True)(function)


def device(function: Callable[..., Any]) -> Any:
    """Declare a function called by kernels only and left to the compiler to inline or not."""
    return _njit(**DEVICE)(function)
