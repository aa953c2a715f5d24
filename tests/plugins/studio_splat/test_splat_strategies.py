"""Density control by statistics made by hand: who is cloned, split, pruned, moved, and that caps hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from splat_scenes import draw, make_camera, make_gaussians, ring_poses
from torch import Tensor

from studio_splat.strategy import AdaptiveStrategy, BudgetStrategy, Edit, McmcStrategy, RefineStats
from studio_splat.strategy.base import revised_opacity, rotation_matrices
from studio_splat.strategy.mcmc import MAX_COPIES, position_noise, split_in_place

HALF_TURN_Z = [math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]
"""A quarter turn about z: the Gaussian's x axis lies along world y."""


def make_params(opacities: list[float], sizes: list[float]) -> dict[str, Tensor]:
    """Gaussians along the x axis, thrice as long (`sizes`) as thick, their long axes along world y."""
    n = len(opacities)
    scales = torch.tensor(sizes)[:, None].log() + torch.tensor([0.0, -math.log(3), -math.log(3)])
    return {
        "means": torch.arange(n).float()[:, None] * torch.tensor([1.0, 0.0, 0.0]),
        "quats": torch.tensor(HALF_TURN_Z).repeat(n, 1),
        "scales": scales,
        "opacities": torch.tensor(opacities).logit(),
        "sh0": torch.arange(3 * n).float().view(n, 1, 3),
        "shN": torch.zeros(n, 3, 3),
    }


def make_stats(gradients: list[float], views: float = 4.0) -> RefineStats:
    sums = torch.tensor(gradients) * views
    return RefineStats(sums, torch.full_like(sums, views), torch.zeros_like(sums))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_whole(edit: Edit, parents: dict[str, Tensor]) -> None:
    """Every parameter has a row for each source, and sources exist."""
    assert {len(value) for value in edit.params.values()} == {len(edit.source)} == {len(edit.fresh)}
    assert int(edit.source.min()) >= 0
    assert int(edit.source.max()) < len(parents["means"])
    assert all(bool(value.isfinite().all()) for value in edit.params.values())


def test_mean_gradient_is_over_the_views_that_saw_it() -> None:
    stats = RefineStats(torch.tensor([6.0, 0.0]), torch.tensor([3.0, 0.0]), torch.zeros(2))
    assert stats.mean_grad.tolist() == [2.0, 0.0]


# ---- the paper's -----------------------------------------------------------------------------------------------------
def make_adaptive(**changes: Any) -> AdaptiveStrategy:
    values: dict[str, Any] = {"extent": 1.0, "total_steps": 30_000, "max_gaussians": 100, "grad_threshold": 2e-4}
    return AdaptiveStrategy(**{**values, **changes})


#                     quiet  cloned  split  faint  faint and moving
OPACITIES = [0.5, 0.5, 0.5, 0.004, 0.004]
SIZES = [0.5, 0.009, 0.011, 0.009, 0.5]
GRADIENTS = [1.9e-4, 2.1e-4, 2.1e-4, 1e-4, 9e-4]


def refined(strategy: AdaptiveStrategy, params: dict[str, Tensor] | None = None) -> Edit:
    params = params or make_params(OPACITIES, SIZES)
    edit = strategy.after_step(600, 0.02, params, make_stats(GRADIENTS), seeded())
    assert edit is not None
    assert_whole(edit, params)
    return edit


def test_adaptive_clones_small_splits_large_and_prunes_faint() -> None:
    params = make_params(OPACITIES, SIZES)
    edit = refined(make_adaptive())
    # Kept are the quiet and the cloned one; then the clone, then two halves of the split one.
    assert edit.source.tolist() == [0, 1, 1, 2, 2]
    assert edit.fresh.tolist() == [False, False, True, True, True]
    assert not edit.reset_opacity_moments
    for name, value in params.items():
        assert torch.equal(edit.params[name][:3], value[[0, 1, 1]]), name
    assert torch.allclose(edit.params["scales"][3:].exp(), params["scales"][2].exp() / 1.6)
    assert torch.equal(edit.params["opacities"][3:], params["opacities"][[2, 2]])
    offsets = edit.params["means"][3:] - params["means"][2]
    # A sample of the parent's own distribution: turned by its rotation, its x axis to world y.
    noise = torch.randn(1, 3, generator=seeded()) * params["scales"][2].exp()
    assert torch.allclose(offsets[0], torch.stack([-noise[0, 1], noise[0, 0], noise[0, 2]]), atol=1e-6)
    assert not torch.equal(offsets[0], offsets[1])


