"""The machine's devices as torch sees them. Nothing else (no nvcc, no nvidia-smi) decides what can be used."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence

import torch

from studio.devices.device import Absence, Device, DeviceKind, HalfType
from studio.devices.host_cpu import cpu_name, simd_features
from studio.devices.host_memory import Memory, host_memory

_WHEELS = "https://download.pytorch.org/whl/cu126"
_CHOOSE = "https://pytorch.org/get-started/locally"


class TorchProbe:
    """Implements `DeviceProbe` for this machine."""

    def devices(self) -> list[Device]:
        found = [Device("cpu", None, cpu_name(), host_memory(), half_types=_cpu_half_types(simd_features()))]
        if torch.cuda.is_available():
            found += [self._cuda(index) for index in range(torch.cuda.device_count())]
        if torch.backends.mps.is_available():
            # Half precision runs on every Apple GPU; bfloat16 needs macOS 14.
            version = tuple(int(part) for part in platform.mac_ver()[0].split(".") if part.isdigit())
            half: tuple[HalfType, ...] = ("bf16", "fp16") if version >= (14,) else ("fp16",)
            found.append(Device("mps", None, cpu_name(), _mps_memory(), half_types=half))
        return found

    def memory(self, device: Device) -> Memory:
        if device.kind == "cuda":
            free, total = torch.cuda.mem_get_info(device.index)
            idle = torch.cuda.memory_reserved(device.index) - torch.cuda.memory_allocated(device.index)
            return Memory(total, min(total, free + idle))
        return _mps_memory() if device.kind == "mps" else host_memory()

    def absence(self, kind: DeviceKind) -> Absence:
        if kind == "cuda":
            return _cuda_absence()
        if kind == "mps":
            if sys.platform != "darwin":
                return Absence("mps is Apple's GPU interface, and this is not a Mac", "Use --device auto.")
            if not torch.backends.mps.is_built():
                return Absence(f"torch {torch.__version__} is built without MPS", "pip install --force-reinstall torch")
            return Absence("torch finds no Apple GPU that it can use (macOS 14 and Apple silicon)", "Use --device cpu.")
        return Absence("torch reports no CPU", "pip install --force-reinstall torch")

    def empty_cache(self, device: Device) -> None:
        if device.kind == "cuda":
            with torch.cuda.device(device.index):
                torch.cuda.empty_cache()
        elif device.kind == "mps":
            torch.mps.empty_cache()

    def _cuda(self, index: int) -> Device:
        properties = torch.cuda.get_device_properties(index)
        capability = (properties.major, properties.minor)
        is_amd = torch.version.hip is not None
        problem = "" if is_amd else missing_kernels(capability, torch.cuda.get_arch_list())
        half: tuple[HalfType, ...] = ("bf16", "fp16") if is_amd else cuda_half_types(capability)
        memory = Memory(properties.total_memory, 0)
        try:
            # Opens a context on the device, which a broken or exclusively used one refuses.
            memory = self.memory(Device("cuda", index)) if not problem else memory
        except RuntimeError as error:
            problem = _first_line(error)
        return Device("cuda", index, properties.name, memory, None if is_amd else capability, half, problem)


def missing_kernels(capability: tuple[int, int], architectures: Sequence[str]) -> str:
    """Why torch's compiled kernels cannot run on a GPU of this compute capability; empty when they can.

    Machine code (`sm_XY`) runs on its own and later minor versions of one major version, intermediate code
    (`compute_XY`) is translated for every later GPU; a suffix "a" ties it to exactly one, "f" to one family
    (https://docs.nvidia.com/cuda/cuda-c-programming-guide, "Binary Compatibility" and "PTX Compatibility").
    """
    known = [match for name in architectures if (match := re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name))]
    for match in known:
        code, version, suffix = match[1], (int(match[2]), int(match[3])), match[4]
        if version == capability:
            return ""
        if suffix == "a" or version > capability:
            continue
        if version[0] == capability[0] or (code == "compute" and not suffix):
            return ""
    if not known:
        return ""
    built = ", ".join(sorted({f"{m[2]}.{m[3]}" for m in known}, key=lambda v: tuple(map(int, v.split(".")))))
    return (
        f"compute capability {capability[0]}.{capability[1]} is not among those that torch {torch.__version__} "
        f"was built for ({built})"
    )


def cuda_half_types(capability: tuple[int, int]) -> tuple[HalfType, ...]:
    """16-bit types of an NVIDIA GPU's tensor cores: float16 since Volta (7.0), bfloat16 since Ampere (8.0)."""
    if capability >= (8, 0):
        return ("bf16", "fp16")
    return ("fp16",) if capability >= (7, 0) else ()


def _cpu_half_types(simd: Sequence[str]) -> tuple[HalfType, ...]:
    found: list[HalfType] = []
    if {"avx512bf16", "amx-bf16", "bf16"} & set(simd):
        found.append("bf16")
    if "amx-fp16" in simd:
        found.append("fp16")
    return tuple(found)


def _mps_memory() -> Memory:
    # The GPU shares the host's memory; Metal advises how much of it to take.
    total = torch.mps.recommended_max_memory()
    return Memory(total, max(0, min(total - torch.mps.current_allocated_memory(), host_memory().free)))


def _cuda_absence() -> Absence:
    if sys.platform == "darwin":
        return Absence("torch has no CUDA on macOS", "Use --device mps or --device cpu.")
    if torch.version.cuda is None and torch.version.hip is None:
        # PyPI's Linux wheels are CUDA builds, its Windows wheels are not.
        index = "https://pypi.org/simple" if sys.platform.startswith("linux") else _WHEELS
        return Absence(
            f"torch {torch.__version__} is a CPU build",
            f"With an NVIDIA GPU: pip install --force-reinstall torch --index-url {index} "
            f"(other CUDA versions: {_CHOOSE}); or use --device cpu.",
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return Absence(f"CUDA_VISIBLE_DEVICES='{visible}' hides every GPU", "Unset it, or use --device cpu.")
    try:
        torch.cuda.init()
        reason = "torch counts no CUDA device"
    except (RuntimeError, AssertionError) as error:
        reason = _first_line(error)
    return Absence(
        f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, but {reason}",
        "Install or update the NVIDIA driver (nvidia-smi must list the GPU), or use --device cpu.",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
