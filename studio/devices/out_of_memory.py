"""Telling an out-of-memory error from every other error, and letting go of what it holds."""

from __future__ import annotations

import gc
import traceback

import torch

# torch raises a plain RuntimeError for host memory, for Metal and for CUDA libraries' own allocations.
_PHRASES = (
    "out of memory",  # CUDA, Metal, Level Zero
    "can't allocate memory",  # DefaultCPUAllocator on Linux and macOS
    "not enough memory: you tried to allocate",  # DefaultCPUAllocator on Windows
    "Invalid buffer size",  # one Metal buffer above the device's limit
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "could not create a memory object",  # oneDNN
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or the error that it was raised from, says that memory ran out on the host or a device."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (MemoryError, torch.cuda.OutOfMemoryError)):
            return True
        if isinstance(seen, RuntimeError) and any(phrase in str(seen) for phrase in _PHRASES):
            return True
        seen = seen.__cause__
    return False


def let_go(error: BaseException) -> None:
    """Drop the local variables of the frames that `error` passed through, which keep their tensors alive.

    The traceback still prints. Frames that are running are left alone.
    """
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__
    gc.collect()


def empty_caches() -> None:
    """Hand memory that torch's allocators hold unused back to the devices."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