def test_split_children_follow_the_parent_s_distribution() -> None:
    n = 4000
    params = make_params([0.5] * n, [0.3] * n)
    params["means"] = torch.zeros(n, 3)
    strategy = make_adaptive(max_gaussians=3 * n)
    edit = strategy.after_step(600, 0.02, params, make_stats([1.0] * n), seeded())
    assert edit is not None
    assert len(edit.source) == 2 * n
    deviations = edit.params["means"].std(dim=0)
    assert torch.allclose(deviations, torch.tensor([0.1, 0.3, 0.1]), rtol=0.05)


def test_adaptive_prunes_huge_ones_only_after_a_reset() -> None:
    strategy = make_adaptive()
    assert 0 in refined(strategy).source.tolist()
    strategy._resets = 1
    assert 0 not in refined(strategy).source.tolist()


def test_revised_opacity_keeps_the_picture_of_clones() -> None:
    edit = refined(make_adaptive(use_revised_opacity=True))
    opacity = edit.params["opacities"].sigmoid()
    assert float(opacity[0]) == pytest.approx(0.5)
    # The clone and its original together let as much light through as the original alone did.
    assert float(1 - (1 - opacity[1]) * (1 - opacity[2])) == pytest.approx(0.5, abs=1e-6)
    assert opacity[3:].tolist() == pytest.approx([1 - math.sqrt(0.5)] * 2, abs=1e-6)


@given(st.floats(0.001, 0.999))
@settings(deadline=None)
def test_revised_opacity_of_two_copies(opacity: float) -> None:
    new = float(revised_opacity(torch.tensor([opacity], dtype=torch.float64).logit()).sigmoid())
    assert 1 - (1 - new) ** 2 == pytest.approx(opacity, abs=1e-5)


def test_adaptive_resets_opacities_on_schedule() -> None:
    strategy, params = make_adaptive(), make_params(OPACITIES, SIZES)
    assert not strategy.due(2_999, 0.0999)
    assert strategy.due(3_001, 0.1)
    edit = strategy.after_step(3_001, 0.1, params, make_stats(GRADIENTS), seeded())
    assert edit is not None
    assert edit.reset_opacity_moments
    assert edit.params["opacities"].sigmoid().tolist() == pytest.approx([0.01, 0.01, 0.01, 0.004, 0.004], abs=1e-6)
    assert edit.source.tolist() == [0, 1, 2, 3, 4]
    assert not edit.fresh.any()
    assert not strategy.due(3_002, 0.1001)
    again = make_adaptive()
    again.load_state(strategy.state())
    assert not again.due(3_002, 0.1001)
    assert not strategy.due(15_001, 0.5), "no reset once densification has ended"


def test_a_reset_does_not_cost_a_refinement() -> None:
    strategy, params = make_adaptive(), make_params(OPACITIES, SIZES)
    edit = strategy.after_step(3_100, 0.1, params, make_stats(GRADIENTS), seeded())
    assert edit is not None
    assert edit.source.tolist() == [0, 1, 1, 2, 2]
    assert edit.reset_opacity_moments
    assert float(edit.params["opacities"].sigmoid().max()) == pytest.approx(0.01, abs=1e-6)


def test_a_short_training_has_no_resets() -> None:
    assert make_adaptive(total_steps=5_000).due(501, 0.1)
    assert not make_adaptive(total_steps=4_900).due(491, 0.1)


def test_adaptive_keeps_to_its_interval() -> None:
    strategy = make_adaptive()
    assert [strategy.due(step, 0.05) for step in (1_500, 1_501, 1_550)] == [True, False, False]
    assert not strategy.due(400, 400 / 30_000), "not before a sixtieth"
    strategy._resets = 5
    assert not strategy.due(15_000, 0.5), "not after half"
    assert strategy.after_step(1_501, 0.05, make_params([0.5], [0.1]), make_stats([1.0]), seeded()) is None


def test_adaptive_densifies_the_highest_gradients_under_the_cap() -> None:
    params, gradients = make_params([0.5] * 6, [0.005] * 6), [3e-4, 8e-4, 5e-4, 9e-4, 1e-4, 4e-4]
    edit = make_adaptive(max_gaussians=8).after_step(600, 0.02, params, make_stats(gradients), seeded())
    assert edit is not None
    assert edit.source.tolist() == [0, 1, 2, 3, 4, 5, 1, 3]
    full = make_adaptive(max_gaussians=5).after_step(600, 0.02, params, make_stats(gradients), seeded())
    assert full is not None
    assert full.source.tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("strategy", [make_adaptive(), BudgetStrategy(extent=1.0, target=100, initial=3)], ids=str)
