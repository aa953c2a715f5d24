"""The host's processor: its name, the cores this process may use, and its vector units. Imports no torch."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from studio.devices.cgroup import cgroup_cpus

SIMD = (
    *("sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512vnni", "avx512bf16", "avx512fp16"),
    *("amx-int8", "amx-bf16", "amx-fp16", "neon", "bf16", "fp16", "sve"),
)
"""The vector extensions that matter for speed here, in LLVM's spelling; "bf16" and "fp16" are Arm's."""

_CPUINFO_NAMES = {
    "sse4_2": "sse4.2", "avx512_vnni": "avx512vnni", "avx512_bf16": "avx512bf16", "avx512_fp16": "avx512fp16",
    "amx_bf16": "amx-bf16", "amx_fp16": "amx-fp16", "amx_int8": "amx-int8", "asimd": "neon", "asimdhp": "fp16",
}  # fmt: skip
_LLVM_NAMES = {"fullfp16": "fp16"}


@dataclass(frozen=True)
class Cores:
    """Cores of the host, and how many of them this process may use."""

    logical: int
    """Hardware threads of the machine."""
    usable: int
    """Hardware threads this process may run on (its affinity mask), at most the container's quota."""
    physical: int
    """Distinct physical cores among the usable ones, at most the container's quota: the number of threads to compute
    with, as two threads of one core share its vector units."""
    quota: float | None
    """The container's quota in cores, where there is one."""


def cores(root: Path = Path("/")) -> Cores:
    """Count cores. On Linux the affinity mask, the topology in sysfs and the control group's quota are respected.

    Args:
        root: Folder that holds `proc` and `sys` (Linux only).
    """
    logical = os.cpu_count() or 1
    if sys.platform == "win32":
        physical = _windows_physical_cores() or logical
        return Cores(logical, logical, min(physical, logical), None)
    if sys.platform == "darwin":
        physical = int(_sysctl("hw.physicalcpu") or logical)
        return Cores(logical, logical, min(physical, logical), None)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(logical))
    quota = cgroup_cpus(root)
    # Threads beyond the whole cores of a quota are throttled in the middle of parallel loops, so it is rounded down.
    most = max(1, int(quota)) if quota is not None else logical
    return Cores(logical, min(len(allowed), most), min(count_physical(allowed, root), most), quota)


def count_physical(allowed: set[int], root: Path) -> int:
    """Distinct physical cores among the logical ones of `allowed`, by the topology in sysfs below `root`."""
    seen = set()
    for number in allowed:
        topology = root / f"sys/devices/system/cpu/cpu{number}/topology"
        try:
            seen.add((topology / "thread_siblings_list").read_text(encoding="ascii").strip())
        except OSError:
            seen.add(f"unknown {number}")
    return max(1, len(seen))


@functools.cache
def cpu_name() -> str:
    """The processor's marketing name, as far as the system tells."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.machine()
    if sys.platform != "win32":
        match = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


@functools.cache
def simd_features() -> tuple[str, ...]:
    """Which of `SIMD` the processor and the system offer, in that order; empty where nothing tells."""
    found = parse_cpu_flags(_cpuinfo()) if sys.platform.startswith("linux") else set()
    if not found:
        try:
            from llvmlite import binding
        except (ImportError, OSError):
            return ()
        try:
            features = binding.get_host_cpu_features()
        except RuntimeError:
            return ()
        found = {_LLVM_NAMES.get(name, name) for name, there in features.items() if there}
    return tuple(name for name in SIMD if name in found)


def parse_cpu_flags(cpuinfo: str) -> set[str]:
    """The flags of the first processor in the text of /proc/cpuinfo, in LLVM's spelling."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return {_CPUINFO_NAMES.get(flag, flag) for flag in match[1].split()} if match else set()


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _sysctl(name: str) -> str:
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _windows_physical_cores() -> int:
    """Cores by GetLogicalProcessorInformationEx: one variable-sized record each; 0 if the call fails."""
    kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009 (absent from the type stubs of other systems)
    size = ctypes.c_uint32(0)
    relation_processor_core = 0
    kernel32.GetLogicalProcessorInformationEx(relation_processor_core, None, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    if not kernel32.GetLogicalProcessorInformationEx(relation_processor_core, buffer, ctypes.byref(size)):
        return 0
    return count_processor_records(buffer.raw[: size.value])


def count_processor_records(records: bytes) -> int:
    """Number of SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX records: each begins with its kind and its size, two uint32."""
    count = offset = 0
    while offset + 8 <= len(records):
        step = struct.unpack_from("<I", records, offset + 4)[0]
        if step < 8:
            break
        count, offset = count + 1, offset + step
    return count
