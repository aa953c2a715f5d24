"""The benchmarks of the language models and the captioner, at a tiny size."""

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


@pytest.fixture
def captions(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("captions")


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


def test_attributes_are_counted_by_matched_objects(captions: ModuleType) -> None:
    tally = captions.Tally()
    truth = "a small red metal cube left of a large blue sphere"
    tally.add(truth, truth)
    assert tally.shares() == {"color": 1, "shape": 1, "size": 1, "material": 1, "surplus": 0, "exact": 1}
    # In another order all attributes are still right, though the caption is another.
    tally.add("a large blue sphere right of a small red metal cube", truth)
    assert tally.shares()["color"] == tally.shares()["shape"] == 1
    assert tally.shares()["exact"] == 0.5


def test_missing_and_surplus_objects_count(captions: ModuleType) -> None:
    missing, surplus, wrong = captions.Tally(), captions.Tally(), captions.Tally()
    missing.add("a small red metal cube", "a small red metal cube left of a large blue sphere")
    assert missing.shares()["color"] == 0.5
    surplus.add("a small red cube behind a large blue sphere", "a small red cube")
    assert surplus.shares()["surplus"] == 1
    assert surplus.shares()["shape"] == 1
    wrong.add("a small green cube", "a small red cone")
    shares = wrong.shares()
    assert (shares["color"], shares["shape"], shares["size"], shares["material"]) == (0, 0, 1, 1)
    nothing = captions.Tally()
    nothing.add("", "a small red cone")
    assert nothing.shares()["size"] == 0
