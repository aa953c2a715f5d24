"""The games by hand: every loss at given logits, their slopes, weight clipping, and the gradient penalty."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from studio_gan.losses import clip_weights, discriminator_loss, generator_loss, gradient_penalty

REAL, FAKE = torch.tensor([0.0, 2.0]), torch.tensor([-1.0, 0.5])


def p(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def test_minimax_and_non_saturating_by_hand() -> None:
    seen = -(math.log(p(0.0)) + math.log(p(2.0))) / 2 - (math.log(1 - p(-1.0)) + math.log(1 - p(0.5))) / 2
    for kind in ("minimax", "non-saturating"):
        assert float(discriminator_loss(kind, REAL, FAKE)) == pytest.approx(seen)
    saturating = (math.log(1 - p(-1.0)) + math.log(1 - p(0.5))) / 2
    assert float(generator_loss("minimax", FAKE)) == pytest.approx(saturating)
    not_saturating = -(math.log(p(-1.0)) + math.log(p(0.5))) / 2
    assert float(generator_loss("non-saturating", FAKE)) == pytest.approx(not_saturating)


def test_smoothing_moves_the_target_of_real_samples_only() -> None:
    smoothed = -(0.9 * math.log(p(2.0)) + 0.1 * math.log(1 - p(2.0))) - math.log(1 - p(0.5))
    loss = discriminator_loss("non-saturating", REAL[1:], FAKE[1:], label_smoothing=0.9)
    assert float(loss) == pytest.approx(smoothed)
    # The best logit for real samples is where p = 0.9; for fakes it stays at −∞.
    real = torch.tensor([math.log(9.0)], requires_grad=True)
    fake = torch.tensor([-3.0], requires_grad=True)
    discriminator_loss("minimax", real, fake, label_smoothing=0.9).backward()
    assert float(real.grad) == pytest.approx(0.0, abs=1e-7)
    assert float(fake.grad) == pytest.approx(p(-3.0))


def test_wasserstein_and_hinge_by_hand() -> None:
    for kind in ("wasserstein", "wgan-gp"):
        assert float(discriminator_loss(kind, REAL, FAKE)) == pytest.approx(-0.25 - 1.0)
        assert float(generator_loss(kind, FAKE)) == pytest.approx(0.25)
    # Real: max(0, 1 − 0), max(0, 1 − 2); fake: max(0, 1 − 1), max(0, 1 + 0.5).
    assert float(discriminator_loss("hinge", REAL, FAKE)) == pytest.approx(0.5 + 0.75)
    assert float(generator_loss("hinge", FAKE)) == pytest.approx(0.25)


def test_equilibrium_of_the_logistic_games() -> None:
    undecided = torch.zeros(8)
    assert float(discriminator_loss("minimax", undecided, undecided)) == pytest.approx(2 * math.log(2))
    assert float(generator_loss("non-saturating", undecided)) == pytest.approx(math.log(2))


def test_only_the_minimax_generator_saturates() -> None:
    slopes = {}
    for kind in ("minimax", "non-saturating"):
        fake = torch.tensor([-20.0], requires_grad=True)
        generator_loss(kind, fake).backward()
        slopes[kind] = abs(float(fake.grad))
    assert slopes["minimax"] < 1e-8
    assert slopes["non-saturating"] == pytest.approx(1.0)


@settings(deadline=None, max_examples=25)
@given(logit=st.floats(-1e4, 1e4))
@pytest.mark.parametrize("kind", ["minimax", "non-saturating", "wasserstein", "hinge"])
def test_losses_stay_finite(kind: str, logit: float) -> None:
    x = torch.tensor([logit])
    assert math.isfinite(float(discriminator_loss(kind, x, -x, 0.9)))
    assert math.isfinite(float(generator_loss(kind, x)))


def test_unknown_games_are_told() -> None:
    with pytest.raises(ValueError, match="kind"):
        discriminator_loss("chess", REAL, FAKE)
    with pytest.raises(ValueError, match="kind"):
        generator_loss("chess", FAKE)


def test_clipping_bounds_every_weight() -> None:
    network = nn.Linear(30, 30)
    nn.init.normal_(network.weight)
    signs = network.weight.sign()
    clip_weights(network.parameters(), 0.01)
    assert float(network.weight.detach().abs().max()) == pytest.approx(0.01)
    assert torch.equal(network.weight.sign(), signs)


@settings(deadline=None, max_examples=25)
@given(slope=st.lists(st.floats(-3, 3), min_size=3, max_size=3), share=st.floats(0, 1))
def test_the_penalty_of_a_linear_critic_is_its_slope(slope: list[float], share: float) -> None:
    w = torch.tensor(slope, dtype=torch.float64)
    real, fake = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    # f(x) = wᵀx + 2 has the gradient w everywhere.
    penalty = gradient_penalty(lambda x: x @ w + 2, real, fake, torch.full((5,), share, dtype=torch.float64))
    assert penalty.item() == pytest.approx((float(w.norm()) - 1) ** 2, rel=1e-6, abs=1e-6)


def test_the_penalty_is_taken_between_real_and_fake() -> None:
    # f(x) = ½‖x‖² has the gradient x, so the penalty shows where it was taken.
    real, fake = torch.full((2, 1, 1, 1), 4.0), torch.full((2, 1, 1, 1), 2.0)
    shares = torch.tensor([0.25, 1.0])
    penalty = gradient_penalty(lambda x: 0.5 * x.square().flatten(1).sum(1), real, fake, shares)
    # At 0.25 · 4 + 0.75 · 2 = 2.5 and at 4.
    assert penalty.item() == pytest.approx(((2.5 - 1) ** 2 + (4 - 1) ** 2) / 2)


def test_the_penalty_trains_the_critic() -> None:
    critic = nn.Linear(3, 1, bias=False)
    x = torch.randn(4, 3)
    gradient_penalty(lambda v: critic(v).squeeze(1), x, -x, torch.rand(4)).backward()
    w = critic.weight.detach()[0]
    # d/dw (‖w‖ − 1)² = 2 (‖w‖ − 1) w / ‖w‖
    torch.testing.assert_close(critic.weight.grad[0], 2 * (w.norm() - 1) * w / w.norm())
