"""PSNR against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.metrics import psnr


def test_known_values() -> None:
    target = torch.zeros(2, 4, 5, 3, dtype=torch.float64)
    prediction = target.clone()
    prediction[0] += 0.1
    prediction[1, 0, 0, 0] = 1.0
    expected = [20.0, 10 * math.log10(4 * 5 * 3)]
    torch.testing.assert_close(psnr(prediction, target), torch.tensor(expected, dtype=torch.float64))


def test_equal_pictures_are_infinite_and_the_range_scales() -> None:
    picture = torch.rand(3, 3, 3)
    assert psnr(picture, picture).item() == math.inf
    shifted = picture.double() * 255 + 1
    assert psnr(shifted, picture.double() * 255, data_range=255.0).item() == pytest.approx(20 * math.log10(255))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64])
def test_mask_leaves_pixels_out_entirely(dtype: torch.dtype) -> None:
    target = torch.zeros(4, 4, 3, dtype=torch.float64)
    prediction = target + 0.01
    prediction[:, 2:] = math.nan
    mask = torch.zeros(4, 4, dtype=dtype)
    mask[:, :2] = 1
    assert psnr(prediction, target, mask).item() == pytest.approx(40.0)
    assert math.isnan(psnr(prediction, target, torch.zeros_like(mask)).item())


def test_fractional_weights_are_a_weighted_mean() -> None:
    target = torch.zeros(1, 2, 1, dtype=torch.float64)
    prediction = torch.tensor([[[0.1], [0.3]]], dtype=torch.float64)
    weight = torch.tensor([[1.0, 0.25]], dtype=torch.float64)
    mse = (0.01 + 0.25 * 0.09) / 1.25
    assert psnr(prediction, target, weight).item() == pytest.approx(-10 * math.log10(mse))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.floats(1e-3, 0.3))
def test_mask_of_all_equals_no_mask_and_mean_of_figures_is_not_below_pooled(seed: int, noise: float) -> None:
    random = torch.Generator().manual_seed(seed)
    target = torch.rand(3, 6, 7, 3, generator=random, dtype=torch.float64)
    amount = noise * torch.rand(3, 1, 1, 1, generator=random, dtype=torch.float64)
    prediction = target + amount * torch.randn(3, 6, 7, 3, generator=random, dtype=torch.float64)
    figures = psnr(prediction, target)
    torch.testing.assert_close(figures, psnr(prediction, target, torch.ones(3, 6, 7, dtype=torch.bool)))
    pooled = -10 * torch.log10((prediction - target).square().mean())
    assert figures.mean() >= pooled - 1e-9


def test_bad_arguments_name_themselves() -> None:
    picture = torch.rand(4, 4, 3)
    with pytest.raises(ValueError, match=r"one shape.*\(4, 4, 3\) and \(4, 5, 3\)"):
        psnr(picture, torch.rand(4, 5, 3))
    with pytest.raises(ValueError, match="dtype"):
        psnr(picture, picture.double())
    with pytest.raises(ValueError, match=r"mask must be .*\(4, 4\), got \(4, 4, 1\)"):
        psnr(picture, picture, torch.ones(4, 4, 1))
