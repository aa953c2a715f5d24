"""Contiguous shares of work, one a thread."""

from __future__ import annotations

from studio.kernels.cache import inline


@inline
def share(count: int, part: int, parts: int) -> int:
    """Where the contiguous share `part` of `count` items begins when they are split into `parts`."""
    return count * part // parts
