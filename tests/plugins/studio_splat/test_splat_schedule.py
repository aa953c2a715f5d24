"""Schedules by hand: how learning rates decay and follow the length of a training, colours and photos refine."""

from __future__ import annotations

import pytest

from studio_splat.config import SplatConfig
from studio_splat.schedule import (
    FEWEST_STEPS,
    REFERENCE_STEPS,
    active_sh_degree,
    learning_rates,
    photo_downscale,
)


def test_rates_of_the_reference_length_are_the_configured_ones() -> None:
    config = SplatConfig(lr_means=1e-3, lr_means_final=1e-5, lr_quats=0.1, lr_decay=0.25)
    start = learning_rates(config, 2.0, 0.0, REFERENCE_STEPS)
    assert (start.means, start.quats, start.shN) == pytest.approx((2e-3, 0.1, config.lr_shN))
    middle = learning_rates(config, 2.0, 0.5, REFERENCE_STEPS)
    assert (middle.means, middle.quats) == pytest.approx((2e-4, 0.05))
    end = learning_rates(config, 2.0, 1.0, REFERENCE_STEPS)
    assert (end.means, end.quats) == pytest.approx((2e-5, 0.025))


def test_rates_fall_with_the_length_of_the_training() -> None:
    config = SplatConfig(lr_stretch=0.5)
    short, long = (learning_rates(config, 1.0, 0.3, steps).as_dict() for steps in (8_000, 32_000))
    assert [short[name] / long[name] for name in short] == pytest.approx([2.0] * len(short))
    fewest = learning_rates(config, 1.0, 0.3, FEWEST_STEPS)
    assert learning_rates(config, 1.0, 0.3, 10) == fewest, "a test of ten steps must not diverge"
    fixed = SplatConfig(lr_stretch=0.0)
    assert learning_rates(fixed, 1.0, 0.3, 500) == learning_rates(fixed, 1.0, 0.3, 10**6)


def test_the_paper_s_rates_are_left_alone() -> None:
    for preset in ("quality", "mcmc"):
        assert SplatConfig.preset(preset).lr_stretch == 0


def test_the_colour_s_degree_rises() -> None:
    config = SplatConfig(sh_start=0.1, sh_degree=2)
    assert [active_sh_degree(config, progress) for progress in (0.0, 0.09, 0.11, 0.21, 0.9)] == [0, 0, 1, 2, 2]
    assert active_sh_degree(SplatConfig(sh_start=0.0), 0.0) == 3


def test_photos_get_sharper() -> None:
    config = SplatConfig(coarse_levels=2, coarse_share=0.5)
    assert [photo_downscale(config, progress) for progress in (0.0, 0.2, 0.3, 0.49, 0.5, 1.0)] == [4, 4, 2, 2, 1, 1]
    assert photo_downscale(SplatConfig(coarse_levels=0), 0.0) == 1
