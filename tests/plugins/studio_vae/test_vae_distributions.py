"""Closed forms of the VAE against torch.distributions, numerical integrals and exact likelihoods."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from studio_vae.distributions import (
    bernoulli_log_prob,
    gaussian_log_prob,
    kl_to_standard_normal,
    log_mean_exp,
    reparameterise,
)
from studio_vae.vae import elbo_terms, importance_weighted_bound


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_kl_by_hand() -> None:
    # ½ (1² + 4 − 1 − ln 4) + ½ (0 + 1 − 1 − 0)
    kl = kl_to_standard_normal(torch.tensor([[1.0, 0.0]]), torch.tensor([[math.log(2.0), 0.0]]))
    assert kl.tolist() == pytest.approx([0.5 * (4 - math.log(4))])


def test_kl_agrees_with_torch_distributions() -> None:
    mean, log_std = normal(7, 5), normal(7, 5, seed=1)
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_std), expected)


@settings(deadline=None, max_examples=30)
@given(mean=st.floats(-3, 3), log_std=st.floats(-1.5, 1.0))
def test_kl_is_the_integral(mean: float, log_std: float) -> None:
    std = math.exp(log_std)
    z = torch.linspace(mean - 12 * std, mean + 12 * std, 20_001, dtype=torch.float64)
    q = Normal(*(torch.tensor(value, dtype=torch.float64) for value in (mean, std))).log_prob(z)
    integral = torch.trapezoid(q.exp() * (q - Normal(0.0, 1.0).log_prob(z)), z)
    mine = kl_to_standard_normal(*(torch.tensor([[value]], dtype=torch.float64) for value in (mean, log_std)))
    assert float(mine) == pytest.approx(float(integral), rel=1e-6, abs=1e-9)
    assert float(mine) > -1e-12


def test_likelihoods_are_sums_over_pixels() -> None:
    x, y = torch.rand(3, 2, 4, 4).double(), normal(3, 2, 4, 4)
    torch.testing.assert_close(gaussian_log_prob(x, y, math.log(0.1)), Normal(y, 0.1).log_prob(x).flatten(1).sum(1))
    bits = (x > 0.5).double()
    torch.testing.assert_close(bernoulli_log_prob(bits, y), Bernoulli(logits=y).log_prob(bits).flatten(1).sum(1))
    # Grey values: the mean over black-and-white pictures drawn with those probabilities, exact for one pixel.
    grey, logit = torch.tensor([[0.3]]), torch.tensor([[1.2]])
    expected = 0.3 * Bernoulli(logits=logit).log_prob(torch.ones(1)) + 0.7 * Bernoulli(logits=logit).log_prob(
        torch.zeros(1)
    )
    assert float(bernoulli_log_prob(grey, logit)) == pytest.approx(float(expected))


def test_reparameterised_draws_have_the_moments() -> None:
    mean, log_std = torch.full((100_000, 1), 2.0), torch.full((100_000, 1), math.log(0.5))
    z = reparameterise(mean, log_std, normal(100_000, 1).float())
    assert float(z.mean()) == pytest.approx(2.0, abs=0.01)
    assert float(z.std()) == pytest.approx(0.5, abs=0.01)


def test_log_mean_exp_does_not_overflow() -> None:
    values = torch.tensor([[1000.0], [1000.0 + math.log(3.0)]])
    assert float(log_mean_exp(values)) == pytest.approx(1000 + math.log(2.0))


class LinearGaussian:
    """z ~ N(0, I), x = W z + b + N(0, s² I): its likelihood and posterior are known exactly."""

    def __init__(self, latent: int = 2, data: int = 4, std: float = 0.7) -> None:
        self.w, self.b, self.std = normal(data, latent, seed=3), normal(data, seed=4), std
        self.precision = torch.eye(latent).double() + self.w.T @ self.w / std**2

    def log_prob(self, x: Tensor) -> Tensor:
        covariance = self.w @ self.w.T + self.std**2 * torch.eye(len(self.b)).double()
        return MultivariateNormal(self.b, covariance).log_prob(x)

    def log_prob_given(self, x: Tensor, z: Tensor) -> Tensor:
        return gaussian_log_prob(x, z @ self.w.T + self.b, math.log(self.std))

    def posterior_mean(self, x: Tensor) -> Tensor:
        return torch.linalg.solve(self.precision, self.w.T @ (x - self.b).T / self.std**2).T


@pytest.fixture
def linear() -> LinearGaussian:
    return LinearGaussian()


def mean_elbo(model: LinearGaussian, x: Tensor, mean: Tensor, log_std: Tensor, draws: int = 2000) -> Tensor:
    terms = [
        elbo_terms(mean, log_std, normal(*mean.shape, seed=100 + k), lambda z: model.log_prob_given(x, z))
        for k in range(draws)
    ]
    return torch.stack([log_prob - kl for log_prob, kl in terms]).mean(0)


def test_elbo_is_below_the_exact_log_likelihood(linear: LinearGaussian) -> None:
    x = normal(5, 4, seed=5)
    exact = linear.log_prob(x)
    for shift, log_std in ((0.0, -0.5), (0.3, -1.0), (-1.0, 0.2)):
        mean = linear.posterior_mean(x) + shift
        elbo = mean_elbo(linear, x, mean, torch.full_like(mean, log_std), draws=500)
        assert (elbo < exact).all()


def test_elbo_misses_the_log_likelihood_by_the_kl_to_the_posterior(linear: LinearGaussian) -> None:
    x = normal(3, 4, seed=6)
    mean, log_std = linear.posterior_mean(x) + 0.2, torch.full((3, 2), -0.8).double()
    covariance = torch.linalg.inv(linear.precision)
    q = MultivariateNormal(mean, torch.diag_embed((2 * log_std).exp()))
    gap = kl_divergence(q, MultivariateNormal(linear.posterior_mean(x), covariance.expand(3, 2, 2)))
    torch.testing.assert_close(linear.log_prob(x) - mean_elbo(linear, x, mean, log_std), gap, rtol=0.05, atol=0.03)


def test_elbo_is_exact_at_the_posterior() -> None:
    # One latent number, so that the posterior is diagonal: every single draw of the IW weight is p(x).
    model = LinearGaussian(latent=1)
    x = normal(5, 4, seed=7)
    mean = model.posterior_mean(x)
    log_std = torch.full((5, 1), -0.5 * math.log(float(model.precision))).double()
    bound = importance_weighted_bound(mean, log_std, [normal(5, 1, seed=8)], lambda z: model.log_prob_given(x, z))
    torch.testing.assert_close(bound, model.log_prob(x))


def test_importance_weights_tighten_the_bound(linear: LinearGaussian) -> None:
    x = normal(40, 4, seed=9)
    mean, log_std = linear.posterior_mean(x) + 0.3, torch.full((40, 2), -0.3).double()
    exact = linear.log_prob(x).mean()

    def bound(draws: int) -> Tensor:
        noises = [normal(40, 2, seed=1000 + k) for k in range(draws)]
        return importance_weighted_bound(mean, log_std, noises, lambda z: linear.log_prob_given(x, z)).mean()

    few, some, many = bound(1), bound(10), bound(2000)
    assert few < some < many
    assert float(many) == pytest.approx(float(exact), abs=0.02)
