"""The kernels around the rasteriser: composing photos, squared error, position noise."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from splat_scenes import make_gaussians

from studio.kernels import cache
from studio.metrics import psnr
from studio_splat.kernels.layout import pack, unpack
from studio_splat.kernels.noise import explore
from studio_splat.kernels.photo import compose, mean_squared_error
from studio_splat.strategy.base import rotation_matrices
from studio_splat.strategy.mcmc import position_noise


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = cache.get_threads()
    yield
    cache.set_threads(before)


# ---- photos ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("size", [(1, 1), (7, 33), (40, 16)])
def test_compose_blends_over_the_background(channels: int, size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (*size, channels), dtype=np.uint8)
    background = np.array([0.1, 0.5, 1.0], np.float32)
    planes = np.empty((3, *size), np.float32)
    compose(pixels, background, planes)
    alpha = pixels[..., 3:] / 255.0 if channels == 4 else np.ones((*size, 1))
    expected = alpha * (pixels[..., :3] / 255.0) + (1 - alpha) * background
    assert np.abs(planes - np.moveaxis(expected, -1, 0)).max() < 2e-7


def test_compose_by_hand() -> None:
    planes = np.empty((3, 1, 2), np.float32)
    compose(np.array([[[255, 0, 51, 51], [255, 0, 51, 255]]], np.uint8), np.array([0, 1, 0.5], np.float32), planes)
    assert planes[:, 0].T.tolist() == [pytest.approx([0.2, 0.8, 0.44]), pytest.approx([1.0, 0.0, 0.2])]


@pytest.mark.parametrize("masked", [False, True])
def test_squared_error_is_that_of_evaluation(masked: bool) -> None:
    random = torch.Generator().manual_seed(0)
    image, target = 2 * torch.rand(2, 3, 19, 23, generator=random) - torch.tensor([0.5, 0.0])[:, None, None, None]
    target = target.clamp(0, 1)
    mask = torch.rand(19, 23, generator=random) > 0.4 if masked else None
    found = mean_squared_error(image.numpy(), target.numpy(), None if mask is None else mask.numpy())
    expected = psnr(image.clamp(0, 1).movedim(0, -1), target.movedim(0, -1), mask)
    assert -10 * math.log10(found) == pytest.approx(float(expected), abs=1e-4)


def test_squared_error_by_hand() -> None:
    image = np.array([[[0.5, 2.0], [-1.0, 0.25]]], np.float32)
    target = np.array([[[0.0, 1.0], [0.5, 0.25]]], np.float32)
    assert mean_squared_error(image, target) == pytest.approx((0.25 + 0 + 0.25 + 0) / 4)
    assert mean_squared_error(image, target, np.array([[True, True], [False, False]])) == pytest.approx(0.125)
    with pytest.raises(ValueError, match="no pixel counts"):
        mean_squared_error(image, target, np.zeros((2, 2), bool))


def test_squared_error_leaves_out_what_the_mask_hides_even_if_it_is_nan() -> None:
    image = np.array([[[0.5, np.nan]]], np.float32)
    assert mean_squared_error(image, np.zeros((1, 1, 2), np.float32), np.array([[True, False]])) == pytest.approx(0.25)


def test_squared_error_does_not_depend_on_the_threads() -> None:
    image, target = np.random.default_rng(1).random((2, 3, 31, 17), dtype=np.float32)
    found = []
    for threads in (1, 2, 3):
        cache.set_threads(threads)
        found.append(mean_squared_error(image, target))
    assert len(set(found)) == 1


def test_wrong_arrays_are_refused() -> None:
    planes = np.empty((3, 4, 5), np.float32)
    with pytest.raises(ValueError, match="pixels must have shape"):
        compose(np.zeros((4, 5), np.uint8), np.zeros(3, np.float32), planes)
    with pytest.raises(ValueError, match="pixels must be uint8"):
        compose(np.zeros((4, 5, 3), np.float32), np.zeros(3, np.float32), planes)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="background"):
        compose(np.zeros((4, 5, 3), np.uint8), np.zeros(4, np.float32), planes)
    with pytest.raises(ValueError, match="planes must be C-contiguous"):
        compose(
            np.zeros((4, 5, 3), np.uint8), np.zeros(3, np.float32), np.empty((3, 5, 4), np.float32).transpose(0, 2, 1)
        )
    with pytest.raises(ValueError, match="target"):
        mean_squared_error(planes, np.empty((3, 4, 6), np.float32))


# ---- noise -----------------------------------------------------------------------------------------------------------
def make_blocks(n: int, opacity: float, seed: int = 2) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """The same thin, turned Gaussian n times, at the origin."""
    one = make_gaussians(1, seed=seed, sh_degree=0)
    one["means"][:] = 0
    one["scales"][:] = torch.tensor([[-1.0, -2.0, -2.5]])
    one["opacities"][:] = math.log(opacity / (1 - opacity))
    params = {name: value.repeat(n, *[1] * (value.dim() - 1)) for name, value in one.items()}
    arrays = [params[name].numpy() for name in ("means", "quats", "scales", "opacities", "sh0")]
    return params, pack(*arrays)


def moved(blocks: np.ndarray, n: int) -> torch.Tensor:
    return torch.from_numpy(unpack(blocks, n)["means"]).double()


def expected_covariance(params: dict[str, torch.Tensor], opacity: float, strength: float) -> torch.Tensor:
    rotation = rotation_matrices(params["quats"][:1].double())[0]
    covariance = rotation @ torch.diag(params["scales"][0].double().exp() ** 2) @ rotation.T
    gate = strength / (1 + math.exp(100 * (opacity - 0.005)))
    return gate**2 * covariance @ covariance


@pytest.mark.parametrize("opacity", [0.004, 0.02, 0.06])
def test_noise_has_the_stated_moments(opacity: float) -> None:
    n, strength = 20_000, 7.0
    params, blocks = make_blocks(n, opacity)
    explore(blocks, strength, seed=5)
    offsets = moved(blocks, n)
    expected = expected_covariance(params, opacity, strength)
    largest = float(expected.diagonal().max())
    assert float(offsets.mean(dim=0).abs().max()) < 4 * math.sqrt(largest / n)
    assert float((offsets.T @ offsets / n - expected).abs().max()) < 0.04 * largest
    # Along the Gaussian's own axes it is normal: uncorrelated, of kurtosis 3.
    white = torch.linalg.solve(torch.linalg.cholesky(expected), offsets.T)
    assert float((white.pow(4).mean(dim=1) - 3).abs().max()) < 0.25
    assert float(torch.corrcoef(white).fill_diagonal_(0).abs().max()) < 0.03


def test_noise_equals_the_torch_version_in_distribution() -> None:
    n = 20_000
    params, blocks = make_blocks(n, 0.01)
    explore(blocks, 2.0, seed=1)
    ours = moved(blocks, n)
    theirs = position_noise(params, 2.0, torch.Generator().manual_seed(1)).double()
    for axis in range(3):
        a, b = ours[:, axis].sort().values, theirs[:, axis].sort().values
        # Two-sample Kolmogorov-Smirnov: above this with a probability of 1e-4 if the distributions are equal.
        both = torch.cat([a, b]).sort().values
        distance = (torch.searchsorted(a, both, right=True) - torch.searchsorted(b, both, right=True)).abs().max() / n
        assert float(distance) < 2.23 * math.sqrt(2 / n)


def test_noise_repeats_by_seed_whatever_the_threads() -> None:
    results = []
    for threads, seed in ((1, 3), (2, 3), (3, 3), (1, 4)):
        cache.set_threads(threads)
        _, blocks = make_blocks(1_000, 0.01)
        explore(blocks, 1.0, seed)
        results.append(blocks)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], results[3])


def test_noise_differs_between_gaussians_and_between_near_seeds() -> None:
    n = 2_000
    steps = []
    for seed in (10, 11):
        _, blocks = make_blocks(n, 0.01)
        explore(blocks, 1.0, seed)
        steps.append(moved(blocks, n))
    assert len(steps[0].unique(dim=0)) == n
    for a, b in ((steps[0], steps[1]), (steps[0][1:], steps[0][:-1])):
        correlation = torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]
        assert abs(float(correlation)) < 0.06


def test_noise_leaves_the_opaque_and_the_padding_alone() -> None:
    _, blocks = make_blocks(17, 0.9)
    before = blocks.copy()
    explore(blocks, 1e3, seed=0)
    assert np.array_equal(blocks, before)
    _, faint = make_blocks(17, 0.01)
    before = faint.copy()
    explore(faint, 1.0, seed=0)
    assert np.array_equal(faint[:, 3:], before[:, 3:]), "only means move"
    assert np.array_equal(faint[1, :, 1:], before[1, :, 1:]), "the padding stays"
    assert not np.array_equal(faint[1, :3, 0], before[1, :3, 0])
