"""Choosing one device for a plugin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

from studio.devices.device import Device, DeviceKind, DeviceProbe
from studio.errors import StudioError

_KINDS: tuple[DeviceKind, ...] = get_args(DeviceKind)
_FIX_PROBLEM = "Install a torch build that supports it: https://pytorch.org/get-started/locally"
_REQUEST = re.compile(r"(cpu|mps|cuda)(?::(\d+))?")


def select_device(
    probe: DeviceProbe, request: str = "auto", *, supported: Sequence[str] = _KINDS, owner: str = "the plugin"
) -> Device:
    """The device that `request` names, or the best one that `supported` admits.

    Args:
        probe: Where to look.
        request: 'auto', 'cpu', 'cuda' (the one with most free memory), 'cuda:1' or 'mps'.
        supported: Kinds of device that the plugin declares.
        owner: Who asks, for messages.

    Returns:
        With 'auto': the usable CUDA device with most free memory, else mps, else cpu.

    Raises:
        StudioError: There is no such device, it cannot be used, or the plugin does not run on it.
    """
    known = [kind for kind in supported if kind in _KINDS]
    if not known:
        raise ValueError(f"supported must name some of {', '.join(_KINDS)}, got {tuple(supported)!r}")
    if request == "auto":
        return _best(probe, known, owner)
    match = _REQUEST.fullmatch(request)
    if match is None or (match[1] == "cpu" and match[2]):
        raise StudioError(f"Unknown device '{request}'.", fix="Use auto, cpu, cuda, cuda:N or mps.")
    kind: DeviceKind = next(k for k in _KINDS if k == match[1])
    if kind not in known:
        raise StudioError(
            f"{owner} does not run on {kind}; it runs on {', '.join(known)}.",
            fix=f"Use --device {known[0]} or --device auto.",
        )
    listed = [device for device in probe.devices() if device.kind == kind]
    if not listed:
        absence = probe.absence(kind)
        raise StudioError(f"Device '{request}' cannot be used: {absence.reason}.", fix=absence.fix)
    if match[2] is not None and kind == "cuda":
        listed = [device for device in listed if device.index == int(match[2])] or _no_such_index(request, listed)
    usable = [device for device in listed if not device.problem]
    if not usable:
        first = listed[0]
        raise StudioError(f"Device {first.id} ({first.name}) cannot be used: {first.problem}.", fix=_FIX_PROBLEM)
    return max(usable, key=_free_bytes)


def _best(probe: DeviceProbe, supported: Sequence[DeviceKind], owner: str) -> Device:
    devices = probe.devices()
    for kind in ("cuda", "mps", "cpu"):
        usable = [device for device in devices if device.kind == kind and not device.problem]
        if kind in supported and usable:
            return max(usable, key=_free_bytes)
    missing = supported[0]
    broken = next((device for device in devices if device.kind == missing), None)
    if broken is not None:
        raise StudioError(
            f"{owner} runs on {', '.join(supported)}, but {broken} cannot be used: {broken.problem}.", fix=_FIX_PROBLEM
        )
    absence = probe.absence(missing)
    raise StudioError(f"{owner} runs on {', '.join(supported)}, which is not there: {absence.reason}.", fix=absence.fix)


def _free_bytes(device: Device) -> int:
    return device.memory.free


def _no_such_index(request: str, listed: Sequence[Device]) -> list[Device]:
    there = ", ".join(f"{device.id} ({device.name})" for device in listed)
    raise StudioError(f"There is no {request}; torch counts {there}.", fix=f"Use --device {listed[0].id}.")