def test_nothing_is_pruned_when_everything_would_be(strategy: Any) -> None:
    params = make_params([0.001] * 3, [0.01] * 3)
    edit = strategy.after_step(600, 0.3, params, make_stats([1.0] * 3), seeded())
    if edit is not None:
        assert edit.source.tolist() == [0, 1, 2]


def test_all_may_be_split_at_once() -> None:
    params = make_params([0.5] * 3, [0.3] * 3)
    edit = make_adaptive().after_step(600, 0.02, params, make_stats([1.0] * 3), seeded())
    assert edit is not None
    assert edit.source.tolist() == [0, 1, 2, 0, 1, 2]


# ---- budget ----------------------------------------------------------------------------------------------------------
def test_budget_follows_its_curve_and_never_passes_the_cap() -> None:
    strategy = BudgetStrategy(extent=10.0, target=500, initial=60, refine_every=10)
    params = make_gaussians(60, sh_degree=1)
    generator = seeded(3)
    counts = [60]
    for step in range(1, 1001):
        progress = (step - 1) / 1000
        n = len(params["means"])
        if not strategy.due(step, progress):
            continue
        edit = strategy.after_step(
            step, progress, params, make_stats(torch.rand(n, generator=generator).tolist()), generator
        )
        assert edit is not None
        assert_whole(edit, params)
        params = edit.params
        counts.append(len(edit.source))
        assert counts[-1] <= strategy.count_at(progress)
        # Growth of one refinement is at most a doubling; after that, the curve is met.
        assert counts[-1] == min(strategy.count_at(progress), 2 * n)
    assert counts[-1] > 490
    assert max(counts) <= 500
    assert strategy.count_at(0.0) == 60
    assert strategy.count_at(1.0) == 500


def test_budget_splits_by_score_and_prunes_the_faint() -> None:
    params = make_params([0.5, 0.001, 0.5, 0.5], [0.1, 0.1, 0.1, 0.1])
    strategy = BudgetStrategy(extent=10.0, target=100, initial=4, start=0.0, stop=1.0, refine_every=1, growth=1.0)
    target = strategy.count_at(0.0105)
    assert target == 5
    edit = strategy.after_step(1, 0.0105, params, make_stats([1.0, 9.0, 3.0, 2.0]), seeded())
    assert edit is not None
    assert edit.source.tolist() == [0, 2, 3, 2, 3]
    assert edit.fresh.tolist() == [False, True, True, True, True]
    offsets = edit.params["means"][1:] - params["means"][[2, 3, 2, 3]]
    # Halves lie on either side along the long axis, world y.
    assert torch.equal(offsets[:, [0, 2]], torch.zeros(4, 2)) or float(offsets[:, [0, 2]].abs().max()) < 1e-7
    assert torch.allclose(offsets[:2], -offsets[2:], atol=1e-6)
    assert float(offsets[:, 1].abs().min()) > 0.01


def test_budget_follows_the_length_of_the_training() -> None:
    strategy = BudgetStrategy(extent=10.0, target=500, initial=60, per_step=0.1)
    for steps, count in [(1e9, 500), (2_000, 200), (10, 60)]:
        strategy.expect(steps)
        assert strategy.count_at(1.0) == count
    unlimited = BudgetStrategy(extent=10.0, target=500, initial=60)
    unlimited.expect(10)
    assert unlimited.count_at(1.0) == 500


def weighed(weight: list[float], pairs: list[float], views: list[float], tiles: float = 100.0) -> RefineStats:
    stats = RefineStats(torch.ones(len(views)), torch.tensor(views), torch.zeros(len(views)))
    stats.weight, stats.pairs, stats.tiles = torch.tensor(weight), torch.tensor(pairs), tiles
    return stats


def test_budget_moves_gaussians_that_show_next_to_nothing() -> None:
    strategy = BudgetStrategy(extent=10.0, target=5, initial=5, start=0.0, refine_every=1, prune_weight=0.1)
    params = make_params([0.5] * 5, [0.1] * 5)
    # Per view: 4, 0.1, 5, 0.1 and 0.2; the fourth was in view too rarely to be judged.
    stats = weighed([40.0, 1.0, 25.0, 0.4, 3.0], [10.0] * 5, [10.0, 10.0, 5.0, 4.0, 15.0])
    stats.grad_sum = torch.tensor([10.0, 1.0, 50.0, 1.0, 1.0])
    edit = strategy.after_step(1, 0.4, params, stats, seeded())
    assert edit is not None
    # Gaussians 1 and 4 make room for halves of the two that score highest.
    assert edit.source.tolist() == [3, 0, 2, 0, 2]
    assert_whole(edit, params)


