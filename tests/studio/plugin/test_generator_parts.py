"""What the contract offers to generators: needs of data, borders, classes as rows, paths, evaluation for a while."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from studio.datasets import load_dataset
from studio.errors import StudioError
from studio.plugin import DataInfo
from studio.plugin.conditions import class_weights
from studio.plugin.latents import path_between
from studio.plugin.modes import evaluating
from studio.plugin.needs import DataNeeds, check_picture_range
from studio.plugin.padding import crop_to, pad_to

DIGITS = DataInfo((1, 28, 28), 10, tuple(map(str, range(10))))


@pytest.mark.parametrize(
    ("needs", "info", "message"),
    [
        (DataNeeds("points"), DIGITS, "My model models points; the data set holds"),
        (DataNeeds("pictures"), DataInfo((2,)), "My model models pictures; the data set holds"),
        (DataNeeds("pictures", largest_side=32), DataInfo((3, 20, 33)), "takes pictures up to 32x32"),
        (DataNeeds("pictures", classes=True), DataInfo((3, 20, 20)), "needs class labels"),
    ],
)
def test_data_that_does_not_fit(needs: DataNeeds, info: DataInfo, message: str) -> None:
    with pytest.raises(StudioError, match=message) as caught:
        needs.check(info, "My model", "Use another.")
    assert caught.value.fix == "Use another."


def test_data_that_fits() -> None:
    DataNeeds("points").check(DataInfo((7,)), "My model", "")
    DataNeeds("pictures", largest_side=28, classes=True).check(DIGITS, "My model", "")


def test_pictures_outside_of_zero_to_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "big.npz", x=np.linspace(-1, 7, 20 * 16, dtype=np.float32).reshape(20, 1, 4, 4))
    with pytest.raises(StudioError, match=r"values in \[0, 1\]; found -1 to"):
        check_picture_range(load_dataset(tmp_path / "big.npz"))
    check_picture_range(load_dataset("shapes:16"))


@settings(deadline=None, max_examples=30)
@given(height=st.integers(1, 9), width=st.integers(1, 9), more=st.integers(0, 5))
def test_borders_are_even_and_come_off_again(height: int, width: int, more: int) -> None:
    x = torch.rand(2, 3, height, width) + 1
    side = max(height, width) + more
    padded = pad_to(x, side, value=-1.0)
    assert padded.shape == (2, 3, side, side)
    assert torch.equal(crop_to(padded, height, width), x)
    assert float((padded == -1).sum()) == 6 * (side**2 - height * width)
    rows = (padded[0, 0] != -1).any(dim=1).nonzero()
    assert abs(int(rows[0]) - (side - 1 - int(rows[-1]))) <= 1


def test_pictures_larger_than_the_square() -> None:
    with pytest.raises(ValueError, match="at most 4 high and wide"):
        pad_to(torch.zeros(1, 1, 5, 3), 4)


def test_classes_as_rows() -> None:
    rows = class_weights(["2", "0"], 2, DIGITS)
    assert rows.shape == (2, 10)
    assert rows.argmax(dim=1).tolist() == [2, 0]
    assert rows.sum() == 2
    assert torch.equal(class_weights([3], 4, DIGITS), class_weights([3] * 4, 4, DIGITS))


def test_evaluating_puts_the_mode_back() -> None:
    network = nn.Dropout(0.5)
    with evaluating(network):
        assert not network.training
    assert network.training
    network.eval()
    with pytest.raises(KeyError), evaluating(network):
        raise KeyError
    assert not network.training


def test_straight_and_round_paths() -> None:
    start, end = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    straight, around = path_between(start, end, 5), path_between(start, end, 5, spherical=True)
    torch.testing.assert_close(straight[1], torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(around.norm(dim=1), torch.ones(5))
    for path in (straight, around):
        torch.testing.assert_close(path[[0, -1]], torch.stack([start, end]))
    # Parallel vectors span no circle.
    torch.testing.assert_close(path_between(start, 2 * start, 3, spherical=True)[1], 1.5 * start)
