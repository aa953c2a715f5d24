"""Where a model runs, in which precision, with how much memory.

`select` picks a device, `default_manager().lease` keeps memory for a model on it, `run_chunked` survives running out of
it, `precision_for` picks the number format, `apply_threads` the CPU threads. Importing this package imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from studio.devices.device import Absence, Device, DeviceProbe
from studio.devices.host_memory import Memory, format_bytes, host_memory
from studio.devices.threads import ThreadPlan, apply_threads, plan_threads

if TYPE_CHECKING:
    from studio.devices.chunks import ChunkSizes, cat_chunks, chunk_that_fits, iter_chunked, run_chunked
    from studio.devices.manager import DeviceManager, Lease, default_manager, select
    from studio.devices.out_of_memory import is_out_of_memory
    from studio.devices.precision import Precision, precision_for
    from studio.devices.torch_probe import TorchProbe

_LAZY = {
    "ChunkSizes": "chunks",
    "DeviceManager": "manager",
    "Lease": "manager",
    "Precision": "precision",
    "TorchProbe": "torch_probe",
    "cat_chunks": "chunks",
    "chunk_that_fits": "chunks",
    "default_manager": "manager",
    "is_out_of_memory": "out_of_memory",
    "iter_chunked": "chunks",
    "precision_for": "precision",
    "run_chunked": "chunks",
    "select": "manager",
}

__all__ = [
    "Absence",
    "ChunkSizes",
    "Device",
    "DeviceManager",
    "DeviceProbe",
    "Lease",
    "Memory",
    "Precision",
    "ThreadPlan",
    "TorchProbe",
    "apply_threads",
    "cat_chunks",
    "chunk_that_fits",
    "default_manager",
    "format_bytes",
    "host_memory",
    "is_out_of_memory",
    "iter_chunked",
    "plan_threads",
    "precision_for",
    "run_chunked",
    "select",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"studio.devices.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
