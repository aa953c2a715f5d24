"""Number formats by device, and that autocast really computes in them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from studio.devices import Device, precision_for, select

AMPERE = Device("cuda", 0, "Ampere", compute_capability=(8, 0), half_types=("bf16", "fp16"))
TURING = Device("cuda", 0, "Turing", compute_capability=(7, 5), half_types=("fp16",))
PASCAL = Device("cuda", 0, "Pascal", compute_capability=(6, 1))
APPLE = Device("mps", None, "Apple M2", half_types=("bf16", "fp16"))
CPU = Device("cpu", None, "plain CPU")
CPU_BF16 = Device("cpu", None, "CPU with AMX", half_types=("bf16",))


@pytest.mark.parametrize(
    ("device", "requested", "name", "reason"),
    [
        (AMPERE, "auto", "bf16", "in hardware"),
        (TURING, "auto", "fp16", "in hardware"),
        (PASCAL, "auto", "fp32", "no fast 16-bit"),
        (APPLE, "auto", "fp32", "on request"),
        (CPU, "auto", "fp32", "full precision on cpu"),
        (CPU_BF16, "auto", "fp32", "bf16 on request"),
        (AMPERE, "fp32", "fp32", "as requested"),
        (AMPERE, "fp16", "fp16", "as requested"),
        (TURING, "bf16", "fp32", "bf16 was asked for, but Turing"),
        (APPLE, "fp16", "fp16", "as requested"),
        (CPU, "bf16", "fp32", "no units"),
        (CPU, "fp16", "fp32", "no units"),
        (CPU_BF16, "bf16", "bf16", "as requested"),
        (CPU_BF16, "fp16", "fp32", "no units"),
    ],
)
def test_format_and_reason(device: Device, requested: str, name: str, reason: str) -> None:
    precision = precision_for(device, requested)
    assert precision.name == name
    assert reason in precision.reason
    assert precision.needs_grad_scaler == (name == "fp16")


def test_unknown_format() -> None:
    with pytest.raises(ValueError, match="precision must be"):
        precision_for(CPU, "int8")


@pytest.mark.parametrize(("requested", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_autocast_computes_in_the_format_and_trains(requested: str, dtype: torch.dtype) -> None:
    precision = precision_for(CPU_BF16, requested)
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = precision.grad_scaler()
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(2):  # the context must be enterable anew each step
        optimizer.zero_grad()
        with precision.autocast():
            y = model(x)
            assert y.dtype == dtype == precision.dtype
        loss = (y.float() - 1).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
        assert model.weight.dtype == torch.float32
    assert losses[1] < losses[0]


def test_this_machines_cpu_runs_in_what_it_is_given() -> None:
    device = select("cpu")
    with precision_for(device, "bf16").autocast():
        y = torch.ones(4, 4) @ torch.ones(4, 4)
    assert y.dtype == (torch.bfloat16 if "bf16" in device.half_types else torch.float32)
    assert y.float().sum().item() == 64


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_auto_on_a_real_gpu() -> None:
    device = select("cuda")
    precision = precision_for(device)
    x = torch.ones(16, 16, device=device.torch_device)
    with precision.autocast():
        assert (x @ x).dtype == precision.dtype
