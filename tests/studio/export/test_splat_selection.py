"""Crop, opacity threshold, lower degree and decimation of a cloud."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gaussian_clouds import ball_cloud, picture

from studio.errors import StudioError
from studio.export.splat_selection import SplatSelection, contribution
from studio.metrics import psnr


def test_each_operation_by_its_definition() -> None:
    cloud = ball_cloud(400)
    boxed = SplatSelection(crop=(-0.5, -0.5, 0, 0.5, 0.5, 9)).apply(cloud)
    inside = (cloud.means[:, :2].abs() <= 0.5).all(dim=1) & (cloud.means[:, 2] >= 0)
    assert torch.equal(boxed.means, cloud.means[inside])
    assert 0 < len(boxed) < 400
    solid = SplatSelection(min_opacity=0.7).apply(cloud)
    assert torch.equal(solid.quats, cloud.quats[cloud.logit_opacities.sigmoid() >= 0.7])
    plain = SplatSelection(sh_degree=1).apply(cloud)
    assert torch.equal(plain.sh, cloud.sh[:, :4])
    assert SplatSelection(sh_degree=4).apply(cloud).sh_degree == 3
    same = SplatSelection().apply(cloud)
    assert same is cloud


def test_contribution_is_opacity_times_the_mean_shadow() -> None:
    cloud = ball_cloud(3, 0)
    # A sphere's shadow is a circle; a long needle's is a quarter of its surface, pi a c times pi / 4 each way.
    scales = torch.tensor([[2.0, 2.0, 2.0], [2.0, 2.0, 2.0], [1e-6, 1.0, 1.0]])
    cloud = replace(cloud, log_scales=scales.log(), logit_opacities=torch.tensor([20.0, 0.0, 20.0]))
    value = contribution(cloud).exp()
    assert float(value[0] / value[1]) == pytest.approx(2, rel=1e-6)
    # A disc is two circles of surface, a quarter of which is half a circle; a sphere of radius 2 shows 4 circles.
    assert float(value[0] / value[2]) == pytest.approx(8, rel=0.012)
    zero = replace(cloud, log_scales=torch.full((3, 3), -math.inf))
    assert bool((contribution(zero) == -math.inf).all())


def test_decimation_keeps_what_shows_most_in_order() -> None:
    cloud = ball_cloud(1000, 1)
    few = SplatSelection(max_gaussians=300).apply(cloud)
    assert len(few) == 300
    least = contribution(few).min()
    assert int((contribution(cloud) >= least).sum()) == 300
    rows = [(cloud.means == mean).all(dim=1).nonzero().item() for mean in few.means[:20]]
    assert rows == sorted(rows)
    assert torch.equal(SplatSelection(max_gaussians=300).apply(cloud).means, few.means)
    # Better than as many at random.
    random = cloud.select(torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:300])
    whole = picture(cloud)
    assert float(psnr(picture(few), whole)) > float(psnr(picture(random), whole)) + 1.5
    assert SplatSelection(max_gaussians=1000).apply(cloud) is cloud


def test_operations_work_on_what_the_earlier_left() -> None:
    cloud = ball_cloud(500)
    both = SplatSelection((-1, -1, -1, 1, 1, 0), 0.5, 0, 50).apply(cloud)
    assert (len(both), both.sh_degree) == (50, 0)
    assert float(both.means[:, 2].max()) <= 0
    assert float(both.logit_opacities.min()) >= 0


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        (SplatSelection(crop=(0, 0, 0, 1, 1, 0)), "--crop: the box .* has no volume"),
        (SplatSelection(crop=(9, 9, 9, 10, 10, 10)), "--crop: none of 20 Gaussians remains"),
        (SplatSelection(min_opacity=1.5), "--min-opacity: 1.5 is not between 0 and 1"),
        (SplatSelection(min_opacity=math.nan), "--min-opacity: nan is not between"),
        (SplatSelection(min_opacity=1.0), "--min-opacity: none of 20"),
        (SplatSelection(sh_degree=5), "--sh-degree: 5 is not between 0 and 4"),
        (SplatSelection(sh_degree=-1), "--sh-degree: -1"),
        (SplatSelection(max_gaussians=0), "--max-gaussians: 0 is too few"),
    ],
)
def test_impossible_wishes(selection: SplatSelection, words: str) -> None:
    with pytest.raises(StudioError, match=words):
        selection.apply(ball_cloud(20, 0))
