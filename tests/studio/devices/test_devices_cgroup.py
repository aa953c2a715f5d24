"""Memory and CPU limits read from simulated /proc and /sys trees of the layouts that real systems have."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.devices.cgroup import CgroupMemory, cgroup_cpus, cgroup_memory
from studio.devices.host_memory import Memory, linux_memory

MIB = 2**20
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def build(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def group_v2(folder: str, limit: str, current: int = 0, inactive: int = 0) -> dict[str, str]:
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.current": str(current),
        f"{folder}/memory.stat": f"anon 7\ninactive_file {inactive}\nactive_file 5",
    }


def test_v2_takes_the_tightest_limit_of_all_ancestors(tmp_path: Path) -> None:
    top = "sys/fs/cgroup"
    root = build(
        tmp_path,
        {
            "proc/self/cgroup": "0::/batch/job",
            "proc/self/mountinfo": V2_MOUNT,
            **group_v2(f"{top}/batch", str(1000 * MIB), 900 * MIB, 100 * MIB),
            **group_v2(f"{top}/batch/job", str(800 * MIB), 200 * MIB, 50 * MIB),
        },
    )
    # The job alone has 800 - (200 - 50) = 650 left, but its neighbours leave the batch 1000 - (900 - 100) = 200.
    assert cgroup_memory(root) == CgroupMemory(800 * MIB, 200 * MIB)


def test_v2_without_a_limit_is_none(tmp_path: Path) -> None:
    files = {"proc/self/cgroup": "0::/", "proc/self/mountinfo": V2_MOUNT, **group_v2("sys/fs/cgroup", "max", 5)}
    assert cgroup_memory(build(tmp_path, files)) is None


def test_v1_in_a_container_whose_mount_is_its_own_group(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/memory"
    root = build(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/docker/abc",
            "proc/self/mountinfo": (
                "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
                "36 31 0:33 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
            ),
            f"{folder}/memory.limit_in_bytes": str(512 * MIB),
            f"{folder}/memory.usage_in_bytes": str(300 * MIB),
            f"{folder}/memory.stat": f"inactive_file 1\ntotal_inactive_file {40 * MIB}",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
    )
    assert cgroup_memory(root) == CgroupMemory(512 * MIB, 252 * MIB)
    assert cgroup_cpus(root) == 1.5


def test_v1_writes_no_limit_as_a_huge_number_and_no_quota_as_minus_one(tmp_path: Path) -> None:
    root = build(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/\n4:cpu:/",
            "proc/self/mountinfo": (
                "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                "36 31 0:33 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
            ),
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "1",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    assert cgroup_memory(root) is None
    assert cgroup_cpus(root) is None


def test_v2_cpu_quota_of_an_ancestor_binds(tmp_path: Path) -> None:
    root = build(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a/b",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/a/cpu.max": "200000 100000",
            "sys/fs/cgroup/a/b/cpu.max": "max 100000",
        },
    )
    assert cgroup_cpus(root) == 2.0


def test_mount_points_with_spaces_and_paths_outside_the_namespace(tmp_path: Path) -> None:
    root = build(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../other",
            "proc/self/mountinfo": "30 23 0:26 / /sys/fs/c\\040group rw - cgroup2 cgroup2 rw\n",
            **group_v2("sys/fs/c group", str(64 * MIB), 4 * MIB),
        },
    )
    assert cgroup_memory(root) == CgroupMemory(64 * MIB, 60 * MIB)


@pytest.mark.parametrize("files", [{}, {"proc/self/cgroup": "0::/"}, {"proc/self/mountinfo": "broken\n"}])
def test_missing_files_mean_no_limit(tmp_path: Path, files: dict[str, str]) -> None:
    assert cgroup_memory(build(tmp_path, files)) is None
    assert cgroup_cpus(tmp_path) is None


def test_host_memory_is_bounded_by_the_group(tmp_path: Path) -> None:
    meminfo = "MemTotal: 16000 kB\nMemFree: 1000 kB\nMemAvailable: 9000 kB"
    files = {"proc/meminfo": meminfo, "proc/self/cgroup": "0::/", "proc/self/mountinfo": V2_MOUNT}
    assert linux_memory(build(tmp_path, files)) == Memory(16000 * 1024, 9000 * 1024)
    build(tmp_path, group_v2("sys/fs/cgroup", str(8000 * 1024), 6000 * 1024))
    assert linux_memory(tmp_path) == Memory(8000 * 1024, 2000 * 1024)
