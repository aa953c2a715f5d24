"""A process that builds kernels for another one: requests on standard input, machine code on standard output."""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import queue
import signal
import struct
import sys
import threading
from typing import IO, Any


def main() -> None:
    """Serve until standard input ends; then, or when the other process is gone, leave at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asked; it closes the pipe
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what imported modules print shall not get between the answers
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    # Short lives and much that stays: collecting would look through all of it over and over.
    gc.disable()
    while True:
        data = _build(json.loads(requests.get()))
        answers.write(struct.pack("<I", len(data)) + data)
        answers.flush()


def _listen(stream: IO[bytes], requests: queue.SimpleQueue[bytes]) -> None:
    for line in stream:
        requests.put(line)
    os._exit(0)


def _build(request: dict[str, Any]) -> bytes:
    """The kernel's image; empty if it cannot be built here, which the other process finds out more about."""
    try:
        from studio.kernels.build import build
        from studio.kernels.declaration import Kernel

        module = importlib.import_module(request["module"])
        if module.__file__ != request["file"]:
            return b""
        kernel: Any = functools.reduce(getattr, request["name"].split("."), module)
        if request["made"]:
            kernel = kernel(**request["arguments"])
        if not isinstance(kernel, Kernel) or kernel.sources.key != request["key"]:
            return b""
        return build(kernel.function, kernel.signature, kernel.parallel, kernel.sources, lasting=True).encode()
    except Exception:
        return b""
