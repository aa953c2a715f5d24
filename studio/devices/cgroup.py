"""Limits that a container or batch system sets on Linux, through control groups of version 1 or 2.

A process sees the machine's whole memory and all its cores in /proc, yet is killed or throttled at its group's limit.
Format: https://docs.kernel.org/admin-guide/cgroup-v2.html and .../cgroup-v1/memory.html.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# Version 1 writes "no limit" as the largest page-aligned int64.
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class CgroupMemory:
    """The tightest memory limit above this process, in bytes."""

    limit: int
    free: int
    """What can still be taken: the limit less what is used, file cache that the kernel can drop not counted."""


def cgroup_memory(root: Path = Path("/")) -> CgroupMemory | None:
    """The memory limit that binds this process, or None where none is set.

    Every ancestor's limit binds too, so the result takes the least limit and the least free amount over all of them.

    Args:
        root: Folder that holds `proc` and `sys`.
    """
    limits, frees = [], []
    for folder in _group_folders(root, "memory"):
        v2 = (folder / "memory.max").exists()
        limit = _read_int(folder / ("memory.max" if v2 else "memory.limit_in_bytes"))
        used = _read_int(folder / ("memory.current" if v2 else "memory.usage_in_bytes"))
        if limit is None or used is None or limit >= _UNLIMITED:
            continue
        droppable = _read_stat(folder / "memory.stat", "inactive_file" if v2 else "total_inactive_file")
        limits.append(limit)
        frees.append(max(0, limit - max(0, used - droppable)))
    return CgroupMemory(min(limits), min(frees)) if limits else None


def cgroup_cpus(root: Path = Path("/")) -> float | None:
    """How many cores' worth of time this process may use (1.5 = one and a half), or None where none is set."""
    quotas = []
    for folder in _group_folders(root, "cpu"):
        if (folder / "cpu.max").exists():
            parts = _read(folder / "cpu.max").split()
            quota, period = (parts[0], parts[1]) if len(parts) == 2 else ("max", "1")
        else:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(quota) > 0 and int(period) > 0:
            quotas.append(int(quota) / int(period))
    return min(quotas) if quotas else None


def _group_folders(root: Path, controller: str) -> list[Path]:
    """Folders of this process's group and its ancestors under which `controller` is accounted, both versions."""
    groups: dict[str, str] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            groups["cgroup2"] = path
        elif controller in names.split(","):
            groups["cgroup"] = path
    folders = []
    for line in _read(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(fields) < 5 or len(tail) < 3 or tail[0] not in groups:
            continue
        if tail[0] == "cgroup" and controller not in tail[2].split(","):
            continue
        mount_root, mount_point = _unescape(fields[3]), _unescape(fields[4])
        top = root / mount_point.lstrip("/")
        folders += [folder for folder in _chain(top, mount_root, groups[tail[0]]) if folder.is_dir()]
    return folders


def _chain(top: Path, mount_root: str, group: str) -> list[Path]:
    """`top` and every folder from it down to the group's own.

    Inside a container the group's path may be told as the host sees it, while only a part of the hierarchy is mounted;
    then `top` itself is the container's group.
    """
    prefix = mount_root.rstrip("/")
    inside = group == prefix or group.startswith(prefix + "/")
    parts = [p for p in group[len(prefix) :].split("/") if p] if inside else []
    if ".." in parts:
        parts = []
    return [top.joinpath(*parts[:n]) for n in range(len(parts) + 1)]


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _read_int(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isdigit() else None


def _read_stat(path: Path, key: str) -> int:
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdigit():
            return int(value)
    return 0