def test_a_tile_budget_removes_what_shows_least_for_its_tiles() -> None:
    strategy = BudgetStrategy(extent=10.0, target=50, initial=4, start=0.0, refine_every=1, tile_budget=0.3)
    params = make_params([0.5] * 4, [0.1] * 4)
    # 40 pairs where 30 are allowed. Shown for each pair: 5, 0.5, 1 and 3.
    stats = weighed([50.0, 4.0, 10.0, 36.0], [10.0, 8.0, 10.0, 12.0], [10.0] * 4)
    edit = strategy.after_step(1, 0.4, params, stats, seeded())
    assert edit is not None
    assert edit.source.tolist() == [0, 3], "none is split while the budget is exceeded"
    within = strategy.after_step(1, 0.4, params, weighed([50.0, 4.0, 10.0, 36.0], [7.0] * 4, [10.0] * 4), seeded())
    assert within is not None
    assert set(within.source.tolist()) == {0, 1, 2, 3}


def test_weighing_takes_one_interval_at_a_time() -> None:
    strategy = BudgetStrategy(
        extent=10.0, target=3, initial=3, start=0.0, stop=0.8, refine_every=1, prune_weight=0.1, weigh_every=0.25
    )
    params, seen = make_params([0.5] * 3, [0.1] * 3), []
    for step, progress in enumerate((0.1, 0.25, 0.3, 0.4, 0.55, 0.6, 0.7), 1):
        counted = strategy.weighs(progress)
        seen.append(counted)
        stats = weighed([1.0] * 3, [1.0] * 3, [9.0] * 3) if counted else make_stats([1.0] * 3)
        strategy.after_step(step, progress, params, stats, seeded())
        again = BudgetStrategy(extent=10.0, target=3, initial=3, prune_weight=0.1)
        again.load_state(strategy.state())
        assert again.weighs(progress) == strategy.weighs(progress)
    # Due at 0.25 and 0.5: counted from the next refinement to the one after.
    assert seen == [False, False, True, False, False, True, False]
    assert not strategy.weighs(0.9)
    never = BudgetStrategy(extent=10.0, target=3, initial=3, start=0.0, refine_every=1)
    never.after_step(1, 0.5, params, make_stats([1.0] * 3), seeded())
    assert not never.weighs(0.5)


def test_budget_with_more_than_its_target_adds_none() -> None:
    strategy = BudgetStrategy(extent=10.0, target=3, initial=5)
    params = make_params([0.5] * 5, [0.1] * 5)
    edit = strategy.after_step(100, 0.3, params, make_stats([1.0] * 5), seeded())
    assert edit is None or len(edit.source) <= 5


def test_a_short_training_does_not_prune_below_what_it_began_with() -> None:
    strategy = BudgetStrategy(extent=10.0, target=60, initial=40, refine_every=1, per_step=0.1)
    strategy.expect(50)
    params = make_params([0.001 + 1e-5 * i for i in range(30)] + [0.5] * 10, [0.1] * 40)
    # Three quarters are faint, and no more than four of the others have moved.
    edit = strategy.after_step(1, 0.3, params, make_stats([0.0] * 36 + [1.0] * 4), seeded())
    assert edit is not None
    assert_whole(edit, params)
    assert len(edit.source) == 40
    # Four are split; of the faint ones the most opaque stay.
    assert sorted(set(edit.source.tolist())) == list(range(4, 40))


# ---- MCMC ------------------------------------------------------------------------------------------------------------
def test_mcmc_moves_the_dead_onto_the_living_and_grows_to_its_cap() -> None:
    strategy = McmcStrategy(max_gaussians=45, refine_every=1)
    params = make_gaussians(40)
    params["opacities"][[3, 7]] = math.log(0.004 / 0.996)
    edit = strategy.after_step(1, 0.3, params, make_stats([0.0] * 40), seeded())
    assert edit is not None
    assert_whole(edit, params)
    assert len(edit.source) == 42
    assert 3 not in edit.source.tolist()
    assert 7 not in edit.source.tolist()
    moved = edit.fresh.nonzero()[:, 0].tolist()
    assert {3, 7, 40, 41} <= set(moved)
    # Copies lie where their source was; the source shares its opacity with them and starts anew as well.
    for i in moved:
        assert torch.equal(edit.params["means"][i], params["means"][edit.source[i]])
        assert edit.params["opacities"][i] < params["opacities"][edit.source[i]]
    untouched = (~edit.fresh).nonzero()[:, 0]
    for name, value in params.items():
        assert torch.equal(edit.params[name][untouched], value[edit.source[untouched]]), name
    for _ in range(5):
        edit = strategy.after_step(1, 0.3, edit.params, make_stats([0.0] * len(edit.source)), seeded()) or edit
    assert len(edit.source) == 45


