"""What the packed formats share: quaternions without their largest part, order in space, checks before allocation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gaussian_clouds import ball_cloud, same_turn
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.devices.host_memory import host_memory
from studio.errors import StudioError
from studio.export.splat_packing import (
    check_memory,
    checked,
    join_largest,
    logits_of_bytes,
    opacity_bytes,
    read_whole,
    spatial_order,
    split_largest,
    unit_quaternions,
)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_the_largest_part_follows_from_the_others(seed: int) -> None:
    quats = np.random.default_rng(seed).normal(size=(50, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    index, rest = split_largest(quats)
    assert np.abs(rest).max() <= math.sqrt(0.5) + 1e-12
    back = join_largest(index, rest)
    assert (back[np.arange(50), index] > 0).all()
    assert float(same_turn(torch.from_numpy(back), torch.from_numpy(quats)).max()) < 1e-6


def test_by_hand() -> None:
    index, rest = split_largest(np.array([[0.1, -0.9, 0.3, -0.3]]))
    assert index.tolist() == [1]
    np.testing.assert_allclose(rest, [[-0.1, -0.3, 0.3]])
    np.testing.assert_allclose(join_largest(np.array([2]), np.array([[0.6, 0, 0.0]])), [[0.6, 0, 0.8, 0]], atol=1e-7)
    # Parts that are too large together leave nothing for the largest one, not a root of a negative number.
    np.testing.assert_allclose(join_largest(np.array([0]), np.array([[0.7, 0.7, 0.7]]))[0, 0], 0)


def test_unit_quaternions_take_any_length() -> None:
    units = unit_quaternions(torch.tensor([[0.0, 0, 0, 0], [0, 3, 0, 4], [1e-30, 0, 0, 0]]))
    np.testing.assert_allclose(units, [[1, 0, 0, 0], [0, 0.6, 0, 0.8], [1, 0, 0, 0]])


def test_the_curve_visits_octants_one_after_the_other() -> None:
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    shuffled = corners[[5, 2, 7, 0, 6, 1, 4, 3]]
    # x turns slowest, z fastest.
    assert shuffled[torch.from_numpy(spatial_order(shuffled))].tolist() == corners.tolist()
    means = ball_cloud(4000).means
    order = torch.from_numpy(spatial_order(means))
    assert order.sort().values.tolist() == list(range(4000))
    steps = means[order].diff(dim=0).norm(dim=1).mean()
    assert steps < 0.2 * means.diff(dim=0).norm(dim=1).mean()
    assert spatial_order(torch.zeros(3, 3)).tolist() == [0, 1, 2]
    assert spatial_order(torch.zeros(0, 3)).tolist() == []


def test_opacities_in_bytes() -> None:
    cloud = replace(ball_cloud(4, 0), logit_opacities=torch.tensor([math.inf, -math.inf, 0.0, 2.0]))
    steps = opacity_bytes(cloud)
    assert steps.tolist() == [255, 0, 128, round(255 / (1 + math.exp(-2)))]
    back = logits_of_bytes(steps)
    assert bool(back.isfinite().all())
    assert back.sigmoid().tolist() == pytest.approx([254.5 / 255, 0.5 / 255, 128 / 255, steps[3] / 255], abs=1e-6)


def test_more_gaussians_than_memory_are_refused() -> None:
    check_memory("x.spz", 1000, 3)
    count = host_memory().total // 50
    with pytest.raises(StudioError, match=rf"x\.spz: {count:,} Gaussians of degree 3 need .* of memory, .* are free"):
        check_memory("x.spz", count, 3)


def test_what_is_not_a_number_is_named() -> None:
    cloud = ball_cloud(5, 1)
    zero_and_one = replace(
        cloud,
        logit_opacities=torch.tensor([math.inf, -math.inf, 0, 0, 0]),
        log_scales=torch.full((5, 3), -math.inf),
    )
    assert checked("x", zero_and_one) is zero_and_one
    for name, value in (("means", math.inf), ("sh", math.nan), ("log_scales", math.inf), ("logit_opacities", math.nan)):
        values = getattr(cloud, name).clone()
        values[3:] = value
        with pytest.raises(StudioError, match=rf"x\.ply: the field '{name}' .* for 2 of 5 Gaussians \(first: 3\)"):
            checked("x.ply", replace(cloud, **{name: values}))


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match=r"absent: there is no such file"):
        read_whole(tmp_path / "absent")
    with pytest.raises(StudioError, match="is a folder, not a file"):
        read_whole(tmp_path)
