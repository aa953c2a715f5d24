"""The fused photometric loss against the same formula in float64 torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from studio.kernels import cache
from studio_splat.kernels.loss import photometric_loss


def expected_loss(
    image: NDArray, target: NDArray, weight: float, mask: NDArray | None, padding: str, smooth: float = 0.0
) -> tuple[float, float, float, NDArray[np.float64]]:
    """Loss, L1, SSIM and gradient, straight from the definition with conv2d."""
    taps = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()
    kernel = (taps[:, None] * taps)[None, None]
    channels, height, width = image.shape
    x, y = torch.tensor(image, dtype=torch.float64, requires_grad=True), torch.tensor(target, dtype=torch.float64)
    w = torch.ones(height, width, dtype=torch.float64) if mask is None else torch.tensor(mask, dtype=torch.float64)

    def blur(t: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(t[:, None], kernel, padding=5)[:, 0]

    a, b = x * (w > 0), y * (w > 0)
    ma, mb = blur(a), blur(b)
    va, vb, vab = blur(a * a) - ma * ma, blur(b * b) - mb * mb, blur(a * b) - ma * mb
    ssim_map = (2 * ma * mb + 1e-4) * (2 * vab + 9e-4) / ((ma * ma + mb * mb + 1e-4) * (va + vb + 9e-4))
    counted = w
    if padding == "valid":
        counted = torch.zeros_like(w)
        counted[5 : height - 5, 5 : width - 5] = w[5 : height - 5, 5 : width - 5]
    distance = (x - y).abs()
    if smooth > 0:
        distance = torch.where(distance < smooth, distance**2 / (2 * smooth), distance - smooth / 2)
    l1 = (distance * w).sum() / (channels * w.sum())
    ssim = (ssim_map * counted).sum() / (channels * counted.sum())
    loss = (1 - weight) * l1 + weight * (1 - ssim)
    loss.backward()
    assert x.grad is not None
    return loss.item(), l1.item(), ssim.item(), x.grad.numpy()


def make_pair(channels: int, height: int, width: int, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    target = rng.uniform(size=(channels, height, width)).astype(np.float32)
    image = np.clip(target + rng.normal(0, 0.1, target.shape), 0, 1).astype(np.float32)
    return image, target


def make_mask(kind: str, height: int, width: int) -> NDArray[Any] | None:
    rng = np.random.default_rng(5)
    if kind == "binary":
        mask = (rng.random((height, width)) < 0.6).astype(np.uint8)
        mask[0, 0] = 1
        mask[height // 2, width // 2] = 1
        return mask
    return rng.uniform(0.1, 2.0, (height, width)) if kind == "weights" else None


@pytest.mark.parametrize("smooth", [0.0, 0.05])
@pytest.mark.parametrize("mask_kind", ["none", "binary", "weights"])
@pytest.mark.parametrize(
    ("channels", "height", "width", "padding"),
    [
        (3, 48, 64, "same"),
        (3, 37, 53, "same"),
        (1, 7, 5, "same"),
        (3, 1, 1, "same"),
        (3, 3, 100, "same"),
        (3, 90, 2, "same"),
        (3, 40, 33, "valid"),
        (2, 11, 11, "valid"),
    ],
)
def test_matches_the_definition(
    channels: int, height: int, width: int, padding: Any, mask_kind: str, smooth: float
) -> None:
    image, target = make_pair(channels, height, width)
    mask = make_mask(mask_kind, height, width)
    gradient = np.full_like(image, np.nan)
    got = photometric_loss(image, target, gradient, ssim_weight=0.3, smooth_l1=smooth, mask=mask, padding=padding)
    loss, l1, ssim, expected = expected_loss(image, target, 0.3, mask, padding, smooth)
    # One pixel among zeros: C2 is all there is in the denominator, and no mean evens out the rounding.
    bound = 1e-6 if height * width > 1 else 1e-5
    assert got.loss == pytest.approx(loss, abs=bound)
    assert got.l1 == pytest.approx(l1, rel=1e-6)
    assert got.ssim == pytest.approx(ssim, abs=2 * bound)
    assert np.abs(gradient - expected).max() < 5 * bound * np.abs(expected).max()


def test_flat_white_areas_keep_their_gradient() -> None:
    # The variance of white is a difference of ones: the place where float32 SSIM loses most.
    image, target = make_pair(3, 96, 96)
    target[:, 20:] = 1.0
    image[:, 20:] = np.clip(1 - np.random.default_rng(1).exponential(1e-3, image[:, 20:].shape), 0, 1)
    gradient = np.empty_like(image)
    photometric_loss(image, target, gradient)
    *_, expected = expected_loss(image, target, 0.2, None, "same")
    assert np.abs(gradient - expected).max() < 5e-5 * np.abs(expected).max()


def test_equal_images() -> None:
    image, _ = make_pair(3, 33, 29)
    gradient = np.full_like(image, np.nan)
    got = photometric_loss(image, image.copy(), gradient)
    assert got.l1 == 0.0
    assert got.ssim == pytest.approx(1.0, abs=1e-6)
    assert np.abs(gradient).max() < 1e-6 / image.size * 33 * 29


def test_pure_l1() -> None:
    image, target = make_pair(3, 21, 30)
    gradient = np.empty_like(image)
    got = photometric_loss(image, target, gradient, ssim_weight=0.0)
    assert got.loss == got.l1 == pytest.approx(np.abs(image - target).mean(dtype=np.float64), rel=1e-6)
    np.testing.assert_allclose(gradient, np.sign(image - target) / image.size, rtol=1e-6, atol=1e-12)


def test_smooth_l1_by_hand() -> None:
    # Differences of 0, half the limit and five times it: 0, d^2 / (2 beta) and |d| - beta / 2; slopes 0, 1/2 and -1.
    target = np.full((1, 1, 3), 0.5, np.float32)
    image = target + np.array([[[0.0, 0.05, -0.5]]], np.float32)
    gradient = np.empty_like(image)
    got = photometric_loss(image, target, gradient, ssim_weight=0.0, smooth_l1=0.1)
    assert got.loss == got.l1 == pytest.approx((0.0 + 0.0125 + 0.45) / 3, rel=1e-5)
    np.testing.assert_allclose(3 * gradient, [[[0.0, 0.5, -1.0]]], rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 30), width=st.integers(1, 40))
def test_masked_pixels_have_no_influence(seed: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    image, target = make_pair(3, height, width, seed)
    mask = rng.random((height, width)) < 0.5
    mask[rng.integers(height), rng.integers(width)] = True
    first, second = np.empty_like(image), np.empty_like(image)
    expected = photometric_loss(image, target, first, mask=mask)
    image[:, ~mask] = rng.uniform(-9, 9, (3, (~mask).sum()))
    target[:, ~mask] = rng.uniform(-9, 9, (3, (~mask).sum()))
    assert photometric_loss(image, target, second, mask=mask) == expected
    np.testing.assert_array_equal(first, second)
    assert not first[:, ~mask].any()


def test_only_ratios_of_weights_matter() -> None:
    image, target = make_pair(3, 20, 20)
    mask = make_mask("weights", 20, 20)
    assert mask is not None
    one, four = np.empty_like(image), np.empty_like(image)
    a = photometric_loss(image, target, one, mask=mask)
    b = photometric_loss(image, target, four, mask=4 * mask)
    assert a.loss == pytest.approx(b.loss, rel=1e-6)
    np.testing.assert_allclose(one, four, rtol=1e-4, atol=1e-9)


def test_same_bits_on_any_number_of_threads() -> None:
    image, target = make_pair(3, 61, 47)
    before = cache.get_threads()
    results = []
    try:
        for threads in (1, 2, 5, 64, 1):
            cache.set_threads(threads)
            gradient = np.empty_like(image)
            results.append((photometric_loss(image, target, gradient), gradient))
    finally:
        cache.set_threads(before)
    for loss, gradient in results[1:]:
        assert loss == results[0][0]
        np.testing.assert_array_equal(gradient, results[0][1])


def test_wrong_arguments_are_named() -> None:
    image, target = make_pair(3, 8, 9)
    gradient = np.empty_like(image)
    with pytest.raises(ValueError, match=r"image must have shape \(C, H, W\)"):
        photometric_loss(image[0], target[0], gradient[0])
    with pytest.raises(ValueError, match=r"target must be float32 of shape \(3, 8, 9\), got float64"):
        photometric_loss(image, target.astype(np.float64), gradient)
    with pytest.raises(ValueError, match=r"mask must have shape \(8, 9\)"):
        photometric_loss(image, target, gradient, mask=np.ones((9, 8)))
    with pytest.raises(ValueError, match="not negative"):
        photometric_loss(image, target, gradient, mask=np.full((8, 9), -1.0))
    with pytest.raises(ValueError, match="not negative"):
        photometric_loss(image, target, gradient, mask=np.full((8, 9), np.nan))
    with pytest.raises(ValueError, match="no pixel counts"):
        photometric_loss(image, target, gradient, mask=np.zeros((8, 9)))
    with pytest.raises(ValueError, match="no pixel counts"):
        photometric_loss(image, target, gradient, padding="valid")
    with pytest.raises(ValueError, match="ssim_weight"):
        photometric_loss(image, target, gradient, ssim_weight=1.5)
    with pytest.raises(ValueError, match="smooth_l1"):
        photometric_loss(image, target, gradient, smooth_l1=-0.1)
