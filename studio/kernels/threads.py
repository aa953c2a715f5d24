"""Which threads run the kernels, and how many."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba

from studio.kernels.target import numba_config

_log = logging.getLogger(__name__)


def _choose_threading_layer() -> str:
    """OpenMP where Numba has it: its pool is shared with torch's. Else Numba's own, which allows one caller at once."""
    if "NUMBA_THREADING_LAYER" in os.environ:
        return str(numba_config.THREADING_LAYER)
    try:
        importlib.import_module("numba.np.ufunc.omppool")
    except ImportError:
        _log.info("OpenMP is not available to Numba (on macOS: `brew install libomp`); using its workqueue threads")
        numba_config.THREADING_LAYER = "workqueue"
    else:
        numba_config.THREADING_LAYER = "omp"
    return str(numba_config.THREADING_LAYER)


threading_layer: str = _choose_threading_layer()
"""Numba threading layer asked for: ``omp``, or ``workqueue`` where there is no OpenMP."""

# The workqueue layer aborts the process when two threads launch at once (a viewer beside a training loop).
_launch_lock: contextlib.AbstractContextManager[Any] = (
    contextlib.nullcontext() if threading_layer in ("omp", "tbb", "safe", "threadsafe") else threading.RLock()
)


def physical_cores() -> int:
    """Number of physical cores this process may run on (at least 1): affinity, SMT siblings and the CPU quota."""
    try:
        allowed: set[int] = set(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        allowed = set(range(os.cpu_count() or 1))
    cores: set[str] = set()
    for cpu in allowed:
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text(encoding="utf-8").strip())
        except OSError:
            cores.add(str(cpu))
    count = len(cores)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, count)


_threads = min(physical_cores(), int(numba_config.NUMBA_NUM_THREADS))


def set_threads(count: int | None) -> int:
    """Use `count` threads in all kernels from now on (``None``: the physical cores), and return the number set.

    Results are repeatable bit for bit for one thread count, and equal to rounding between counts.

    Raises:
        ValueError: `count` is below 1.
    """
    global _threads
    if count is None:
        count = min(physical_cores(), int(numba_config.NUMBA_NUM_THREADS))
    if count < 1:
        raise ValueError(f"count: expected at least 1 thread, got {count}")
    _threads = int(count)
    return _threads


def get_threads() -> int:
    """Number of threads, and so of work shares, that kernels use."""
    return _threads


@contextlib.contextmanager
def launching() -> Iterator[None]:
    """Around a launch of a parallel kernel: one at a time where the layer asks for it, with the studio's threads."""
    with _launch_lock:
        # Numba's thread count belongs to the calling thread and to the user: borrow it for this launch.
        before = numba.get_num_threads()
        wanted = min(_threads, int(numba_config.NUMBA_NUM_THREADS))
        if before == wanted:
            yield
            return
        numba.set_num_threads(wanted)
        try:
            yield
        finally:
            numba.set_num_threads(before)
