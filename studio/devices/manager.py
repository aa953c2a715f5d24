"""The device manager: which devices there are, and which model may hold how much memory of them."""

from __future__ import annotations

import functools
import itertools
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar, get_args

import torch

from studio.devices.chunks import ChunkSizes, run_chunked
from studio.devices.device import Device, DeviceKind, DeviceProbe
from studio.devices.host_memory import Memory, format_bytes
from studio.devices.out_of_memory import is_out_of_memory, let_go
from studio.devices.residency import Movable, bytes_on
from studio.devices.selection import select_device
from studio.devices.torch_probe import TorchProbe
from studio.errors import StudioError

T = TypeVar("T")
_KINDS: tuple[DeviceKind, ...] = get_args(DeviceKind)
_HOST = torch.device("cpu")


@dataclass(eq=False)
class _Tenant:
    """A model that the manager has placed, or a reservation without a model."""

    name: str
    device: Device
    model: weakref.ref[Any] | None
    leases: list[Lease] = field(default_factory=list)
    last_used: int = 0

    def target(self) -> Any | None:
        return self.model() if self.model is not None else None

    def held(self, device: Device) -> int:
        """Bytes of the model that lie on the device now."""
        model = self.target()
        return 0 if model is None else bytes_on(model, device.torch_device)

    def claim(self, device: Device) -> int:
        """Bytes that are not for others: what the model holds, and what its leases allow it to take besides."""
        held = self.held(device)
        size = _size(self.target())
        return held + sum(max(0, lease.need_bytes - size) for lease in self.leases if lease.device == device)


