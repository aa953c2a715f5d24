"""What writers of kernels import: declaring them, the threads that run them, what is told while they compile.

A kernel's machine code is kept in a file of its own under a key made of all that it is built from (`sources`) and for
(`target`), in the user's cache folder (`folder`) with a checksum (`image`), and runs in an engine of its own
(`loading`), so that no two kernels, whichever processes compiled them, can ever take one's functions for the other's.
Only kernels declared with :func:`kernel` are kept; the user's other Numba functions are left alone.
"""

from studio.kernels.ahead import compile_ahead
from studio.kernels.building import Compiling, compile_listener
from studio.kernels.declaration import Kernel, device, inline, kernel
from studio.kernels.threads import get_threads, physical_cores, set_threads, threading_layer

__all__ = [
    "Compiling",
    "Kernel",
    "compile_ahead",
    "compile_listener",
    "device",
    "get_threads",
    "inline",
    "kernel",
    "physical_cores",
    "set_threads",
    "threading_layer",
]
