"""What is printed while kernels are compiled: which of how many, as lines that suit a terminal and a pipe alike."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.kernels.building import Compiling

_SECONDS = 2.0
"""Between two lines at least, apart from the first and the last."""


@contextlib.contextmanager
def compile_messages(announce: Callable[[str], None]) -> Iterator[None]:
    """Within the block, tell through `announce` how far the compiling of kernels is."""
    from studio.kernels.building import compile_listener

    last = float("-inf")

    def tell(now: Compiling) -> None:
        nonlocal last
        if now.finished or time.monotonic() - last >= _SECONDS:
            last = float("-inf") if now.finished else time.monotonic()
            announce(str(now))

    with compile_listener(tell):
        yield
