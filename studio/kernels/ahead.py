"""Compiling several kernels at once, in processes of their own: Numba and LLVM hold the interpreter's lock.

Each process is told over a pipe which kernel to build, by the names of its module and function, and sends back the
machine code; it imports from where this process does, never from the working folder, and ends when the pipe does, so
also when this process is killed. Whatever does not work there is compiled here on first use.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import inspect
import json
import logging
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from studio.kernels import building, folder
from studio.kernels.image import KernelImage, Unusable
from studio.kernels.threads import physical_cores

if TYPE_CHECKING:
    from studio.kernels.declaration import Kernel

_log = logging.getLogger(__name__)

_MOST = 8
"""Processes at once: a model has some dozen kernels, and each process takes 200 MB."""
_START = (
    "import json,sys;sys.path[:]=json.loads(sys.stdin.buffer.readline());from studio.kernels.worker import main;main()"
)

_lock = threading.Lock()
_pending: dict[str, Future[KernelImage | None]] = {}
_processes: set[subprocess.Popen[bytes]] = set()


def compile_ahead(kernels: Iterable[Kernel], *, processes: int | None = None) -> int:
    """Start to compile in the background those of `kernels` that are not in the cache.

    A kernel that is called meanwhile waits for its own. Does nothing where fewer than two are missing or processes
    cannot be started: they are then compiled on first use.

    Args:
        kernels: Longest first, if known.
        processes: How many at once; as many as there are cores by default.

    Returns:
        How many kernels are being compiled.
    """
    tasks: collections.deque[tuple[Kernel, dict[str, Any], Future[KernelImage | None]]] = collections.deque()
    with _lock:
        for each in dict.fromkeys(kernels):
            if each.ready or each.sources.unknown or each.sources.key in _pending:
                continue
            recipe = _recipe(each)
            if recipe is not None:
                tasks.append((each, recipe, Future()))
        if len(tasks) < 2 or not sys.executable:
            return 0
        for each, _, future in tasks:
            _pending[each.sources.key] = future
    count = len(tasks)
    building.expect(count)
    for _ in range(min(count, processes or physical_cores(), _MOST)):
        threading.Thread(target=_serve, args=(tasks,), name="kernel-builder", daemon=True).start()
    return count


def built_elsewhere(key: str) -> KernelImage | None:
    """The kernel that a process was asked for, once it is there; None if none was, or it could not be built."""
    with _lock:
        future = _pending.get(key)
    return future.result() if future is not None else None


def _recipe(kernel: Kernel) -> dict[str, Any] | None:
    """How another process finds the kernel; None if it cannot.

    By the name of a module's attribute or, for a kernel made by a function, by that function's name and arguments,
    which are read from the variables that the kernel closes over.
    """
    function = kernel.function
    module = sys.modules.get(function.__module__)
    if module is None or function.__module__ == "__main__" or getattr(module, "__file__", None) is None:
        return None
    name, made, _ = function.__qualname__.partition(".<locals>.")
    found = getattr(module, name, None)
    arguments: dict[str, Any] = {}
    if made:
        if not callable(found):
            return None
        code = getattr(function, "__code__", None)
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True)) if code else {}
        for parameter in inspect.signature(found).parameters:
            value = cells[parameter].cell_contents if parameter in cells else None
            if not isinstance(value, (bool, int, float, str)):
                return None
            arguments[parameter] = value
    elif found is not kernel:
        return None
    return {
        "module": function.__module__,
        "file": module.__file__,
        "name": name,
        "made": bool(made),
        "arguments": arguments,
        "key": kernel.sources.key,
    }


def _serve(tasks: collections.deque[tuple[Kernel, dict[str, Any], Future[KernelImage | None]]]) -> None:
    """Let one process build what is left of `tasks`; if it cannot be started or dies, its task is done here later."""
    process = _start()
    try:
        while True:
            try:
                kernel, recipe, future = tasks.popleft()
            except IndexError:
                return
            image = None
            try:
                if process is not None:
                    image = _ask(process, recipe)
                    if image is not None:
                        folder.write_kernel(image)
            except (OSError, Unusable, ValueError, KeyError, TypeError) as problem:
                _log.debug("%s was not built by a process: %s", kernel.name, problem)
                _end(process)
                # The next kernel need not share this one's trouble.
                process = _start() if tasks else None
            finally:
                if image is None:
                    with _lock:
                        _pending.pop(recipe["key"], None)
                building.finish()
                future.set_result(image)
    finally:
        _end(process)


def _start() -> subprocess.Popen[bytes] | None:
    paths = [os.path.abspath(each) for each in sys.path if each]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING": "1"}
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        with _lock:
            _processes.add(process)
        _send(process, json.dumps(paths).encode() + b"\n")
    except OSError as problem:
        _log.debug("no process for compiling kernels: %s", problem)
        return None
    return process


def _send(process: subprocess.Popen[bytes], data: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(data)
    process.stdin.flush()


def _ask(process: subprocess.Popen[bytes], recipe: dict[str, Any]) -> KernelImage | None:
    assert process.stdout is not None
    _send(process, json.dumps(recipe).encode() + b"\n")
    head = process.stdout.read(4)
    if len(head) < 4:
        raise OSError("the process ended")
    (size,) = struct.unpack("<I", head)
    data = process.stdout.read(size)
    return KernelImage.decode(data, recipe["key"]) if size else None


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    with _lock:
        _processes.discard(process)
    with contextlib.suppress(OSError):
        process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()


@atexit.register
def _end_all() -> None:
    for process in list(_processes):
        with contextlib.suppress(OSError):
            process.kill()
