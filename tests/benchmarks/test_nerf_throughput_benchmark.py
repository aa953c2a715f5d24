"""The plain loop beside which the classic NeRF is timed: its step is the same however it is cut."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("nerf_throughput")


def test_a_step_in_chunks_has_the_gradient_of_the_whole(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    # Even samples: else each cut would draw other ones.
    monkeypatch.setattr(benchmark.torch, "rand", lambda *shape: torch.full(shape, 0.5))
    torch.manual_seed(0)
    origins = torch.randn(10, 3) * 0.1
    directions = torch.nn.functional.normalize(torch.randn(10, 3), dim=-1)
    target = torch.tensor([0.2, 0.5, 0.8]).expand(10, 3)

    def gradient(chunk: int) -> tuple[float, torch.Tensor]:
        torch.manual_seed(1)
        loop: Any = benchmark.PlainLoop(2.0, 6.0)
        loss = loop.step(origins, directions, target, chunk)
        return loss, torch.cat([p.grad.flatten() for p in (*loop.coarse.parameters(), *loop.fine.parameters())])

    whole_loss, whole = gradient(10)
    # 10 rays do not divide by 4: the last chunk is smaller and weighs less.
    loss, parts = gradient(4)
    assert loss == pytest.approx(whole_loss, rel=1e-5)
    assert float(whole.norm()) > 1e-4
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-3)


def test_a_size_of_chunk_is_tried_on_whole_chunks(benchmark: ModuleType) -> None:
    asked: list[tuple[int, int]] = []
    times = iter([0.0, 2.0, 10.0, 11.0])

    def plain(chunk: int, rays: int) -> tuple[int, float]:
        asked.append((chunk, rays))
        return rays, 256.0

    assert benchmark._speed_of_chunk(plain, 512, lambda: next(times)) == 512.0
    assert asked == [(512, 512)] * 3
