"""How much of a model lies on which device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class Movable(Protocol):
    """What can be leased: an `nn.Module`, or anything else that also follows `CountsBytes`."""

    def to(self, device: torch.device) -> Any:
        """Move all tensors there, in place."""
        ...


@runtime_checkable
class CountsBytes(Protocol):
    """A `Movable` that knows its own size; for models that hold more than parameters and buffers."""

    def bytes_on(self, device: torch.device | None) -> int:
        """Bytes on one device, or on all of them (None)."""
        ...


def bytes_on(model: Any, device: torch.device | None) -> int:
    """Bytes of a model's parameters, gradients and buffers on a device, or on all devices (None).

    Tensors that share memory (tied weights, views) count once.

    Raises:
        TypeError: The model is neither an `nn.Module` nor counts its bytes itself.
    """
    if isinstance(model, CountsBytes):
        return model.bytes_on(device)
    if not isinstance(model, nn.Module):
        raise TypeError(f"a leased model must be an nn.Module or have bytes_on(device), got {type(model).__name__}")
    sizes = {}
    for tensor in _tensors(model):
        if device is None or _same(tensor.device, device):
            storage = tensor.untyped_storage()
            sizes[(tensor.device, storage.data_ptr())] = storage.nbytes()
    return sum(sizes.values())


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    for parameter in model.parameters():
        yield parameter
        if parameter.grad is not None:
            yield parameter.grad
    yield from model.buffers()


def _same(first: torch.device, second: torch.device) -> bool:
    # 'mps' and 'mps:0' are one device.
    return first.type == second.type and (first.index or 0) == (second.index or 0)
