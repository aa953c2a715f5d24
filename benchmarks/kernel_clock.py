"""How long each compiled kernel takes within a piece of work, and what is left for everything between the kernels."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from studio.kernels.cache import Kernel


class KernelClock:
    """Seconds by kernel since the last `take`, by name of its module and function."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    def add(self, kernel: Kernel, seconds: float) -> None:
        """Count one call."""
        function = kernel.function
        kind = "" if kernel.parallel else " (one thread)"
        self._seconds[f"{function.__module__.rpartition('.')[2]}.{function.__name__.strip('_')}{kind}"] += seconds

    def take(self) -> dict[str, float]:
        """What was counted; counting begins anew."""
        taken, self._seconds = dict(self._seconds), defaultdict(float)
        return taken


@contextlib.contextmanager
def kernel_clock() -> Iterator[KernelClock]:
    """Time every kernel called inside, by the clock on the wall; a microsecond a call is added to what is between."""
    clock, original = KernelClock(), Kernel.__call__

    def timed(self: Kernel, *args: Any) -> Any:
        self.compile()
        started = time.perf_counter()
        result = original(self, *args)
        clock.add(self, time.perf_counter() - started)
        return result

    Kernel.__call__ = timed  # type: ignore[method-assign]
    try:
        yield clock
    finally:
        Kernel.__call__ = original  # type: ignore[method-assign]
