"""Metrics against scikit-image, torchmetrics and torch-fidelity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics.functional.image import structural_similarity_index_measure

from studio.metrics import psnr, ssim, ssim_map
from studio.metrics.frechet import fid
from studio.metrics.kernel_distance import cubic_mmd2
from studio.metrics.manifold import manifold_scores

NOISES = [0.0, 0.003, 0.05, 0.4]
SIZES = [(11, 11), (40, 31), (64, 128)]


def pair(size: tuple[int, int], noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A picture with edges and flat parts, and the same with noise."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    base = torch.stack([(0.2 * x).sin() * 0.5 + 0.5, (y > size[0] / 2).double(), (x + y) / sum(size)], -1)
    return base, (base + noise * torch.randn(base.shape, generator=g, dtype=torch.float64)).clamp(0, 1)


@pytest.mark.parametrize("noise", NOISES[1:])
@pytest.mark.parametrize("size", SIZES)
def test_psnr_of_scikit_image(size: tuple[int, int], noise: float) -> None:
    a, b = pair(size, noise)
    assert float(psnr(b, a)) == pytest.approx(peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1.0), abs=1e-9)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("size", SIZES)
def test_valid_ssim_is_scikit_images(size: tuple[int, int], noise: float) -> None:
    """With the settings that its documentation names for Wang's figure."""
    a, b = pair(size, noise)
    theirs = structural_similarity(
        a.numpy(), b.numpy(), channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=1.0,
    )  # fmt: skip
    assert float(ssim(b, a, padding="valid")) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("size", SIZES)
def test_same_ssim_is_scikit_images_map_inside(size: tuple[int, int], noise: float) -> None:
    """Five pixels from the border on, padding is not seen."""
    a, b = pair(size, noise)
    _, theirs = structural_similarity(
        a.numpy(), b.numpy(), channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        data_range=1.0, full=True,
    )  # fmt: skip
    inside = ssim_map(b, a, padding="same")[5:-5, 5:-5].numpy()
    np.testing.assert_allclose(inside, theirs[5:-5, 5:-5], atol=1e-9)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("size", SIZES[1:])
def test_ssim_of_torchmetrics_mirrors_the_border(size: tuple[int, int], noise: float) -> None:
    """What the docstring of `ssim` says about it: all windows count, and beyond the border the picture is mirrored."""
    a, b = pair(size, noise)
    theirs = structural_similarity_index_measure(
        b.permute(2, 0, 1)[None], a.permute(2, 0, 1)[None], data_range=1.0, gaussian_kernel=True, sigma=1.5
    )
    mirrored = [np.pad(t.numpy(), ((5, 5), (5, 5), (0, 0)), mode="reflect") for t in (b, a)]
    ours = ssim(*map(torch.as_tensor, mirrored), padding="valid")
    assert float(ours) == pytest.approx(float(theirs), abs=1e-6)
    if noise:
        assert abs(float(ssim(b, a, padding="valid")) - float(theirs)) > 1e-5


@pytest.mark.parametrize("size", SIZES[1:])
def test_scikit_images_defaults_are_another_figure(size: tuple[int, int]) -> None:
    """Its own defaults, even 7x7 windows and the sample covariance, are not what papers report."""
    a, b = pair(size, 0.05)
    theirs = structural_similarity(a.numpy(), b.numpy(), channel_axis=-1, data_range=1.0)
    assert abs(float(ssim(b, a, padding="valid")) - theirs) > 1e-3


def features(seed: int, n: int, d: int, shift: float = 0.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=g, dtype=torch.float64) / d**0.5
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mixing + shift


@pytest.mark.parametrize(("n", "d"), [(200, 4), (500, 64), (40, 64)])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_fid_of_torch_fidelity(n: int, d: int, shift: float) -> None:
    """Also with fewer samples than features, where the covariances are singular."""
    real, generated = features(0, n, d), features(1, n + 50, d, shift)
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(x) for x in (real, generated)), verbose=False)
    assert fid(real, generated) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(("n", "d"), [(50, 4), (120, 64), (300, 512)])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_kid_of_torch_fidelity(n: int, d: int, shift: float) -> None:
    """One subset of all samples: nothing is drawn, so the estimates are the same number."""
    real, generated = features(0, n, d), features(1, n, d, shift)
    theirs = kid_features_to_metric(generated, real, kid_subsets=1, kid_subset_size=n, verbose=False)
    assert cubic_mmd2(real, generated) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
@pytest.mark.parametrize(("n", "d", "shift"), [(80, 3, 0.0), (200, 8, 0.4), (150, 16, 2.0)])
def test_precision_and_recall_of_torch_fidelity(neighbours: int, n: int, d: int, shift: float) -> None:
    real, generated = features(0, n, d), features(1, n + 30, d, shift)
    ours = manifold_scores(real, generated, k_precision=neighbours)
    theirs = prc_features_to_metric(generated, real, prc_neighborhood=neighbours, verbose=False)
    # Theirs rounds shares to float32.
    assert ours.precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert ours.recall == pytest.approx(theirs["recall"], abs=1e-6)
