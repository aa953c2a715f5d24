"""The classifier behind the figures of pictures: what it learns, that it is kept, and that damage is mended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from studio.datasets.arrays import ArrayDataset
from studio.metrics import classifier as module
from studio.metrics.classifier import FEATURES, find_classifier


def bars(n: int, seed: int, *, captions: bool = False, labels: bool = True) -> ArrayDataset:
    """Upright and lying bars at random places."""
    g = torch.Generator().manual_seed(seed)
    x = torch.zeros(n, 1, 12, 12, dtype=torch.uint8)
    y = torch.arange(n) % 2
    for i, place in enumerate(torch.randint(1, 10, (n,), generator=g).tolist()):
        rows = (slice(None), slice(place, place + 2)) if y[i] == 0 else (slice(place, place + 2), slice(None))
        x[i, 0][rows] = 200
    noise = torch.randint(0, 50, x.shape, generator=g, dtype=torch.uint8)
    texts = tuple("a bar that stands" if label == 0 else "a bar that lies" for label in y.tolist())
    if captions:
        return ArrayDataset("bars", x + noise, captions=texts)
    return ArrayDataset("bars", x + noise, y if labels else None, ("standing", "lying") if labels else ())


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "_FEWEST_STEPS", 40)
    monkeypatch.setattr(module, "_BATCH", 32)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_it_learns_classes_once_and_is_kept(tmp_path: Path) -> None:
    train, test = bars(400, 0), bars(100, 1)
    told: list[str] = []
    state = torch.get_rng_state()
    first = find_classifier(train, test, cache=tmp_path, tell=told.append)
    assert torch.equal(torch.get_rng_state(), state)
    assert (first.task, first.outputs, first.held_out) == ("classes", 2, 100)
    assert first.accuracy > 0.95
    again = find_classifier(train, test, cache=tmp_path, tell=told.append)
    assert len(told) == 1
    assert again.accuracy == first.accuracy
    x, y = test.batch(range(100))
    torch.testing.assert_close(again.features(x), first.features(x))
    assert float((again.logits(x).argmax(1) == y).double().mean()) == first.accuracy
    everything = first.features(train.batch(range(400))[0])
    assert everything.shape == (400, FEATURES)
    assert float(everything.square().mean()) == pytest.approx(1, rel=0.01)


def test_other_data_is_another_classifier_and_damage_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FEWEST_STEPS", 1)
    monkeypatch.setattr(module, "_MOST_STEPS", 1)
    test = bars(50, 1)
    find_classifier(bars(400, 0), test, cache=tmp_path)
    find_classifier(bars(400, 2), test, cache=tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 2
    for file in files:
        file.write_bytes(b"broken")
    told: list[str] = []
    find_classifier(bars(400, 0), test, cache=tmp_path, tell=told.append)
    assert len(told) == 1


def test_without_classes_it_learns_words_or_rotations(tmp_path: Path) -> None:
    words = find_classifier(bars(400, 0, captions=True), bars(60, 1, captions=True), cache=tmp_path)
    # "a", "bar" and "that" are in all captions and tell nothing.
    assert (words.task, words.outputs) == ("words", 2)
    assert words.accuracy > 0.9
    turns = find_classifier(bars(400, 0, labels=False), bars(60, 1, labels=False), cache=tmp_path)
    assert (turns.task, turns.outputs) == ("rotations", 4)
