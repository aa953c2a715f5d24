"""All that `studio doctor` tells, as data."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import studio
from studio.devices.backends import CORE, OPTIONAL, PROBE_SECONDS, Backend, BackendStatus, probe_backends
from studio.devices.host_cpu import cores, cpu_name, simd_features
from studio.devices.host_memory import format_bytes, host_memory
from studio.devices.threads import plan_threads
from studio.errors import StudioError

Status = Literal["ok", "unavailable", "warning", "error"]
"""ok; unavailable: optional and not there; warning: works, yet needs attention; error: the studio cannot work."""

LOW_DISK = 2 * 2**30
"""Bytes of free disk below which a folder gets a warning: a run with its checkpoints takes about a gigabyte."""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    group: Literal["system", "device", "storage", "backend"]
    name: str
    status: Status
    summary: str
    """What was found, or why it is not available."""
    fix: str = ""
    """What to do about it; empty when there is nothing to do."""
    details: dict[str, Any] = field(default_factory=dict)
    """Plain data; bytes are whole numbers."""


@dataclass(frozen=True)
class DoctorReport:
    """Findings in the order in which they are told."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether the studio can work: no finding is an error."""
        return all(finding.status != "error" for finding in self.findings)

    def to_json(self) -> list[dict[str, Any]]:
        """The stable form of `studio doctor --json`: objects with group, name, status, summary, fix, details."""
        return [asdict(finding) for finding in self.findings]


