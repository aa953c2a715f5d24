"""How long this process compiled kernels: once for each installation, so time budgets leave it out."""

from __future__ import annotations

_spells: list[tuple[float, float]] = []


def record(start: float, end: float) -> None:
    """Note that kernels were compiled between two values of ``time.perf_counter()``."""
    _spells.append((start, end))


def seconds_since(moment: float) -> float:
    """Seconds of compiling since a value of ``time.perf_counter()``; loading from the cache does not count."""
    return sum(end - max(start, moment) for start, end in _spells if end > moment)
