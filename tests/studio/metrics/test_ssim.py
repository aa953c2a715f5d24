"""SSIM against Wang's formula written out window by window, and against scipy's filters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from studio.metrics import ssim, ssim_map

C1, C2 = 0.01**2, 0.03**2


def _window() -> np.ndarray:
    window = np.array([[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / (2 * 1.5**2)) for j in range(11)] for i in range(11)])
    return window / window.sum()


def _direct(x: np.ndarray, y: np.ndarray, *, same: bool) -> np.ndarray:
    """Equation 13 of Wang 2004 for one channel, with explicit loops and centred moments."""
    weight = _window()
    if same:
        x, y = np.pad(x, 5), np.pad(y, 5)
    height, width = x.shape[0] - 10, x.shape[1] - 10
    out = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
            var_a, var_b = (weight * (a - mean_a) ** 2).sum(), (weight * (b - mean_b) ** 2).sum()
            cov = (weight * (a - mean_a) * (b - mean_b)).sum()
            out[i, j] = ((2 * mean_a * mean_b + C1) * (2 * cov + C2)) / (
                (mean_a**2 + mean_b**2 + C1) * (var_a + var_b + C2)
            )
    return out


def _pair(height: int, width: int, channels: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    x = random.random((height, width, channels))
    y = np.clip(0.7 * x + 0.3 * random.random((height, width, channels)), 0, 1)
    return x, y


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_equals_the_formula_window_by_window(padding: str) -> None:
    x, y = _pair(17, 23)
    ours = ssim_map(torch.from_numpy(x), torch.from_numpy(y), padding=padding)  # type: ignore[arg-type]
    expected = np.stack([_direct(x[..., c], y[..., c], same=padding == "same") for c in range(3)], axis=-1)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-12)
    mean = ssim(torch.from_numpy(x), torch.from_numpy(y), padding=padding)  # type: ignore[arg-type]
    assert mean.item() == pytest.approx(expected.mean(), abs=1e-12)


def test_valid_equals_the_usual_scikit_image_recipe() -> None:
    """scikit-image: gaussian_filter(sigma=1.5, truncate=3.5), population covariance, 5 border pixels cropped."""
    ndimage = pytest.importorskip("scipy.ndimage")
    x, y = _pair(40, 31, seed=3)

    def blur(values: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(values, sigma=1.5, truncate=3.5)

    figures = []
    for a, b in zip(np.moveaxis(x, -1, 0), np.moveaxis(y, -1, 0), strict=True):
        ua, ub = blur(a), blur(b)
        va, vb, vab = blur(a * a) - ua * ua, blur(b * b) - ub * ub, blur(a * b) - ua * ub
        values = ((2 * ua * ub + C1) * (2 * vab + C2)) / ((ua**2 + ub**2 + C1) * (va + vb + C2))
        figures.append(values[5:-5, 5:-5].mean())
    ours = ssim(torch.from_numpy(x), torch.from_numpy(y), padding="valid")
    assert ours.item() == pytest.approx(np.mean(figures), abs=1e-12)


def test_default_is_the_zero_padded_figure_of_splatting_papers() -> None:
    signal = pytest.importorskip("scipy.signal")
    x, y = _pair(24, 19, seed=5)
    weight = _window()

    def blur(values: np.ndarray) -> np.ndarray:
        return signal.convolve2d(values, weight, mode="same", boundary="fill", fillvalue=0.0)

    figures = []
    for a, b in zip(np.moveaxis(x, -1, 0), np.moveaxis(y, -1, 0), strict=True):
        ua, ub = blur(a), blur(b)
        va, vb, vab = blur(a * a) - ua * ua, blur(b * b) - ub * ub, blur(a * b) - ua * ub
        figures.append((((2 * ua * ub + C1) * (2 * vab + C2)) / ((ua**2 + ub**2 + C1) * (va + vb + C2))).mean())
    ours = ssim(torch.from_numpy(x), torch.from_numpy(y))
    assert ours.item() == pytest.approx(np.mean(figures), abs=1e-12)
    single = ssim(torch.from_numpy(x).float(), torch.from_numpy(y).float())
    assert single.item() == pytest.approx(np.mean(figures), abs=2e-5)


def test_constant_pictures_by_hand() -> None:
    """Without variance only the luminance term is left (valid windows see no border)."""
    x = torch.full((16, 16, 1), 0.2, dtype=torch.float64)
    y = torch.full((16, 16, 1), 0.6, dtype=torch.float64)
    expected = (2 * 0.2 * 0.6 + C1) / (0.2**2 + 0.6**2 + C1)
    assert ssim(x, y, padding="valid").item() == pytest.approx(expected, abs=1e-12)
    assert ssim(x, x).item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_mask_is_the_mean_of_the_map_there(padding: str) -> None:
    x, y = (torch.from_numpy(t) for t in _pair(20, 26, seed=7))
    mask = torch.zeros(20, 26, dtype=torch.bool)
    mask[3:15, 8:22] = True
    values = ssim_map(x, y, padding=padding)  # type: ignore[arg-type]
    inner = mask if padding == "same" else mask[5:-5, 5:-5]
    assert ssim(x, y, mask, padding=padding).item() == pytest.approx(values[inner].mean().item(), abs=1e-12)  # type: ignore[arg-type]
    assert math.isnan(ssim(x, y, torch.zeros_like(mask)).item())


def test_batches_range_and_gradient() -> None:
    x, y = (torch.from_numpy(t) for t in _pair(14, 13, seed=9))
    batch = ssim(torch.stack([x, y, x]).view(3, 1, 14, 13, 3), torch.stack([y, y, x]).view(3, 1, 14, 13, 3))
    assert batch.shape == (3, 1)
    assert batch[0, 0].item() == pytest.approx(ssim(x, y).item(), abs=1e-12)
    assert ssim(x * 255, y * 255, data_range=255.0).item() == pytest.approx(ssim(x, y).item(), abs=1e-10)
    small = torch.rand(12, 12, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: ssim(t, y[:12, :12, :1]), (small,), fast_mode=True)


def test_bad_arguments() -> None:
    x = torch.rand(10, 20, 3)
    with pytest.raises(ValueError, match=r"11x11.*20x10"):
        ssim(x, x, padding="valid")
    with pytest.raises(ValueError, match="padding"):
        ssim(x, x, padding="reflect")  # type: ignore[arg-type]
