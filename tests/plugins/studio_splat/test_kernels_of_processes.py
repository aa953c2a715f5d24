"""Kernels that were compiled in several processes and are used in one: none may be taken for another."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

VARIANTS = ("rgb", "features", "rgbd")
"""Variants of the forward and backward kernels: their inner functions have the same names and other bodies."""
_TEST = Path(__file__).with_name("test_kernels_raster.py")


def test_variants_compiled_apart_are_right_together(tmp_path: Path) -> None:
    """Each variant in a process of its own, into one cache; then all in one process, in two orders, held against the
    float64 reference, and nothing compiled anew."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

    def start(*variants: str) -> subprocess.Popen[str]:
        tests = [f"{_TEST}::test_matches_float64_autograd[random-{variant}]" for variant in variants]
        options = ["-p", "no:cacheprovider", "--import-mode=importlib"]
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *tests],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def finish(process: subprocess.Popen[str], passed: int) -> None:
        said, _ = process.communicate(timeout=280)
        assert process.returncode == 0, said
        assert f"{passed} passed" in said, said

    for process in [start(variant) for variant in VARIANTS]:
        finish(process, 1)
    kernels = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert len(kernels) > 2 * len(VARIANTS)
    for order in (VARIANTS, VARIANTS[::-1]):
        finish(start(*order), len(VARIANTS))
    assert {path: path.stat().st_mtime_ns for path in kernels if path.exists()} == kernels
