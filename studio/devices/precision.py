"""In which number format a model runs on a device."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from studio.devices.device import Device, DeviceKind

PrecisionName = Literal["fp32", "bf16", "fp16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """A number format with what training and inference in it need."""

    name: PrecisionName
    kind: DeviceKind
    reason: str
    """One line: why this format."""

    @property
    def dtype(self) -> torch.dtype:
        """What matrix products and convolutions are computed in; parameters stay float32."""
        return _DTYPES[self.name]

    @property
    def needs_grad_scaler(self) -> bool:
        """Whether gradients must be scaled: float16's least normal number, 6e-5, loses small ones; bfloat16 has
        float32's range (Micikevicius et al., "Mixed Precision Training", ICLR 2018)."""
        return self.name == "fp16"

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """A fresh context in which torch computes in this format wherever that is safe; nothing for fp32."""
        if self.name == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device_type=self.kind, dtype=self.dtype)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """A gradient scaler that does nothing where none is needed; its state belongs into the checkpoint."""
        return torch.amp.GradScaler(device=self.kind, enabled=self.needs_grad_scaler)


def precision_for(device: Device, requested: str = "auto") -> Precision:
    """The format to run in on a device.

    'auto' takes a 16-bit format only on an NVIDIA or AMD GPU that has units for it, bfloat16 before float16. Everywhere
    else, and where the device has no units for the requested one (float16 on a CPU without them is hundreds of times
    slower than float32), it is fp32, and `reason` says why.

    Raises:
        ValueError: `requested` is none of 'auto', 'fp32', 'bf16', 'fp16'.
    """
    if requested == "fp32":
        return Precision("fp32", device.kind, "as requested")
    where = device.name or device.id
    if requested == "auto":
        if device.kind != "cuda":
            hint = f"; {' or '.join(device.half_types)} on request" if device.half_types else ""
            return Precision("fp32", device.kind, f"full precision on {device.kind} unless asked otherwise{hint}")
        if not device.half_types:
            return Precision("fp32", device.kind, f"{where} has no fast 16-bit arithmetic")
        best: PrecisionName = "bf16" if "bf16" in device.half_types else "fp16"
        return Precision(best, device.kind, f"{where} computes {best} in hardware")
    if requested not in get_args(PrecisionName):
        raise ValueError(f"precision must be auto, fp32, bf16 or fp16, got {requested!r}")
    for name in device.half_types:
        if name == requested:
            return Precision(name, device.kind, "as requested")
    return Precision("fp32", device.kind, f"{requested} was asked for, but {where} has no units for it")
