"""How much memory a number of Gaussians needs, so that too many are refused before anything is allocated."""

from __future__ import annotations

import torch

from studio.devices.host_memory import format_bytes, host_memory
from studio.errors import StudioError

# Record and gradient row of 64 bytes each, statistics, radius, and the lists of depth order and tiles.
_BYTES_OF_ONE_VIEW = 2 * 64 + 3 * 4 + 4 + 48

_ALWAYS_FINE = 64 << 20
"""Needs below this are not compared with what is free."""


def drawing_bytes(count: int, sh_degree: int) -> int:
    """Memory that rendering needs: the engine's copy of the parameters, and what is known of them in one view."""
    return count * (4 * _numbers(sh_degree) + _BYTES_OF_ONE_VIEW)


def training_bytes(count: int, sh_degree: int) -> int:
    """Memory at the peak of a training: parameters and two moments, twice over while density control edits them."""
    return count * (4 * 6 * _numbers(sh_degree) + _BYTES_OF_ONE_VIEW)


def require_memory(what: str, needed: int, device: torch.device, *, fix: str) -> None:
    """Refuse what cannot fit.

    Args:
        what: What the memory is for, as the start of the message.
        needed: Bytes.
        device: Where it is needed.
        fix: What the user can do.

    Raises:
        StudioError: More is needed than is free. On devices other than a CPU or a GPU of NVIDIA nothing is refused.
    """
    if needed < _ALWAYS_FINE or device.type not in ("cpu", "cuda"):
        return
    free = _free_cuda_memory(device) if device.type == "cuda" else host_memory().free
    if needed > free:
        raise StudioError(
            f"{what} needs about {format_bytes(needed)} of memory on '{device}', where {format_bytes(free)} are free.",
            fix=fix,
        )


def _free_cuda_memory(device: torch.device) -> int:
    """What the driver can still give, and what torch holds without using it."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def _numbers(sh_degree: int) -> int:
    return 11 + 3 * (sh_degree + 1) ** 2
