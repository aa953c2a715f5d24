"""What a device is, and the one interface through which the manager sees the machine's devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from studio.devices.host_memory import Memory, format_bytes

if TYPE_CHECKING:
    import torch

DeviceKind = Literal["cpu", "cuda", "mps"]
HalfType = Literal["bf16", "fp16"]


@dataclass(frozen=True)
class Device:
    """One place to compute. Two are equal when they are the same place, whatever memory they had when listed."""

    kind: DeviceKind
    index: int | None = None
    """Number of a CUDA device as torch counts them (after CUDA_VISIBLE_DEVICES); None for cpu and mps."""
    name: str = field(default="", compare=False)
    memory: Memory = field(default=Memory(0, 0), compare=False)
    """At the moment of listing; ask `DeviceManager.memory` for the present."""
    compute_capability: tuple[int, int] | None = field(default=None, compare=False)
    """Of an NVIDIA GPU, else None."""
    half_types: tuple[HalfType, ...] = field(default=(), compare=False)
    """16-bit types it computes faster than float32, in hardware."""
    problem: str = field(default="", compare=False)
    """Why this torch cannot use it although it is there; empty when it can."""

    @property
    def id(self) -> str:
        """'cpu', 'cuda:1' or 'mps'; what `torch.device` and the flag --device take."""
        return self.kind if self.index is None else f"{self.kind}:{self.index}"

    @property
    def torch_device(self) -> torch.device:
        import torch

        return torch.device(self.id)

    def __str__(self) -> str:
        return f"{self.id} ({self.name}, {format_bytes(self.memory.total)})" if self.name else self.id

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; bytes are whole numbers."""
        return {
            "id": self.id,
            "kind": self.kind,
            "index": self.index,
            "name": self.name,
            "total_bytes": self.memory.total,
            "free_bytes": self.memory.free,
            "compute_capability": list(self.compute_capability) if self.compute_capability else None,
            "half_types": list(self.half_types),
            "problem": self.problem,
        }


@dataclass(frozen=True)
class Absence:
    """Why there is no device of some kind, and what to do about it."""

    reason: str
    fix: str


class DeviceProbe(Protocol):
    """Reads the machine. `TorchProbe` is the real one; a test can simulate any machine with another."""

    def devices(self) -> list[Device]:
        """All devices, the cpu first. A device that is there but cannot be used has its `problem` set."""
        ...

    def memory(self, device: Device) -> Memory:
        """Memory of a device now; what torch's allocator holds in reserve counts as free."""
        ...

    def absence(self, kind: DeviceKind) -> Absence:
        """Why `devices` lists none of this kind."""
        ...

    def empty_cache(self, device: Device) -> None:
        """Hand unused memory that torch's allocator holds back to the device."""
        ...
