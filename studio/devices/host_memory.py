"""How much memory the host has and can still give, on Linux, macOS and Windows. Imports no torch."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from studio.devices.cgroup import cgroup_memory


@dataclass(frozen=True)
class Memory:
    """Memory of one device, in bytes."""

    total: int
    free: int
    """What a new allocation can get without swapping or ending another program."""


def host_memory(root: Path = Path("/")) -> Memory:
    """Total and free host memory, the limit of a container counted as the machine's own.

    Args:
        root: Folder that holds `proc` and `sys` (Linux only).
    """
    if sys.platform == "win32":
        return _windows_memory()
    if sys.platform == "darwin":
        return _macos_memory()
    return linux_memory(root)


def linux_memory(root: Path) -> Memory:
    """Memory by /proc/meminfo and control groups below `root`."""
    try:
        memory = parse_meminfo((root / "proc/meminfo").read_text(encoding="ascii", errors="replace"))
    except (OSError, ValueError):
        memory = _posix_memory()
    group = cgroup_memory(root)
    if group is None:
        return memory
    return Memory(min(memory.total, group.limit), min(memory.free, group.free))


def parse_meminfo(text: str) -> Memory:
    """Memory by the text of /proc/meminfo.

    Raises:
        ValueError: It has no MemTotal.
    """
    kib = {match[1]: int(match[2]) for match in re.finditer(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    if "MemTotal" not in kib:
        raise ValueError("/proc/meminfo has no MemTotal")
    # Kernels before 3.14 do not estimate MemAvailable.
    older = kib.get("MemFree", 0) + kib.get("Buffers", 0) + kib.get("Cached", 0)
    return Memory(kib["MemTotal"] * 1024, kib.get("MemAvailable", older) * 1024)


def parse_vm_stat(text: str, total: int) -> Memory:
    """Memory by the output of macOS's `vm_stat` and the total in bytes.

    Pages that are free, or that the system drops or hands over without writing them to disk, count as free.
    """
    size = re.search(r"page size of (\d+) bytes", text)
    pages = {match[1]: int(match[2]) for match in re.finditer(r"^Pages ([\w ]+):\s+(\d+)\.", text, re.MULTILINE)}
    free = sum(pages.get(kind, 0) for kind in ("free", "inactive", "speculative", "purgeable"))
    return Memory(total, min(total, free * int(size[1] if size else 4096)))


def format_bytes(count: float) -> str:
    """A size for people: '512 B', '1.5 GiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _posix_memory() -> Memory:
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    free = os.sysconf("SC_AVPHYS_PAGES") * page if "SC_AVPHYS_PAGES" in os.sysconf_names else total
    return Memory(total, free)


def _macos_memory() -> Memory:
    total = _posix_memory().total
    try:
        text = subprocess.run(["vm_stat"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return Memory(total, total // 2)
    return parse_vm_stat(text, total)


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total_physical", ctypes.c_uint64),
        ("available_physical", ctypes.c_uint64),
        ("total_page_file", ctypes.c_uint64),
        ("available_page_file", ctypes.c_uint64),
        ("total_virtual", ctypes.c_uint64),
        ("available_virtual", ctypes.c_uint64),
        ("available_extended_virtual", ctypes.c_uint64),
    )


def _windows_memory() -> Memory:
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009 (absent from the type stubs of other systems)
    if not kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        raise OSError("GlobalMemoryStatusEx failed")
    return Memory(status.total_physical, status.available_physical)
