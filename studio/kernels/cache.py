"""Where compiled kernels are kept, which threads run them, and what the user is told while they compile.

Numba's own cache notices an edit only in the file of the cached function, never in a module it imports, and then runs
stale machine code. Here the cache directory is named after a hash of every source a kernel may be built from: all
modules in its own folder and the kernel rooms of the engine. An edit anywhere in them starts an empty one, so a kernel
may use inlined functions of those folders and of no other. Only kernels declared with :func:`kernel` use the cache; the
user's other Numba functions are left alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import logging
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
from llvmlite import binding

from studio.kernels import compile_time

# Numba sets these from the environment, where type checkers do not see them.
numba_config: Any = numba.config
_njit: Any = numba.njit

_log = logging.getLogger(__name__)

# Numba joins the features of the processor at hand to any processor that NUMBA_CPU_NAME names: on a machine with
# AVX-512 "x86-64-v3" would still use its registers. Nothing said about features means those of the named processor.
if numba_config.CPU_NAME and numba_config.CPU_FEATURES is None:
    numba_config.CPU_FEATURES = ""

_ENGINE_FOLDERS = (Path(__file__).parent, Path(__file__).parent.parent / "marching" / "kernels")
"""Kernel sources of the engine, which kernels of any package may build on."""

_PARALLEL = {
    "prange": True,
    "comprehension": False,
    "reduction": False,
    "inplace_binop": False,
    "setitem": False,
    "numpy": False,
    "stencil": False,
    "fusion": False,
}


def _cpu_identity() -> str:
    name = numba_config.CPU_NAME or binding.get_host_cpu_name()
    features = numba_config.CPU_FEATURES
    if features is None:
        features = binding.get_host_cpu_features().flatten()
    return f"{name}:{features}"


def source_hash(folder: Path) -> str:
    """Hash (16 hex digits) of the sources that kernels in `folder` are built from, and of what compiles them.

    Covers every module in `folder` and in the engine's kernel rooms, the Python, Numba and LLVM versions and the CPU.
    """
    digest = hashlib.sha256()
    for place in dict.fromkeys((folder, *_ENGINE_FOLDERS)):
        for path in sorted(place.glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    versions = (
        platform.python_version(),
        numba.__version__,
        binding.llvm_version_info,
        _cpu_identity(),
    )
    digest.update(repr(versions).encode())
    return digest.hexdigest()[:16]


@functools.cache
def cache_dir(folder: Path) -> Path:
    """Folder of the compiled kernels of the modules in `folder`, for these sources, these versions and this CPU.

    ``$XDG_CACHE_HOME`` (or ``~/.cache``) ``/neural-studio/kernels/<hash>``; a temporary folder if that is not writable.
    """
    key = source_hash(folder)
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(root) if root else Path.home() / ".cache"
        place = base / "neural-studio" / "kernels" / key
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            return place
    except (OSError, RuntimeError) as problem:  # Path.home() raises RuntimeError without a home directory
        # A fresh private folder rather than a shared name in /tmp: cache files are code, and must not come from others.
        place = Path(tempfile.mkdtemp(prefix=f"neural-studio-kernels-{key}-"))
        _log.warning(
            "kernel cache not writable (%s): the CPU kernels are compiled anew in each process",
            problem,
        )
        return place


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


_on_compile: Callable[[str], None] = _log.warning
_announced: set[str] = set()


def set_compile_callback(callback: Callable[[str], None] | None) -> None:
    """Send the "compiling" message to `callback` (``None``: the ``studio.kernels.cache`` logger)."""
    global _on_compile
    _on_compile = callback or _log.warning


def _announce(package: str) -> None:
    if package not in _announced:
        _announced.add(package)
        _on_compile(f"compiling the CPU kernels of {package}, once; this takes up to half a minute")


@contextlib.contextmanager
def _private_cache(place: Path) -> Iterator[None]:
    # Numba picks the directory when a function is declared, so it is ours during that moment only.
    before = numba_config.CACHE_DIR
    numba_config.CACHE_DIR = str(place)
    try:
        yield
    finally:
        numba_config.CACHE_DIR = before


_build_lock = threading.RLock()


class Kernel:
    """A function compiled for one signature on its first call, or read from the cache, and called from Python.

    Compilation waits for the first call so that importing a module costs nothing and unused variants are never built.
    """

    def __init__(self, function: Callable[..., Any], signature: str, parallel: bool) -> None:
        self.function = function
        self.signature = signature
        self.parallel = parallel
        self.__doc__ = function.__doc__
        self._compiled: Any = None

    def compile(self) -> Any:
        """The Numba dispatcher, compiled or loaded from the cache now if it has not been."""
        with _build_lock:
            if self._compiled is None:
                place = cache_dir(Path(self.function.__code__.co_filename).resolve().parent)
                with _private_cache(place):
                    name = self.function.__qualname__.split(".")[-1]
                    cached = any(place.rglob(f"*{name}-*.nbc"))
                    if not cached:
                        _announce(self.function.__module__.split(".")[0])
                    began = time.perf_counter()
                    self._compiled = _njit(
                        self.signature,
                        cache=True,
                        nogil=True,
                        error_model="numpy",
                        parallel=_PARALLEL if self.parallel else False,
                    )(self.function)
                    if not cached:
                        compile_time.record(began, time.perf_counter())
            return self._compiled

    def __call__(self, *args: Any) -> Any:
        compiled = self._compiled or self.compile()
        if not self.parallel:
            return compiled(*args)
        with _launch_lock:
            # Numba's thread count belongs to the calling thread and to the user: borrow it for this launch.
            before = numba.get_num_threads()
            wanted = min(_threads, int(numba_config.NUMBA_NUM_THREADS))
            if before == wanted:
                return compiled(*args)
            numba.set_num_threads(wanted)
            try:
                return compiled(*args)
            finally:
                numba.set_num_threads(before)


def kernel(signature: str, *, parallel: bool = False) -> Callable[[Callable[..., Any]], Kernel]:
    """Declare a kernel called from Python: cached, without the GIL, compiled for `signature` on its first call.

    Args:
        signature: Numba signature, for example ``"void(f4[:, ::1], i8)"``.
        parallel: allow ``numba.prange``. Keep the loop body one call of an :data:`inline` or ``device`` function:
            Numba's analysis of parallel code is slow on long bodies.
    """
    return lambda function: Kernel(function, signature, parallel)


# Never called from Python, so wrappers for that would only cost compile time.
_DEVICE = {
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


def inline(function: Callable[..., Any]) -> Any:
    """Declare a function called by kernels only and always inlined into them."""
    return _njit(**_DEVICE, forceinline=True)(function)


def device(function: Callable[..., Any]) -> Any:
    """Declare a function called by kernels only and left to the compiler to inline or not."""
    return _njit(**_DEVICE)(function)
