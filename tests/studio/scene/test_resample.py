from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.scene.resample import downscaled_size, resize_area, resize_mask


def reference(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Area averages in float64: the overlap of every new pixel with every old one, as dense matrices."""

    def weights(old: int, new: int) -> np.ndarray:
        low, high = np.arange(new)[:, None] * old / new, (np.arange(new)[:, None] + 1) * old / new
        left, right = np.arange(old)[None], np.arange(old)[None] + 1
        return np.clip(np.minimum(high, right) - np.maximum(low, left), 0, None) * new / old

    return np.einsum("ay,bx,yxc->abc", weights(values.shape[0], size[1]), weights(values.shape[1], size[0]), values)


sides = st.integers(1, 40)
seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=60)
@given(sides, sides, sides, sides, st.sampled_from([1, 3]), seeds)
def test_area_averages_are_exact_up_to_rounding(width, height, new_width, new_height, channels, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    size = (new_width, new_height)
    result = resize_area(torch.from_numpy(image), size).numpy()
    assert result.shape == (new_height, new_width, channels)
    assert np.abs(result - reference(image.astype(float), size)).max() <= 0.5 + 1e-3


def test_whole_factor_is_the_mean_of_blocks():
    image = torch.tensor([[0, 10, 100, 50], [20, 30, 50, 200]], dtype=torch.uint8)[..., None]
    assert resize_area(image, (2, 1))[..., 0].tolist() == [[15, 100]]


def test_uneven_factor_weighs_by_covered_area():
    # Three pixels onto two: each new one covers one and a half.
    image = torch.tensor([[30, 60, 90]], dtype=torch.uint8)[..., None]
    assert resize_area(image, (2, 1))[..., 0].tolist() == [[40, 80]]


@settings(deadline=None, max_examples=60)
@given(sides, sides, sides, sides, seeds, st.floats(0, 1))
def test_resizing_commutes_with_compositing(width, height, new_width, new_height, seed, background):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    image[rng.random((height, width)) < 0.4, 3] = 0
    size = (new_width, new_height)

    def over(rgba: np.ndarray) -> np.ndarray:
        alpha = rgba[..., 3:].astype(float) / 255
        return alpha * rgba[..., :3] / 255 + (1 - alpha) * background

    small = resize_area(torch.from_numpy(image), size).numpy()
    # Rounding of alpha and of colour, half a level each.
    assert np.abs(over(small) - reference(over(image), size)).max() <= 1.01 / 255


def test_transparent_colours_do_not_bleed():
    image = torch.zeros(2, 2, 4, dtype=torch.uint8)
    image[..., :3] = torch.tensor([0, 255, 0], dtype=torch.uint8)
    image[0, 0] = torch.tensor([200, 0, 0, 255], dtype=torch.uint8)
    assert resize_area(image, (1, 1))[0, 0].tolist() == [200, 0, 0, 64]


@pytest.mark.parametrize("factor", [1, 2, 2.5, 3])
def test_masks_count_only_where_everything_counts(factor):
    rng = np.random.default_rng(0)
    mask = rng.random((30, 30)) < 0.85
    size = downscaled_size((30, 30), factor)
    share = reference(mask[..., None].astype(float), size)[..., 0]
    assert np.array_equal(resize_mask(torch.from_numpy(mask), size).numpy(), share > 1 - 1e-9)


def test_masks_can_grow():
    mask = torch.tensor([[True, False], [True, True]])
    assert resize_mask(mask, (4, 4)).tolist() == [[True, True, False, False]] * 2 + [[True] * 4] * 2


def test_sizes_round_half_up_and_stay_positive():
    assert downscaled_size((101, 99), 2) == (51, 50)
    assert downscaled_size((3, 5), 100) == (1, 1)
    assert downscaled_size((640, 480), 1) == (640, 480)
