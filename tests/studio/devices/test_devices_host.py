"""Host memory and cores: texts of other systems parsed, this one's figures checked against the system's own."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import pytest

from studio.devices.host_cpu import (
    SIMD,
    Cores,
    cores,
    count_physical,
    count_processor_records,
    cpu_name,
    parse_cpu_flags,
    simd_features,
)
from studio.devices.host_memory import Memory, format_bytes, host_memory, parse_meminfo, parse_vm_stat
from studio.devices.threads import ThreadPlan, plan_threads
from studio.errors import StudioError

VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                               10000.
Pages active:                            300000.
Pages inactive:                           20000.
Pages speculative:                         3000.
Pages wired down:                        100000.
Pages purgeable:                            400.
"Translation faults":                 123456789.
"""


def test_vm_stat_counts_what_can_be_had_without_writing() -> None:
    assert parse_vm_stat(VM_STAT, 2**34) == Memory(2**34, 33400 * 16384)


def test_meminfo_of_old_kernels_has_no_estimate() -> None:
    text = "MemTotal:  100 kB\nMemFree:  10 kB\nBuffers:  5 kB\nCached:  20 kB\n"
    assert parse_meminfo(text) == Memory(100 * 1024, 35 * 1024)
    with pytest.raises(ValueError, match="MemTotal"):
        parse_meminfo("nothing")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="compares with Linux's sysconf")
def test_host_memory_of_this_machine_is_plausible() -> None:
    memory = host_memory()
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < memory.free <= memory.total <= physical


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (8 * 2**30, "8.0 GiB"), (2**51, "2048.0 TiB")]
)
def test_format_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


def sysfs(root: Path, siblings: dict[int, str]) -> Path:
    for number, text in siblings.items():
        folder = root / f"sys/devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    return root


def test_threads_of_one_core_count_once(tmp_path: Path) -> None:
    root = sysfs(tmp_path, {0: "0,4", 4: "0,4", 1: "1,5", 5: "1,5", 2: "2,6", 6: "2,6"})
    assert count_physical({0, 1, 2, 4, 5, 6}, root) == 3
    assert count_physical({0, 4}, root) == 1
    assert count_physical({0, 5}, root) == 2
    assert count_physical({0, 9}, root) == 2, "a core without topology counts as one"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity masks")
def test_affinity_mask_is_respected() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        found = cores()
    finally:
        os.sched_setaffinity(0, before)
    assert (found.usable, found.physical) == (1, 1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups are Linux's")
@pytest.mark.parametrize(("quota", "physical"), [("150000", 1), ("50000", 1), ("6400000", None)])
def test_quota_is_rounded_down_to_whole_cores(tmp_path: Path, quota: str, physical: int | None) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "proc/self/mountinfo").write_text("30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "cg").mkdir()
    (tmp_path / "cg/cpu.max").write_text(f"{quota} 100000\n")
    found = cores(tmp_path)
    assert found.quota == int(quota) / 100000
    assert found.physical == (physical or len(os.sched_getaffinity(0)))


def test_cpuinfo_flags_get_llvm_names() -> None:
    intel = "processor : 0\nflags\t\t: fpu sse4_2 avx2 fma avx512f avx512_bf16 amx_bf16 amx_tile\nflags\t: other"
    assert {"sse4.2", "avx2", "avx512f", "avx512bf16", "amx-bf16"} <= parse_cpu_flags(intel)
    assert "other" not in parse_cpu_flags(intel), "only the first processor counts"
    assert {"neon", "bf16", "fp16", "sve"} <= parse_cpu_flags("Features\t: fp asimd asimdhp bf16 sve")
    assert parse_cpu_flags("Hardware : Board") == set()


def test_simd_agrees_with_llvm() -> None:
    binding = pytest.importorskip("llvmlite.binding")
    features = {name for name, there in binding.get_host_cpu_features().items() if there}
    for name in set(SIMD) - {"bf16", "fp16"}:
        assert (name in simd_features()) == (name in features), name
    assert cpu_name()


def test_windows_processor_records_are_walked_by_their_size() -> None:
    records = b"".join(struct.pack("<II", 0, size) + bytes(size - 8) for size in (48, 48, 80))
    assert count_processor_records(records) == 3
    assert count_processor_records(b"") == 0
    assert count_processor_records(struct.pack("<II", 0, 0)) == 0, "a broken size must not loop for ever"


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("STUDIO_THREADS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return monkeypatch


def test_threads_default_to_physical_cores(clean_environment: pytest.MonkeyPatch) -> None:
    assert plan_threads(Cores(16, 16, 8, None)) == ThreadPlan(8, "usable physical cores")
    assert "quota of 2.5" in plan_threads(Cores(16, 2, 2, 2.5)).reason


def test_thread_variables_come_first(clean_environment: pytest.MonkeyPatch) -> None:
    found = Cores(16, 16, 8, None)
    clean_environment.setenv("OMP_NUM_THREADS", "4,2")
    assert plan_threads(found) == ThreadPlan(4, "OMP_NUM_THREADS")
    clean_environment.setenv("STUDIO_THREADS", " 3 ")
    assert plan_threads(found) == ThreadPlan(3, "STUDIO_THREADS")
    clean_environment.setenv("STUDIO_THREADS", "32")
    assert plan_threads(found) == ThreadPlan(32, "STUDIO_THREADS, more than the 16 usable cores")


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "4,2"])
def test_bad_thread_variable_is_named(clean_environment: pytest.MonkeyPatch, value: str) -> None:
    clean_environment.setenv("STUDIO_THREADS", value)
    with pytest.raises(StudioError, match=r"STUDIO_THREADS=.*not a number of threads.*at least 1"):
        plan_threads()
