"""Choosing a device, on simulated machines and on this one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from studio.devices import DeviceManager, TorchProbe, select
from studio.devices.torch_probe import cuda_half_types, missing_kernels
from studio.errors import StudioError

Simulate = Callable[..., Any]
ALL = ("cpu", "cuda", "mps")


def test_auto_prefers_the_gpu_with_most_free_memory(simulate: Simulate) -> None:
    machine = simulate(cpu=64, cuda0=24, cuda1=16, mps=40)
    manager = DeviceManager(machine)
    assert manager.select("auto").id == "cuda:0"
    machine.allocate("cuda:0", 10 * 2**30)
    assert manager.select("auto").id == "cuda:1"
    assert manager.select("cuda").id == "cuda:1"
    assert manager.select("cuda:0").id == "cuda:0"


@pytest.mark.parametrize(
    ("supported", "chosen"),
    [(("cpu", "mps"), "mps"), (("cpu",), "cpu"), (("mps", "cuda"), "cuda:0"), (("cpu", "tpu"), "cpu")],
)
def test_auto_takes_only_what_the_plugin_supports(simulate: Simulate, supported: tuple[str, ...], chosen: str) -> None:
    assert DeviceManager(simulate(cpu=8, cuda0=4, mps=6)).select("auto", supported=supported).id == chosen


def test_auto_skips_a_gpu_that_torch_has_no_kernels_for(simulate: Simulate) -> None:
    machine = simulate(cpu=8, cuda0=24, cuda1=4)
    machine.problems["cuda:0"] = "compute capability 3.5 is not supported"
    manager = DeviceManager(machine)
    assert manager.select("auto").id == "cuda:1"
    assert manager.select("cuda").id == "cuda:1"
    with pytest.raises(StudioError, match=r"cuda:0 .*compute capability 3\.5"):
        manager.select("cuda:0")
    machine.problems["cuda:1"] = "compute capability 3.0 is not supported"
    assert manager.select("auto").id == "cpu"
    with pytest.raises(StudioError, match=r"'splat' runs on cuda, but cuda:0 .*compute capability 3\.5"):
        manager.select("auto", supported=("cuda",), owner="'splat'")


def test_absent_devices_are_explained(simulate: Simulate) -> None:
    manager = DeviceManager(simulate(cpu=8, cuda0=4))
    with pytest.raises(StudioError, match=r"There is no cuda:3; torch counts cuda:0 .*Use --device cuda:0"):
        manager.select("cuda:3")
    with pytest.raises(StudioError, match=r"'mps' cannot be used: no mps was plugged in.*Plug a mps in"):
        manager.select("mps")
    with pytest.raises(StudioError, match=r"'nerf' runs on mps, which is not there: no mps"):
        manager.select("auto", supported=("mps",), owner="'nerf'")


def test_plugin_that_does_not_run_there_says_where_it_does(simulate: Simulate) -> None:
    manager = DeviceManager(simulate(cpu=8, cuda0=4))
    with pytest.raises(StudioError, match=r"'nerf' does not run on cuda; it runs on cpu, mps\..*--device cpu"):
        manager.select("cuda", supported=("cpu", "mps"), owner="'nerf'")


@pytest.mark.parametrize("request_", ["gpu", "cuda:", "cuda:x", "cpu:1", "CUDA", ""])
def test_unknown_request(simulate: Simulate, request_: str) -> None:
    with pytest.raises(StudioError, match="Unknown device"):
        DeviceManager(simulate(cpu=8)).select(request_)


def test_supported_must_name_a_known_kind(simulate: Simulate) -> None:
    with pytest.raises(ValueError, match="supported"):
        DeviceManager(simulate(cpu=8)).select("auto", supported=("tpu",))


def test_this_machine_has_a_cpu_that_torch_accepts() -> None:
    device = select("cpu", supported=("cpu",))
    assert device.torch_device == torch.device("cpu")
    assert 0 < device.memory.free <= device.memory.total
    assert device == next(d for d in TorchProbe().devices() if d.kind == "cpu")


@pytest.mark.skipif(torch.version.cuda is not None or sys.platform == "darwin", reason="needs a CPU build of torch")
def test_cpu_build_is_told_with_the_pip_command() -> None:
    with pytest.raises(StudioError, match=r"torch .* is a CPU build\..*pip install --force-reinstall torch"):
        select("cuda")


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pretend that torch is built for CUDA and finds no device."""
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


def test_missing_driver_is_told_in_torchs_words(cuda_build: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU\nand ...")

    cuda_build.setattr(torch.cuda, "init", init)
    with pytest.raises(StudioError, match=r"built for CUDA 12\.6, but Found no NVIDIA driver on your system\. Install"):
        select("cuda")


def test_hidden_gpus_are_told(cuda_build: pytest.MonkeyPatch) -> None:
    cuda_build.setenv("CUDA_VISIBLE_DEVICES", "-1")
    with pytest.raises(StudioError, match="CUDA_VISIBLE_DEVICES='-1' hides every GPU"):
        select("cuda")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 0), ["sm_80"], True),
        ((8, 6), ["sm_80"], True),  # later minor version of the same major one
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80", "sm_86"], False),
        ((9, 0), ["sm_80", "compute_80"], True),  # translated
        ((7, 5), ["compute_80"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((12, 0), ["sm_90", "sm_100f", "compute_100f"], False),
        ((12, 0), ["sm_50", "sm_120"], True),
        ((12, 0), [], True),  # nothing known, nothing claimed
    ],
)
def test_missing_kernels(capability: tuple[int, int], architectures: list[str], runs: bool) -> None:
    problem = missing_kernels(capability, architectures)
    assert (problem == "") == runs
    if problem:
        assert f"{capability[0]}.{capability[1]} is not among" in problem


def test_half_types_by_generation() -> None:
    assert [cuda_half_types(c) for c in ((6, 1), (7, 0), (7, 5), (8, 0), (12, 0))] == [
        (), ("fp16",), ("fp16",), ("bf16", "fp16"), ("bf16", "fp16"),
    ]  # fmt: skip


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_cuda_device_as_torch_sees_it() -> None:
    device = select("cuda")
    free, total = torch.cuda.mem_get_info(device.index)
    assert device.memory.total == total
    assert device.memory.free >= free
    assert device.compute_capability == torch.cuda.get_device_capability(device.index)
    assert torch.ones(2, device=device.torch_device).sum().item() == 2