def examine(runs: Path = Path("runs"), *, seconds: float = PROBE_SECONDS) -> DoctorReport:
    """Look at everything. Optional packages are tried in subprocesses, so none can hang or crash this process.

    Args:
        runs: Where runs are written, for its disk space.
        seconds: Time limit of the trials, which run at once.
    """
    backends = [*CORE, *OPTIONAL]
    statuses = dict(zip((b.name for b in backends), probe_backends(backends, seconds=seconds), strict=True))
    torch = statuses["torch"]
    caches = cache_folder()
    return DoctorReport(
        (
            *_system(torch),
            *_devices(torch),
            _folder("runs", runs),
            _folder("cache", caches),
            _kernel_cache(),
            *(_core(backend, statuses[backend.name]) for backend in CORE if backend.name != "torch"),
            *(_optional(backend, statuses[backend.name]) for backend in OPTIONAL),
        )
    )


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME` (or `~/.cache`) `/neural-studio`: compiled kernels and the listing of plugins."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "neural-studio"


def _system(torch: BackendStatus) -> list[Finding]:
    found, memory, simd = cores(), host_memory(), simd_features()
    quota = f", quota {found.quota:g}" if found.quota is not None else ""
    return [
        Finding("system", "studio", "ok", studio.__version__, details={"folder": str(Path(studio.__file__).parent)}),
        Finding("system", "python", "ok", platform.python_version(), details={"executable": sys.executable}),
        Finding("system", "platform", "ok", platform.platform(), details={"machine": platform.machine()}),
        _core(CORE[0], torch),
        Finding(
            "system",
            "cpu",
            "ok",
            f"{cpu_name()}, {found.physical} cores to use ({found.usable} of {found.logical} threads{quota}), "
            f"{' '.join(simd) or 'vector units unknown'}",
            details={**asdict(found), "name": cpu_name(), "simd": list(simd)},
        ),
        _threads(),
        Finding(
            "system",
            "memory",
            "ok",
            f"{format_bytes(memory.free)} free of {format_bytes(memory.total)}",
            details={"total_bytes": memory.total, "free_bytes": memory.free},
        ),
    ]


def _threads() -> Finding:
    try:
        plan = plan_threads()
    except StudioError as error:
        return Finding("system", "threads", "error", error.message, error.fix or "")
    return Finding("system", "threads", "ok", f"{plan.count} ({plan.reason})", details=asdict(plan))


def _devices(torch: BackendStatus) -> list[Finding]:
    findings = []
    for device in torch.details.get("devices", []):
        free, total = device["free_bytes"], device["total_bytes"]
        capability = device["compute_capability"]
        parts = [device["name"]]
        if capability:
            parts.append(f"compute capability {capability[0]}.{capability[1]}")
        parts.append(f"{format_bytes(free)} free of {format_bytes(total)}")
        if device["half_types"]:
            parts.append(f"computes {' and '.join(device['half_types'])}")
        status: Status = "warning" if device["problem"] else "ok"
        fix = (
            "Install a torch build that supports it: https://pytorch.org/get-started/locally"
            if device["problem"]
            else ""
        )
        summary = ", ".join(parts) + (f"; {device['problem']}" if device["problem"] else "")
        findings.append(Finding("device", device["id"], status, summary, fix, device))
    for kind, absence in torch.details.get("absent", {}).items():
        findings.append(Finding("device", kind, "unavailable", absence["reason"], absence["fix"]))
    return findings


def _folder(name: str, folder: Path) -> Finding:
    folder = folder.expanduser().absolute()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        return Finding("storage", name, "warning", f"{folder}: {error.strerror}", "Choose another folder.")
    details = {"folder": str(folder), "exists": there == folder, "free_bytes": free}
    if not (there.is_dir() and os.access(there, os.W_OK)):
        return Finding("storage", name, "warning", f"{folder} cannot be written", "Choose another folder.", details)
    summary = f"{folder}, {format_bytes(free)} free on its disk"
    if free < LOW_DISK:
        return Finding("storage", name, "warning", summary, "Free some space, or choose another folder.", details)
    return Finding("storage", name, "ok", summary, details=details)


def _kernel_cache() -> Finding:
    from studio.kernels.folder import cache_states, kernel_folders, usual_root

    try:
        problems, states = kernel_folders().problems, cache_states()
    except StudioError as error:
        return Finding("storage", "kernel cache", "error", error.message, error.fix or "")
    kernels = sum(state.kernels for state in states)
    others = sum(state.others for state in states)
    size = sum(state.total_bytes for state in states)
    damaged = [str(path) for state in states for path in state.damaged]
    places = [str(state.root) for state in states] or [str(usual_root())]
    summary = f"{', '.join(places)}, {format_bytes(size)}: {kernels} compiled kernels"
    if others:
        summary += f", {others} files of other versions or processors"
    if not size:
        summary = f"{', '.join(places)}, empty: the first use compiles"
    fix = ""
    if damaged:
        summary += f"; {len(damaged)} damaged, which are compiled anew"
        fix = "studio doctor --clear-kernels deletes all."
    if problems:
        summary += f"; {'; '.join(problems)}"
        fix = fix or "Name a folder that you alone can write with XDG_CACHE_HOME."
    details = {"folders": places, "kernels": kernels, "others": others, "bytes": size, "damaged": damaged}
    return Finding("storage", "kernel cache", "warning" if damaged or problems else "ok", summary, fix, details)


def _core(backend: Backend, status: BackendStatus) -> Finding:
    if status.available:
        details = {key: value for key, value in status.details.items() if key not in ("devices", "absent")}
        build = _torch_build(details) if backend.name == "torch" else ""
        return Finding(
            "system", backend.name, "ok", status.version + build, details={"version": status.version, **details}
        )
    return Finding("system", backend.name, "error", f"{status.reason}; needed for {backend.purpose}", status.fix)


def _torch_build(details: dict[str, Any]) -> str:
    gpu = f"CUDA {details['cuda']}" if details["cuda"] else f"ROCm {details['hip']}" if details["hip"] else "CPU"
    return f" ({gpu} build, {details['cpu_capability']} kernels, {'oneDNN' if details['mkldnn'] else 'no oneDNN'})"


def _optional(backend: Backend, status: BackendStatus) -> Finding:
    details = {"purpose": backend.purpose, "version": status.version or None, **status.details}
    if status.available:
        extra = "".join(f", {key} {value}" for key, value in status.details.items())
        return Finding("backend", backend.name, "ok", f"available ({status.version}{extra})", details=details)
    return Finding(
        "backend", backend.name, "unavailable", f"{status.reason}; for {backend.purpose}", status.fix, details
    )
