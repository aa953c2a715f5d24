"""Which rasterisers can run here, and why the others cannot.

Nothing is probed when this module is imported. A CUDA probe renders a tiny scene in a subprocess, because importing or
first using gsplat may compile for minutes, hang or crash, and must not take the training process with it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Literal, get_args

from studio.errors import StudioError
from studio.processes import clean_environment, clean_python

BackendName = Literal["reference", "cpu", "cuda"]
"""reference: plain torch, any dtype and device, slow. cpu: compiled kernels, float32. cuda: gsplat, float32."""

PROBE_SECONDS = 600.0
"""How long the CUDA probe may take; a first use of gsplat compiles its kernels, which takes minutes."""

_PROBE = "from studio_splat.cuda import smoke_test; smoke_test()"
_INSTALL_CUDA = "pip install 'neural-studio[cuda]'"


@dataclass(frozen=True)
class BackendStatus:
    """Whether one backend can be used in this process.

    Attributes:
        name: Which backend.
        available: True if it has all that it needs.
        reason: One line: what it runs on, or why it cannot run and what to do about it.
    """

    name: BackendName
    available: bool
    reason: str


def available_backends() -> tuple[BackendStatus, ...]:
    """The status of all backends; the first call probes, later ones repeat its answer."""
    return tuple(backend_status(name) for name in get_args(BackendName))


@functools.cache
def backend_status(name: BackendName) -> BackendStatus:
    """The status of one backend, found out at the first call.

    Raises:
        ValueError: There is no backend of that name.
    """
    if name == "reference":
        return BackendStatus(name, True, "plain torch on any device; for checks, not for speed")
    if name == "cpu":
        return _probe_cpu()
    if name == "cuda":
        return _probe_cuda()
    raise ValueError(f"backend must be one of {', '.join(get_args(BackendName))}, got {name!r}")


def require_backend(name: BackendName) -> None:
    """Return if the backend can be used.

    Raises:
        StudioError: It cannot; the message is the probe's reason.
        ValueError: There is no backend of that name.
    """
    status = backend_status(name)
    if not status.available:
        raise StudioError(
            f"The splat backend '{name}' cannot be used: {status.reason}.",
            fix="Or run on the CPU: keep all tensors there and leave `backend` out." if name == "cuda" else None,
        )


def default_backend(device_type: str) -> BackendName:
    """The backend for tensors on a device of this type ("cpu", "cuda", ...).

    Raises:
        StudioError: No fast backend exists for that device.
    """
    if device_type == "cpu":
        return "cpu"
    if device_type == "cuda":
        return "cuda"
    raise StudioError(
        f"There is no splat rasteriser for tensors on '{device_type}'.",
        fix="Move them to the CPU with .cpu(), or pass backend='reference' (slow).",
    )


def _probe_cpu() -> BackendStatus:
    if importlib.util.find_spec("numba") is None:
        return BackendStatus("cpu", False, "the package 'numba' is not installed (pip install numba)")
    return BackendStatus("cpu", True, f"compiled kernels, {os.cpu_count()} logical cores")


def _probe_cuda() -> BackendStatus:
    import torch

    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            reason = "this build of torch has no CUDA support (choose one with it at https://pytorch.org/get-started)"
        else:
            reason = "torch sees no NVIDIA GPU (check nvidia-smi and CUDA_VISIBLE_DEVICES)"
        return BackendStatus("cuda", False, reason)
    # gsplat 1.5.3 imports `packaging` without declaring it.
    for package in ("gsplat", "packaging"):
        if importlib.util.find_spec(package) is None:
            return BackendStatus("cuda", False, f"the package '{package}' is not installed ({_INSTALL_CUDA})")
    failure = _run_probe(_PROBE, PROBE_SECONDS)
    if failure is not None:
        return BackendStatus("cuda", False, failure)
    return BackendStatus("cuda", True, f"gsplat on {torch.cuda.get_device_name()}")


def _run_probe(code: str, seconds: float) -> str | None:
    """Run Python code in a fresh process; None if it succeeded, else one line that says why not and what to do."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            clean_python(code=code, path=sys.path),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=clean_environment(),
            # Its own session, so that compilers which it started can be ended with it.
            start_new_session=True,
        )
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return (
                f"gsplat was not ready within {seconds:.0f} s (it compiles at first use; "
                f"let it finish once with: python -c '{code}')"
            )
        except BaseException:
            _end(process)
            raise
        log.seek(0)
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    if status == 0:
        return None
    if status < 0:
        what = f"gsplat crashed with signal {-status}"
    else:
        what = f"gsplat does not work here: {lines[-1][:200] if lines else f'exit status {status}'}"
    return f"{what} (see all of it with: python -c '{code}'; reinstall with: {_INSTALL_CUDA})"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
