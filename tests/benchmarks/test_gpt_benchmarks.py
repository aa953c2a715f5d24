"""The benchmark of the language models, at a tiny size."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def shakespeare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpt_shakespeare")


def test_the_peer_is_the_published_model_and_learns(shakespeare: ModuleType) -> None:
    text = "to be or not to be, that is the question.\n" * 20
    torch.manual_seed(0)
    peer = shakespeare.Peer(shakespeare._characters(text), 200, 0)
    # nanoGPT prints 0.80M for this configuration, its position table left out.
    assert sum(p.numel() for p in peer.parameters()) - 64 * 128 == 795_904
    losses = [peer.step() for _ in range(12)]
    assert losses[-1] < losses[0] - 0.2
    assert peer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 12 / 101)


def test_tiles_cover_each_character_once(shakespeare: ModuleType) -> None:
    class Uniform(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.zeros(*tokens.shape, 7)

    loss = shakespeare._tiled_loss(Uniform(), torch.zeros(64 * 130 + 5, dtype=torch.long))
    assert loss == pytest.approx(float(torch.tensor(7.0).log()))
