"""Which optional packages work here, found out without importing any of them into this process."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from studio.processes import clean_environment, clean_python

PROBE_SECONDS = 20.0


@dataclass(frozen=True)
class Backend:
    """A package that the studio uses when it is there."""

    name: str
    purpose: str
    install: str
    """Command that installs it."""
    module: str | None = None
    """Top-level module without which there is nothing to try; None where the probe decides alone."""


@dataclass(frozen=True)
class BackendStatus:
    """What came of trying one package."""

    name: str
    available: bool
    version: str = ""
    reason: str = ""
    """Why it is not available; one line."""
    fix: str = ""
    details: dict[str, Any] = field(default_factory=dict)


OPTIONAL = (
    Backend("gsplat", "Gaussian splatting on NVIDIA GPUs", "pip install 'neural-studio[cuda]'", "gsplat"),
    Backend("open3d", "meshes and point clouds", "pip install 'neural-studio[mesh]'", "open3d"),
    Backend("pycolmap", "camera poses from plain photos", "pip install 'neural-studio[sfm]'", "pycolmap"),
    Backend("nerfstudio", "nerfstudio's own methods", "pip install 'neural-studio[nerfstudio]'", "nerfstudio"),
    Backend("ray", "training on several machines", "pip install 'neural-studio[cluster]'", "ray"),
    Backend("lpips", "the LPIPS metric (needs its weights)", "pip install lpips"),
)

CORE = (
    Backend("torch", "everything", "pip install torch", "torch"),
    Backend("numba", "the CPU kernels", "pip install numba", "numba"),
    Backend("ffmpeg", "writing videos", "pip install imageio-ffmpeg", "imageio_ffmpeg"),
)


def probe_backends(backends: Sequence[Backend], *, seconds: float = PROBE_SECONDS) -> list[BackendStatus]:
    """Try packages, all at once, each in a subprocess that is ended after `seconds`; one status each, in order."""
    with ThreadPoolExecutor(max_workers=max(1, len(backends))) as pool:
        return list(pool.map(lambda backend: probe_backend(backend, seconds=seconds), backends))


def probe_backend(backend: Backend, *, seconds: float = PROBE_SECONDS) -> BackendStatus:
    """Try one package in a subprocess."""
    if backend.module is not None and not _is_installed(backend.module):
        return BackendStatus(backend.name, False, reason="not installed", fix=backend.install)
    process = subprocess.Popen(
        clean_python(backend.name, module="studio.devices.probe"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=clean_environment(),
        # Its own session, so that what it started can be ended with it.
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        reason = f"importing it did not finish within {seconds:g} s"
        return BackendStatus(backend.name, False, reason=reason, fix=f"Try: python -c 'import {backend.module}'")
    except BaseException:
        _end(process)
        raise
    answer = _last_json(out)
    if answer is None:
        reason = f"importing it {_how_it_ended(process.returncode)}{_last_line(err)}"
        return BackendStatus(
            backend.name, False, reason=reason, fix=f"Reinstall it: {backend.install} --force-reinstall"
        )
    if "reason" in answer:
        return BackendStatus(backend.name, False, reason=answer["reason"], fix=answer["fix"])
    return BackendStatus(backend.name, True, version=answer["version"], details=answer["details"])


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _last_json(out: str) -> dict[str, Any] | None:
    # A package may print while it is imported, even after the answer when the process ends.
    for line in reversed(out.splitlines()):
        if line.startswith("{"):
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict) and ("version" in found or "reason" in found):
                    return found
    return None


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended the process with status {status}"
    try:
        return f"crashed with {signal.Signals(-status).name}"
    except ValueError:
        return f"crashed with signal {-status}"


def _last_line(err: str) -> str:
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return f" ({lines[-1][:160]})" if lines else ""


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the process and whatever it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.communicate()
