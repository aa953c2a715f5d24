"""Buffers that the rasteriser keeps between calls, so that an iteration allocates nothing."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike, NDArray

from studio.errors import StudioError

_CACHE_LINE = 64


def aligned_zeros(shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray:
    """Zeroed C-contiguous array that begins on a 64-byte cache line (one record or gradient row is one line)."""
    count, size = math.prod(shape), np.dtype(dtype).itemsize
    raw = np.zeros(count * size + _CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    return raw[start : start + count * size].view(dtype).reshape(shape)


class Workspace:
    """Named buffers that grow and are never shrunk.

    What the rasteriser returns are views of these buffers: they hold until the next call of the same stage with the
    same workspace. Use one workspace for each image whose backward pass is still to come. Not for two threads at once.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> NDArray:
        """The buffer `name` cut to `shape`; holds what was last left there, or 0 when it is new or has grown."""
        count = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < count:
            # Some room to spare: counts of splats and pairs drift upwards during training.
            grown = count if buffer is None else max(count, buffer.size + buffer.size // 4)
            try:
                buffer = aligned_zeros((grown,), dtype)
            except MemoryError as problem:
                size = grown * np.dtype(dtype).itemsize / 2**30
                raise StudioError(
                    f"rasteriser buffer '{name}' needs {size:.1f} GiB and the system refuses it",
                    fix="lower the number of Gaussians, their size or the image size",
                ) from problem
            self._buffers[name] = buffer
        return buffer[:count].reshape(shape)

    def capacity(self, name: str) -> int:
        """Number of elements the buffer `name` has room for; 0 if there is none."""
        buffer = self._buffers.get(name)
        return 0 if buffer is None else buffer.size

    @property
    def nbytes(self) -> int:
        """Bytes held by all buffers."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def clear(self) -> None:
        """Give all buffers back."""
        self._buffers.clear()
