"""Schedules by hand: how learning rates decay and follow the length of a training, colours and photos refine."""

from __future__ import annotations

import math

import pytest

from studio_splat.config import SplatConfig
from studio_splat.schedule import (
    FEWEST_STEPS,
    REFERENCE_STEPS,
    CoarseStages,
    active_sh_degree,
    gaussians_per_step,
    learning_rates,
    relative_cost,
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
    stages = CoarseStages.plan(config, 1e5, None)
    assert [stages.downscale(progress) for progress in (0.0, 0.2, 0.3, 0.49, 0.5, 1.0)] == [4, 4, 2, 2, 1, 1]
    assert CoarseStages.plan(SplatConfig(coarse_levels=0), 1e5, 60.0).downscale(0.0) == 1


def test_short_budgets_on_large_photos_stay_coarse_for_longer() -> None:
    config = SplatConfig()
    small, large = 400 * 400, 1600 * 1200
    assert CoarseStages.plan(config, small, None) == CoarseStages(2, 0.25)
    assert CoarseStages.plan(config, small, 120.0) == CoarseStages(2, 0.25), "there is time for many steps"
    assert CoarseStages.plan(config, large, None) == CoarseStages(3, 0.25), "the number of steps is given"
    shares = [CoarseStages.plan(config, large, seconds).share for seconds in (20.0, 60.0, 120.0, 300.0, 3000.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == pytest.approx(0.8), "some steps see the photos as they are"
    assert shares[-1] == 0.25
    chosen = SplatConfig(coarse_share=0.1, coarse_levels=1)
    assert CoarseStages.plan(chosen, large, 20.0) == CoarseStages(1, 0.1)


def test_the_cost_of_a_step_knows_the_size_of_photos() -> None:
    # Twice as wide photos: four times the pixels, but the same Gaussians.
    fixed = relative_cost(0.0, 0.0)
    assert relative_cost(640_000, 0) - fixed == pytest.approx(4 * (relative_cost(160_000, 0) - fixed))
    assert relative_cost(640_000, 50_000) - relative_cost(640_000, 0) == pytest.approx(
        relative_cost(160_000, 50_000) - relative_cost(160_000, 0)
    )
    assert relative_cost(40_000, 50_000) < relative_cost(160_000, 50_000)


def test_large_photos_get_more_gaussians_for_each_step() -> None:
    config = SplatConfig(gaussians_per_step=20.0)
    assert [gaussians_per_step(config, side**2) for side in (200, 400, 800, 1200, 4000)] == [20, 20, 40, 60, 60]
    assert gaussians_per_step(SplatConfig(gaussians_per_step=0.0), 1e6) == math.inf
