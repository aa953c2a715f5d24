"""Thread counts applied in fresh processes, because Numba's pool is sized once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

REPORT = "print(json.dumps([torch.get_num_threads(), numba.get_num_threads()]))"
LAZY = f"import json; from studio.devices import apply_threads; apply_threads(); import torch, numba; {REPORT}"
EAGER = f"import json, torch, numba; from studio.devices import apply_threads; apply_threads(); {REPORT}"


def test_torch_and_numba_use_the_planned_threads() -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", LAZY],
        env={**environment, "STUDIO_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout) == [1, 1]


def test_a_pool_that_is_too_small_already_is_not_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EAGER],
        env={**os.environ, "STUDIO_THREADS": "3", "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout) == [3, 2]


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, studio.devices, studio.devices.report, studio.cli.doctor; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