def test_mcmc_at_its_cap_without_dead_ones_changes_nothing() -> None:
    params = make_gaussians(40)
    strategy = McmcStrategy(max_gaussians=40, refine_every=1)
    assert strategy.after_step(1, 0.3, params, make_stats([0.0] * 40), seeded()) is None
    params["opacities"][:] = -20.0
    assert strategy.after_step(1, 0.3, params, make_stats([0.0] * 40), seeded()) is None


@given(
    st.floats(0.01, 0.995), st.integers(1, MAX_COPIES), st.tuples(*[st.floats(-6.0, 1.0)] * 3)
)  # fmt: skip
@settings(deadline=None)
def test_split_in_place_is_the_paper_s_double_sum(opacity: float, copies: int, scales: tuple[float, ...]) -> None:
    logits = torch.tensor([opacity], dtype=torch.float64).logit()
    log_scales = torch.tensor([scales], dtype=torch.float64)
    new_logits, new_scales = split_in_place(logits, log_scales, torch.tensor([copies]))
    new = 1 - (1 - opacity) ** (1 / copies)
    assert float(new_logits.sigmoid()) == pytest.approx(max(new, 1e-7), rel=1e-6)
    total = math.fsum(
        math.comb(i - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1)
        for i in range(1, copies + 1)
        for k in range(i)
    )
    assert torch.allclose(new_scales, log_scales + math.log(opacity / total), atol=1e-6)


@pytest.mark.parametrize(("opacity", "copies"), [(0.3, 2), (0.9, 2), (0.6, 7), (0.95, 30)])
def test_split_in_place_keeps_the_light_along_a_line(opacity: float, copies: int) -> None:
    """What eq. 9 preserves: the integral of the alpha of all copies together along a line through the centre."""
    logits = torch.tensor([opacity], dtype=torch.float64).logit()
    new_logits, log_factor = split_in_place(logits, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([copies]))
    x = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    before = opacity * torch.exp(-0.5 * x.square())
    after = 1 - (1 - new_logits.sigmoid() * torch.exp(-0.5 * (x / log_factor[0, 0].exp()).square())) ** copies
    assert float(torch.trapezoid(after, x)) == pytest.approx(float(torch.trapezoid(before, x)), rel=1e-6)
    assert float(after.max()) == pytest.approx(opacity, abs=1e-7)


@pytest.mark.parametrize(("opacity", "copies", "apart"), [(0.3, 2, 0.01), (0.6, 3, 0.02), (0.9, 2, 0.045)])
def test_split_in_place_nearly_keeps_the_rendered_picture(opacity: float, copies: int, apart: float) -> None:
    """The peak is kept; the flanks differ a little, the more so the more opaque; plain copies differ a lot."""
    camera = make_camera(ring_poses(1)[0].float(), width=48, height=48)
    single = make_gaussians(1, sh_degree=0, size=0.4)
    single["means"][:] = 0
    single["opacities"][:] = math.log(opacity / (1 - opacity))
    plain = {name: value.repeat(copies, *[1] * (value.dim() - 1)) for name, value in single.items()}
    logits, scales = split_in_place(plain["opacities"], plain["scales"], torch.full((copies,), copies))
    before, after, wrong = (
        draw(p, camera)[1] for p in (single, {**plain, "opacities": logits, "scales": scales}, plain)
    )
    assert float(after.max()) == pytest.approx(float(before.max()), abs=1e-3)
    assert float((after - before).abs().max()) < apart
    assert float((wrong - before).abs().max()) > 0.2


def test_position_noise_has_the_stated_covariance() -> None:
    n = 20_000
    one = make_gaussians(1, seed=2)
    one["opacities"][:] = math.log(0.008 / 0.992)
    params = {name: value.repeat(n, *[1] * (value.dim() - 1)) for name, value in one.items()}
    noise = position_noise(params, 3.0, seeded(1)).double()
    rotation = rotation_matrices(one["quats"].double())[0]
    covariance = rotation @ torch.diag(one["scales"][0].double().exp() ** 2) @ rotation.T
    gate = 3.0 / (1 + math.exp(100 * (0.008 - 0.005)))
    expected = gate**2 * covariance @ covariance
    found = noise.T @ noise / n
    assert float((found - expected).abs().max()) < 0.04 * float(expected.diagonal().max())
    assert float(noise.mean(dim=0).abs().max()) < 4 * math.sqrt(float(expected.diagonal().max()) / n)