class Lease:
    """Memory of a device that is kept for one model until it is released. A context manager.

    While it lasts the model stays on the device. Afterwards the model remains there, ready for the next lease, until
    another model needs the room.
    """

    def __init__(
        self, manager: DeviceManager, tenant: _Tenant, device: Device, need_bytes: int, model: Movable | None
    ) -> None:
        self._manager = manager
        self._tenant = tenant
        self.device = device
        self.need_bytes = need_bytes
        """Bytes on the device, the model's own tensors included."""
        self.model = model
        self.active = True

    @property
    def name(self) -> str:
        return self._tenant.name

    def resize(self, need_bytes: int) -> None:
        """Ask for another amount, such as when a model has grown.

        Raises:
            StudioError: It does not fit; the lease keeps its old amount.
            RuntimeError: The lease is released.
        """
        self._manager._resize(self, need_bytes)

    def release(self) -> None:
        """Give the memory up. Releasing twice is harmless."""
        self._manager._release(self)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class DeviceManager:
    """Keeps account of the devices of one process. Thread-safe.

    Args:
        probe: Reads the machine; default: torch. Tests pass one that simulates other machines.
    """

    def __init__(self, probe: DeviceProbe | None = None) -> None:
        self._probe: DeviceProbe = probe or TorchProbe()
        self._changed = threading.Condition(threading.RLock())
        self._tenants: list[_Tenant] = []
        self._capacity: dict[str, int] = {}
        self._clock = itertools.count(1)
        self._sizes = ChunkSizes()

    def devices(self) -> list[Device]:
        """All devices with their memory now, the cpu first; one that torch cannot use has its `problem` set."""
        return self._probe.devices()

    def memory(self, device: Device) -> Memory:
        """Memory of a device now."""
        return self._probe.memory(device)

    def select(self, request: str = "auto", *, supported: Sequence[str] = _KINDS, owner: str = "the plugin") -> Device:
        """The device that a request names, or with 'auto' the best that `supported` admits; see `select_device`.

        Raises:
            StudioError: There is no such device, it cannot be used, or the plugin does not run on it.
        """
        return select_device(self._probe, request, supported=supported, owner=owner)

    def lease(
        self,
        device: Device,
        need_bytes: int,
        model: Movable | None = None,
        *,
        name: str,
        wait_seconds: float = 0.0,
    ) -> Lease:
        """Keep memory of a device for a model, and bring the model there.

        If the free memory does not suffice, models that nobody leases are moved to host memory, the least recently
        used first. The manager holds models weakly: deleting a model frees its room.

        Args:
            device: Where.
            need_bytes: All that the model needs there: its tensors and the most that its work takes besides. Less than
                the model's own size counts as that size.
            model: An `nn.Module` (moved in place, references to it stay valid) or another `Movable`; None reserves
                memory only. Do not use a model after its last lease has ended without leasing it again: it may have
                been moved.
            name: For messages.
            wait_seconds: How long to wait for other leases to end if that would make room.

        Raises:
            StudioError: It does not fit, or the model is leased on another device.
        """
        if need_bytes < 0:
            raise ValueError(f"need_bytes must be at least 0, got {need_bytes}")
        deadline = time.monotonic() + wait_seconds
        with self._changed:
            tenant = self._tenant_of(model, name, device)
            lease = Lease(self, tenant, device, max(need_bytes, _size(model)), model)
            while True:
                for other in tenant.leases:
                    if other.device != device:
                        raise StudioError(
                            f"'{name}' is in use on {other.device.id} and cannot be moved to {device.id}.",
                            fix="Wait until that work has ended, or run both on one device.",
                        )
                try:
                    self._admit(lease)
                except _NoRoom as error:
                    remaining = deadline - time.monotonic()
                    if error.others_could_make_room and remaining > 0:
                        self._changed.wait(remaining)
                        continue
                    self._drop_empty()
                    raise StudioError(error.message, fix=error.fix) from error.__cause__
                return lease

    def residents(self, device: Device) -> list[tuple[str, int, bool]]:
        """What lies on a device or is kept for a lease: (name, bytes, whether it is leased), last used first."""
        with self._changed:
            found = [t for t in self._living() if t.claim(device) > 0]
            found.sort(key=lambda t: -t.last_used)
            return [(t.name, t.claim(device), bool(t.leases)) for t in found]

    def offload_idle(self, device: Device) -> int:
        """Move every model that nobody leases from the device to host memory; the bytes freed."""
        with self._changed:
            freed = 0
            while (victim := self._victim(device)) is not None:
                freed += self._to_host(victim, device)
            self._probe.empty_cache(device)
            return freed

    def run_chunked(
        self,
        device: Device,
        fn: Callable[[int, int], T],
        total: int,
        chunk: int,
        *,
        what: str = "items",
        key: str | None = None,
        on_shrink: Callable[[int], object] | None = None,
    ) -> list[T]:
        """`chunks.run_chunked` on a device: before a smaller repetition, idle models make room as well.

        Args:
            device: Where `fn` computes.
            key: Remembers the working size for this device under this name.
        """
        return run_chunked(
            fn,
            total,
            chunk,
            what=what,
            key=None if key is None else (key, device.id),
            sizes=self._sizes,
            release=lambda: self.offload_idle(device),
            on_shrink=on_shrink,
        )

    def _resize(self, lease: Lease, need_bytes: int) -> None:
        with self._changed:
            if not lease.active:
                raise RuntimeError(f"the lease of '{lease.name}' is released")
            before = lease.need_bytes
            lease.need_bytes = max(need_bytes, _size(lease.model))
            lease._tenant.leases.remove(lease)
            try:
                self._admit(lease)
            except _NoRoom as error:
                lease.need_bytes = before
                lease._tenant.leases.append(lease)
                raise StudioError(error.message, fix=error.fix) from None
            self._changed.notify_all()

    def _release(self, lease: Lease) -> None:
        with self._changed:
            if not lease.active:
                return
            lease.active = False
            lease._tenant.leases.remove(lease)
            lease._tenant.last_used = next(self._clock)
            # The tenant refers to the model weakly; a lease kept in a variable must not keep it alive either.
            lease.model = None
            self._drop_empty()
            self._changed.notify_all()

    def _tenant_of(self, model: Movable | None, name: str, device: Device) -> _Tenant:
        for tenant in self._living():
            if model is not None and tenant.target() is model:
                tenant.name = name
                return tenant
        tenant = _Tenant(name, device, weakref.ref(model) if model is not None else None)
        self._tenants.append(tenant)
        return tenant

    def _living(self) -> list[_Tenant]:
        """Tenants whose model still exists, or that are leased."""
        self._tenants = [t for t in self._tenants if t.leases or t.model is None or t.target() is not None]
        return self._tenants

    def _drop_empty(self) -> None:
        """Forget reservations without a lease, and models that are gone or lie on no device but the host."""
        self._tenants = [t for t in self._living() if t.leases or t.target() is not None]

    def _admit(self, lease: Lease) -> None:
        """Make room for a lease and bring its model to the device.

        Raises:
            _NoRoom: It does not fit.
        """
        device, tenant, model = lease.device, lease._tenant, lease.model
        size = _size(model)
        extra = lease.need_bytes - tenant.held(device)
        # Nothing is moved away for a lease that would not fit even then.
        if extra > self._available(device) + self._evictable(device, besides=tenant):
            raise self._no_room(lease, extra)
        while extra > self._available(device):
            self._evict_one(lease, extra)
        if model is not None:
            while tenant.held(device) < size:
                try:
                    model.to(device.torch_device)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    # Free memory in pieces that are too small, or another program was faster.
                    let_go(error)
                    model.to(_HOST)
                    self._probe.empty_cache(device)
                    self._evict_one(lease, extra, error)
                else:
                    break
        tenant.device = device
        tenant.last_used = next(self._clock)
        tenant.leases.append(lease)

    def _evict_one(self, lease: Lease, extra: int, cause: BaseException | None = None) -> None:
        victim = self._victim(lease.device, besides=lease._tenant)
        if victim is None:
            raise self._no_room(lease, extra) from cause
        self._to_host(victim, lease.device)
        self._probe.empty_cache(lease.device)

    def _available(self, device: Device) -> int:
        """Bytes that a new lease can get without moving any model.

        The free memory alone is not it, as running leases have not yet taken all they may; what they have taken is no
        longer free, so it cannot be subtracted either. Therefore the claims are subtracted from what was there when
        no lease was running, and the present free memory is an upper bound, for other programs take memory too.
        """
        free = self._probe.memory(device).free
        tenants = self._living()
        capacity = free + sum(tenant.held(device) for tenant in tenants)
        if any(lease.device == device for tenant in tenants for lease in tenant.leases):
            # What running leases took besides their models is missing from this sum, so it can only be too small.
            capacity = max(capacity, self._capacity.get(device.id, 0))
        self._capacity[device.id] = capacity
        unclaimed = capacity - sum(tenant.claim(device) for tenant in tenants)
        return max(0, min(free, unclaimed))

    def _evictable(self, device: Device, besides: _Tenant) -> int:
        """Bytes of all models that could leave the device."""
        if device.kind == "cpu":
            return 0
        return sum(t.held(device) for t in self._living() if t is not besides and not t.leases)

    def _victim(self, device: Device, besides: _Tenant | None = None) -> _Tenant | None:
        """The least recently used model that can leave the device; on the host there is nowhere to go."""
        if device.kind == "cpu":
            return None
        host = self._host()
        room = self._probe.memory(host).free
        idle = [t for t in self._living() if t is not besides and not t.leases and 0 < t.held(device) <= room]
        return min(idle, key=lambda t: t.last_used, default=None)

    def _to_host(self, tenant: _Tenant, device: Device) -> int:
        model = tenant.target()
        if model is None:
            return 0
        freed = tenant.held(device)
        model.to(_HOST)
        return freed

    def _host(self) -> Device:
        return next(device for device in self._probe.devices() if device.kind == "cpu")

    def _no_room(self, lease: Lease, extra: int) -> _NoRoom:
        device = lease.device
        memory = self._probe.memory(device)
        others = [t for t in self._living() if t is not lease._tenant and t.claim(device) > 0]
        resident = ", ".join(
            f"'{t.name}' {format_bytes(t.claim(device))}{' in use' if t.leases else ''}" for t in others
        )
        leased = sum(t.claim(device) for t in self._tenants if t.leases)
        message = (
            f"'{lease.name}' needs {format_bytes(lease.need_bytes)} on {device.id}"
            f"{f' ({device.name})' if device.name else ''}, but {format_bytes(self._available(device))} of "
            f"{format_bytes(memory.total)} can be had (resident: {resident or 'no other model'})."
        )
        if device.kind == "cpu":
            fix = "Close other programs, or use smaller settings (fewer items, a lower resolution)."
        else:
            fix = f"End what runs on {device.id}, use smaller settings, or use --device cpu."
        return _NoRoom(message, fix, extra <= self._available(device) + leased)


class _NoRoom(Exception):
    def __init__(self, message: str, fix: str, others_could_make_room: bool) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.others_could_make_room = others_could_make_room


@functools.cache
def default_manager() -> DeviceManager:
    """The one manager of this process."""
    return DeviceManager()


def select(request: str = "auto", *, supported: Sequence[str] = _KINDS, owner: str = "the plugin") -> Device:
    """`DeviceManager.select` of the process's manager."""
    return default_manager().select(request, supported=supported, owner=owner)


def _size(model: Any | None) -> int:
    return 0 if model is None else bytes_on(model, None)
