"""How fast this machine multiplies matrices, and how fast it can do fused multiply-adds at all.

    python benchmarks/peaks.py --threads 1 --clock cpu

Prints JSON. Other benchmarks run it as a process of its own, since libraries take their number of threads at import.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

Clock = Literal["wall", "cpu"]

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
_NO_AVX512 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
"""Keeps torch, MKL, oneDNN and OpenBLAS to AVX2, for an equal peer of kernels that are compiled for it."""
_SIZE = 1536
_REPETITIONS = 8
_STEPS = 4_000_000
_CHAINS = 10  # independent ones: latency of an FMA times FMAs a cycle


@dataclass(frozen=True)
class Peaks:
    """float32 GFLOP/s of this machine.

    Attributes:
        torch: Matrix product of torch.
        numpy: Matrix product of NumPy.
        fma: Fused multiply-adds on registers, nothing else: what no program can pass.
    """

    torch: float
    numpy: float
    fma: float

    @property
    def matmul(self) -> float:
        """The faster of the two matrix products."""
        return max(self.torch, self.numpy)


def read_clock(clock: Clock) -> float:
    """Seconds: of wall time, or of CPU time of this process and its threads."""
    return time.process_time() if clock == "cpu" else time.perf_counter()


def measure_peaks(threads: int, clock: Clock) -> Peaks:
    """Run this script with so many threads; where kernels are compiled without AVX-512, the products do without too."""
    from studio.kernels.target import has_wide_registers

    environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(threads))}
    if not has_wide_registers():
        environment.update(_NO_AVX512)
    command = [sys.executable, __file__, "--threads", str(threads), "--clock", clock]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return Peaks(**json.loads(done.stdout.splitlines()[-1]))


def _best(work: Any, operations: float, clock: Clock) -> float:
    work()
    seconds = []
    for _ in range(_REPETITIONS):
        started = read_clock(clock)
        work()
        seconds.append(read_clock(clock) - started)
    return operations / min(seconds) / 1e9


def _fma_kernel() -> Any:
    import numba
    import numpy as np

    from studio.kernels.vec import fma, load, store

    # Not through the kernel cache: the threads are those of Numba's own setting here.
    @numba.njit(nogil=True, parallel=True)
    def run(values: Any, steps: int) -> None:
        for part in numba.prange(values.shape[0]):
            a = load(values, np.int64(part) * 16)
            x0, x1, x2, x3, x4, x5, x6, x7, x8, x9 = a, a, a, a, a, a, a, a, a, a
            for _ in range(steps):
                x0, x1, x2, x3, x4 = fma(x0, a, a), fma(x1, a, a), fma(x2, a, a), fma(x3, a, a), fma(x4, a, a)
                x5, x6, x7, x8, x9 = fma(x5, a, a), fma(x6, a, a), fma(x7, a, a), fma(x8, a, a), fma(x9, a, a)
            store(values, np.int64(part) * 16, x0 + x1 + x2 + x3 + x4 + x5 + x6 + x7 + x8 + x9)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", choices=["wall", "cpu"], default="wall", help="cpu: for one thread on a busy machine"
    )
    arguments = parser.parse_args()
    import numba
    import numpy as np
    import torch

    torch.set_num_threads(arguments.threads)
    numba.set_num_threads(arguments.threads)
    a, b = np.random.default_rng(0).random((2, _SIZE, _SIZE), dtype=np.float32)
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    values = np.full((arguments.threads, 16), 0.5, np.float32)
    run = _fma_kernel()
    product, fmas = 2.0 * _SIZE**3, 2.0 * 16 * _CHAINS * _STEPS * arguments.threads
    peaks = {
        "torch": _best(lambda: ta @ tb, product, arguments.clock),
        "numpy": _best(lambda: a @ b, product, arguments.clock),
        "fma": _best(lambda: run(values, _STEPS), fmas, arguments.clock),
    }
    print(json.dumps(peaks))


if __name__ == "__main__":
    main()
