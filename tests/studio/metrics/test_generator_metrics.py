"""Formulas of the generators' figures against closed forms, brute force and published examples."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.metrics.attributes import asked_and_seen, score_captions
from studio.metrics.bleu import corpus_bleu
from studio.metrics.frechet import fid, frechet_distance, gaussian_of
from studio.metrics.kernel_distance import cubic_mmd2, kid
from studio.metrics.manifold import manifold_scores
from studio.metrics.transport import sliced_wasserstein, wasserstein_1d


def test_frechet_distance_of_commuting_gaussians() -> None:
    # Diagonal covariances: the sum of (m_a - m_b)^2 + (s_a - s_b)^2.
    mean_a, mean_b = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.0, 2.0, -3.0])
    a, b = torch.tensor([1.0, 4.0, 9.0]), torch.tensor([16.0, 1.0, 0.0])
    expected = 1 + 9 + (1 - 4) ** 2 + (2 - 1) ** 2 + (3 - 0) ** 2
    found = frechet_distance(mean_a, torch.diag(a), mean_b, torch.diag(b))
    assert found == pytest.approx(expected, rel=1e-9)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    turned = [turn @ torch.diag(v.double()) @ turn.T for v in (a, b)]
    found = frechet_distance(turn @ mean_a.double(), turned[0], turn @ mean_b.double(), turned[1])
    assert found == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    # tr (A B)^1/2 of 2x2 matrices is sqrt(tr AB + 2 sqrt(det A det B)).
    a = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    b = torch.tensor([[5.0, -2.0], [-2.0, 1.0]], dtype=torch.float64)
    overlap = math.sqrt(float((a @ b).trace()) + 2 * math.sqrt(5.0 * 1.0))
    expected = 5 + 6 - 2 * overlap
    zero = torch.zeros(2)
    assert frechet_distance(zero, a, zero, b) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(zero, b, zero, a) == pytest.approx(expected, rel=1e-9)


def test_fid_of_a_set_with_itself_and_of_fewer_samples_than_dimensions() -> None:
    x = torch.randn(5, 20, generator=torch.Generator().manual_seed(1))
    assert fid(x, x) == pytest.approx(0, abs=1e-9)
    assert fid(x, x + 1) == pytest.approx(20, rel=1e-6)


def test_covariance_is_unbiased() -> None:
    mean, covariance = gaussian_of(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    assert mean.tolist() == [1.0, 3.0]
    assert covariance.tolist() == [[2.0, 4.0], [4.0, 8.0]]
    with pytest.raises(ValueError, match="n >= 2"):
        gaussian_of(torch.zeros(1, 2))


def test_kid_by_brute_force() -> None:
    draw = torch.Generator().manual_seed(2)
    x, y = torch.randn(6, 4, generator=draw), torch.randn(5, 4, generator=draw) + 0.5

    def k(a: torch.Tensor, b: torch.Tensor) -> float:
        return (float(a.double() @ b.double()) / 4 + 1) ** 3

    xx = sum(k(x[i], x[j]) for i, j in product(range(6), repeat=2) if i != j) / 30
    yy = sum(k(y[i], y[j]) for i, j in product(range(5), repeat=2) if i != j) / 20
    xy = sum(k(a, b) for a, b in product(x, y)) / 30
    assert cubic_mmd2(x, y) == pytest.approx(xx + yy - 2 * xy, rel=1e-9)
    # Subsets as large as the smaller side: of y all, of x five of the six.
    value = kid(x, y, subsets=40, subset_size=100, seed=1)
    assert value.value == pytest.approx(xx + yy - 2 * xy, abs=4 * value.error + 1e-9)


def test_kid_is_unbiased_around_zero() -> None:
    draw = torch.Generator().manual_seed(3)
    values = [cubic_mmd2(torch.randn(20, 3, generator=draw), torch.randn(20, 3, generator=draw)) for _ in range(200)]
    spread = torch.tensor(values)
    assert abs(float(spread.mean())) < 4 * float(spread.std()) / math.sqrt(200)


def test_precision_recall_density_coverage_of_a_hand_made_set() -> None:
    # Real points 0, 1, 2, 3 on a line: with k = 1 all balls have radius 1; generated 0.5, 0.6, 10, 10.5.
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    generated = torch.tensor([[0.5], [0.6], [10.0], [10.5]])
    scores = manifold_scores(real, generated, k_precision=1, k_density=1)
    assert scores.precision == 0.5
    # Balls of the generated: radius 0.1 around 0.5 and 0.6, 0.5 around 10 and 10.5.
    assert scores.recall == 0.0
    # 0.5 and 0.6 lie in the balls of 0 and 1 each: 4 memberships over 4 samples.
    assert scores.density == 1.0
    assert scores.coverage == 0.5


def test_a_generator_that_repeats_one_sample_has_no_recall_and_little_coverage() -> None:
    real = torch.randn(200, 2, generator=torch.Generator().manual_seed(4))
    collapsed = manifold_scores(real, real[:1] + 1e-4 * torch.randn(200, 2, generator=torch.Generator().manual_seed(5)))
    assert collapsed.precision == 1.0
    assert collapsed.recall < 0.02
    assert collapsed.coverage < 0.1
    same = manifold_scores(real, torch.randn(200, 2, generator=torch.Generator().manual_seed(6)))
    assert min(same) > 0.8
    with pytest.raises(ValueError, match="samples are needed"):
        manifold_scores(real[:5], real)


def test_wasserstein_of_two_samples_of_unequal_size() -> None:
    # Quantiles: a is 0 then 3 (halves); b is 0, 0, 6 (thirds). Differences: 0 on [0, 1/2], 3 on [1/2, 2/3], -3 on the
    # last third: 9 / 6 + 9 / 3.
    a, b = torch.tensor([[3.0], [0.0]]), torch.tensor([[0.0], [6.0], [0.0]])
    assert float(wasserstein_1d(a, b)) == pytest.approx(9 / 6 + 9 / 3, rel=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.floats(-3, 3), st.floats(-3, 3))
def test_sliced_wasserstein_of_a_shifted_set(dx: float, dy: float) -> None:
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    # Over all directions the mean of (d . u)^2 is |d|^2 / 2.
    found = sliced_wasserstein(x, x + torch.tensor([dx, dy], dtype=torch.float64), directions=4000)
    assert found == pytest.approx(math.hypot(dx, dy) / math.sqrt(2), rel=0.05, abs=1e-9)


def test_bleu_of_the_examples_in_the_paper() -> None:
    # Papineni et al. 2002, section 2: clipped unigram precision of "the the the ..." is 2/7.
    cat = ["the", "cat", "is", "on", "the", "mat"]
    assert corpus_bleu(
        [["the"] * 7], [[cat, ["there", "is", "a", "cat", "on", "the", "mat"]]], order=1
    ) == pytest.approx(2 / 7)
    references = [
        [
            "it",
            "is",
            "a",
            "guide",
            "to",
            "action",
            "that",
            "ensures",
            "that",
            "the",
            "military",
            "will",
            "forever",
            "heed",
            "party",
            "commands",
        ],
        [
            "it",
            "is",
            "the",
            "guiding",
            "principle",
            "which",
            "guarantees",
            "the",
            "military",
            "forces",
            "always",
            "being",
            "under",
            "the",
            "command",
            "of",
            "the",
            "party",
        ],
        [
            "it",
            "is",
            "the",
            "practical",
            "guide",
            "for",
            "the",
            "army",
            "always",
            "to",
            "heed",
            "the",
            "directions",
            "of",
            "the",
            "party",
        ],
    ]
    first = [
        "it",
        "is",
        "a",
        "guide",
        "to",
        "action",
        "which",
        "ensures",
        "that",
        "the",
        "military",
        "always",
        "obeys",
        "the",
        "commands",
        "of",
        "the",
        "party",
    ]
    second = [
        "it",
        "is",
        "to",
        "insure",
        "the",
        "troops",
        "forever",
        "hearing",
        "the",
        "activity",
        "guidebook",
        "that",
        "party",
        "direct",
    ]
    assert corpus_bleu([first], [references], order=1) == pytest.approx(17 / 18)
    assert corpus_bleu([second], [references], order=1) == pytest.approx(8 / 14 * math.exp(1 - 16 / 14))
    # Bigrams: 10 of 17 and 1 of 13.
    assert corpus_bleu([first], [references], order=2) == pytest.approx(math.sqrt(17 / 18 * 10 / 17))
    assert corpus_bleu([second], [references]) == 0.0


def test_bleu_penalises_short_sentences() -> None:
    right = ["one", "two", "three", "four", "five", "six"]
    assert corpus_bleu([right], [[right]]) == 1.0
    assert corpus_bleu([right[:5]], [[right]]) == pytest.approx(math.exp(1 - 6 / 5))
    with pytest.raises(ValueError, match="as many"):
        corpus_bleu([], [])


def test_captions_are_scored_by_attribute() -> None:
    truth = "a small red metal cube left of a large blue sphere"
    perfect = score_captions([truth], [truth])
    assert all(value == 1.0 for value in vars(perfect).values())
    # The other way round is just as true.
    turned = score_captions(["a large blue sphere right of a small red metal cube"], [truth])
    assert (turned.relation, turned.shape_and_color, turned.exact) == (1.0, 1.0, 0.0)
    wrong = score_captions(["a small green cube right of a large blue sphere"], [truth])
    assert (wrong.shape, wrong.color, wrong.material, wrong.size) == (1.0, 0.5, 0.5, 1.0)
    assert (wrong.relation, wrong.shape_and_color) == (0.0, 0.5)
    missing = score_captions(["a large blue sphere"], [truth])
    assert (missing.shape, missing.color, missing.count, missing.relation) == (0.5, 0.5, 0.0, 0.0)
    assert score_captions(["words of no meaning"], [truth]).shape == 0.0


def test_samples_read_back() -> None:
    assert asked_and_seen(["a red cube"], ["a small red metal cube left of a large blue sphere"]) == 1.0
    assert asked_and_seen(["a red cube", "a cone"], ["a small blue cube", "a large white cone"]) == 0.5
