"""A simulated machine: devices with exact memory, on which allocating too much really fails."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from studio.devices import Absence, Device, Memory

GIB = 2**30


class SimulatedModel:
    """A model of `size` bytes on the host; moving it allocates there first and frees after, as torch does."""

    def __init__(self, machine: SimulatedMachine, size: int) -> None:
        self.machine = machine
        self.size = size
        self.place = "cpu"
        self.moves: list[str] = []
        machine.models.append(self)

    def bytes_on(self, device: torch.device | None) -> int:
        return self.size if device is None or str(device) == self.place else 0

    def to(self, device: torch.device) -> SimulatedModel:
        target = str(device)
        if target != self.place:
            self.machine.allocate(target, self.size)
            self.machine.used[self.place] -= self.size
            self.place = target
            self.moves.append(target)
        return self


class SimulatedMachine:
    """Implements `DeviceProbe`."""

    def __init__(self, **total_gib: float) -> None:
        """Totals by kind and index: `cpu=8, cuda0=4, cuda1=6, mps=5`."""
        self.total = {
            name if name in ("cpu", "mps") else f"cuda:{name.removeprefix('cuda')}": int(gib * GIB)
            for name, gib in total_gib.items()
        }
        self.used = dict.fromkeys(self.total, 0)
        self.problems: dict[str, str] = {}
        self.models: list[SimulatedModel] = []
        self.fragmented = 0
        """So many moves to a GPU fail although the memory is free."""
        self._lock = threading.Lock()

    def model(self, gib: float) -> SimulatedModel:
        self.allocate("cpu", int(gib * GIB))
        return SimulatedModel(self, int(gib * GIB))

    def allocate(self, place: str, size: int) -> None:
        with self._lock:
            if place != "cpu" and self.fragmented > 0:
                self.fragmented -= 1
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. (fragmented)")
            if self.used[place] + size > self.total[place]:
                raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} on {place}")
            self.used[place] += size

    def free(self, place: str, size: int) -> None:
        with self._lock:
            self.used[place] -= size

    def device(self, name: str) -> Device:
        return next(device for device in self.devices() if device.id == name)

    def devices(self) -> list[Device]:
        found = []
        for name in self.total:
            kind, _, index = name.partition(":")
            memory = Memory(self.total[name], self.total[name] - self.used[name])
            problem = self.problems.get(name, "")
            found.append(Device(kind, int(index) if index else None, f"Simulated {name}", memory, problem=problem))
        return found

    def memory(self, device: Device) -> Memory:
        return Memory(self.total[device.id], self.total[device.id] - self.used[device.id])

    def absence(self, kind: str) -> Absence:
        return Absence(f"no {kind} was plugged in", f"Plug a {kind} in.")

    def empty_cache(self, device: Device) -> None:
        return


@pytest.fixture
def simulate() -> Callable[..., SimulatedMachine]:
    """`simulate(cpu=8, cuda0=4)` is a machine with that many GiB."""
    return SimulatedMachine
