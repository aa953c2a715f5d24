"""What the benchmarks of captioned shapes count and draw."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
PAIR = "a small red metal cube left of a large blue sphere"


@pytest.fixture
def text_to_shapes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("text_to_shapes")


def test_what_is_read_back_is_counted_by_objects_and_by_samples(text_to_shapes: ModuleType) -> None:
    asked = ["a small red cube", PAIR, PAIR, PAIR]
    seen = ["a large red metal cube", PAIR, "a small red metal cube", "a small blue cube right of a large blue sphere"]
    found = text_to_shapes.figures_of(asked, seen)
    # Of 7 objects asked for, one was left out and one has another colour; sizes and materials do not count.
    assert found["read_back"] == pytest.approx(5 / 7)
    assert found["all_objects"] == 0.5
    assert found["by_objects"] == {1: 1.0, 2: pytest.approx(4 / 6)}
    assert found["shape"] == pytest.approx(6 / 7)
    assert found["size"] == pytest.approx(5 / 7)


def test_nothing_read_back(text_to_shapes: ModuleType) -> None:
    assert text_to_shapes.figures_of(["a small red cube"], [""])["read_back"] == 0


def test_guidance_is_chosen_by_what_is_read_back_and_the_smaller_of_equals(text_to_shapes: ModuleType) -> None:
    assert text_to_shapes.best_scale({4.0: 0.9, 2.0: 0.95, 1.0: 0.8}) == 2.0
    assert text_to_shapes.best_scale({4.0: 0.9, 2.0: 0.9, 1.0: 0.8}) == 2.0


def test_every_object_has_its_line(text_to_shapes: ModuleType) -> None:
    from described import _BEFORE_RELATIONS, described

    text = "a small red cube in front of a large blue cone and behind a small white metal sphere"
    assert _BEFORE_RELATIONS.split(text) == [
        "a small red cube",
        "in front of a large blue cone",
        "and behind a small white metal sphere",
    ]
    picture = torch.rand(3, 8, 8)
    one, three = described(picture, "a small red cube", width=160), described(picture, text, width=160)
    assert one.shape == three.shape
    torch.testing.assert_close(one[-160::20, ::20], picture.movedim(0, -1))
