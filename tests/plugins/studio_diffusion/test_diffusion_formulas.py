"""The forward process, its inverse and the samplers: closed forms, and the schedulers of another library."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from studio_diffusion.samplers import ddim_step, denoise, invert, posterior, visited_levels
from studio_diffusion.schedule import NoiseSchedule, Prediction, betas, draw_levels

T = 50


def levels(*values: int) -> Tensor:
    return torch.tensor(values)


def test_linear_betas_are_those_of_the_paper() -> None:
    beta = betas("linear", 1000)
    assert beta[0].item() == pytest.approx(1e-4)
    assert beta[-1].item() == pytest.approx(0.02)
    assert beta[1].item() == pytest.approx(1e-4 + (0.02 - 1e-4) / 999)
    # Another number of levels adds about as much noise in all: ln ᾱ_T ≈ −Σβ.
    assert betas("linear", 500).sum().item() == pytest.approx(beta.sum().item(), rel=1e-3)


def test_cosine_alpha_bar_by_hand() -> None:
    schedule = NoiseSchedule("cosine", 100)

    def f(t: float) -> float:
        return math.cos((t / 100 + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 10, 49, 98):
        assert schedule.alpha_bar[t].item() == pytest.approx(f(t + 1) / f(0), rel=1e-4)
    # The last level would leave no signal at all; its β is capped.
    assert schedule.alpha_bar[99].item() == pytest.approx(schedule.alpha_bar[98].item() * 1e-3, rel=1e-3)


@pytest.mark.parametrize("bad", [("linear", 1), ("cosine", 0), ("quadratic", 10)])
def test_schedules_that_do_not_exist(bad: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match=r"timesteps|schedule"):
        betas(*bad)


def test_noise_has_the_moments_of_eq_4() -> None:
    schedule = NoiseSchedule("linear", T)
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0))
    x = schedule.add_noise(torch.full_like(noise, 3.0), noise, torch.full((200_000,), 20))
    a = schedule.alpha_bar[20]
    assert x.mean().item() == pytest.approx(3 * a.sqrt().item(), abs=5e-3)
    assert x.var().item() == pytest.approx(1 - a.item(), rel=1e-2)


@pytest.mark.parametrize("kind", ["noise", "x0", "v"])
def test_a_perfect_prediction_gives_signal_and_noise_back(kind: Prediction) -> None:
    schedule = NoiseSchedule("cosine", T)
    g = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(4, 3, 5, generator=g), torch.randn(4, 3, 5, generator=g)
    t = levels(0, 10, 30, 40)
    x = schedule.add_noise(x0, noise, t)
    signal, rest = schedule.split(x, schedule.target(x0, noise, t, kind), t, kind)
    torch.testing.assert_close(signal, x0, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(rest, noise, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", ["noise", "x0", "v"])
def test_min_snr_weighs_the_error_of_x0_alike(kind: Prediction) -> None:
    """The same wrong x_0 costs min(SNR, γ) · |Δ|² whatever the network predicts."""
    schedule = NoiseSchedule("linear", 1000)
    g = torch.Generator().manual_seed(0)
    t = levels(5, 300, 600, 900)
    x0, noise, off = (torch.randn(4, 8, generator=g, dtype=torch.float64) for _ in range(3))
    x = schedule.add_noise(x0, noise, t)
    wrong = x0 + 0.1 * off
    right, guess = (schedule.target(signal, schedule.noise_of(x, signal, t), t, kind) for signal in (x0, wrong))
    loss = schedule.loss_weight(t, kind, 5.0) * (guess - right).square().mean(dim=1)
    snr = (schedule.alpha_bar / (1 - schedule.alpha_bar))[t]
    expected = snr.clamp(max=5.0) * (0.1 * off).square().mean(dim=1)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-9)
    assert (schedule.loss_weight(t, kind, None) == 1).all()
    raised = schedule.loss_weight(t, kind, 5.0, 2.0) * (guess - right).square().mean(dim=1)
    torch.testing.assert_close(raised, expected * (1 + 2.0 / snr.clamp(max=5.0)), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("kind", ["noise", "x0", "v"])
def test_a_floor_of_one_makes_the_loss_that_of_v(kind: Prediction) -> None:
    """Below the cap: the error of v, whatever the network predicts."""
    schedule = NoiseSchedule("cosine", 1000)
    g = torch.Generator().manual_seed(0)
    t = levels(200, 500, 800, 950)
    x0, noise, off = (torch.randn(4, 8, generator=g, dtype=torch.float64) for _ in range(3))
    x = schedule.add_noise(x0, noise, t)

    def error(of: Prediction) -> Tensor:
        right, guess = (
            schedule.target(signal, schedule.noise_of(x, signal, t), t, of) for signal in (x0, x0 + 0.1 * off)
        )
        return (guess - right).square().mean(dim=1)

    torch.testing.assert_close(
        schedule.loss_weight(t, kind, 100.0, 1.0) * error(kind), error("v"), rtol=1e-3, atol=1e-9
    )


def test_levels_in_the_middle_are_drawn_more_often() -> None:
    """The shares of a logit-normal of mean 0.4 and deviation 1 beside a fifth of uniform draws."""
    drawn = draw_levels(40_000, 1000, torch.Generator().manual_seed(0), middle=True)
    assert drawn.min() >= 0
    assert drawn.max() == 999
    normal = torch.distributions.Normal(0.4, 1.0)
    for share in (0.1, 0.3, 0.5, 0.8, 0.95):
        below = 0.8 * float(normal.cdf(torch.tensor(share).logit())) + 0.2 * share
        # Five standard deviations of a share of 40,000 draws.
        assert float((drawn < 1000 * share).float().mean()) == pytest.approx(below, abs=5 * 0.5 / 200)
    even = draw_levels(40_000, 10, torch.Generator().manual_seed(0))
    assert ((even.bincount(minlength=10) / 40_000 - 0.1).abs() < 0.01).all()


def test_posterior_against_bayes_rule() -> None:
    """q(x_p | x_t, x_0) ∝ q(x_t | x_p) q(x_p | x_0), two Gaussians in x_p."""
    schedule = NoiseSchedule("linear", T).double()
    t, p = 30, 22
    a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[p].item()
    alpha = a / b
    x, x0 = 0.7, -1.3
    precision = alpha / (1 - alpha) + 1 / (1 - b)
    mean = (math.sqrt(alpha) * x / (1 - alpha) + math.sqrt(b) * x0 / (1 - b)) / precision
    one = torch.ones(1, 1, dtype=torch.float64)
    got_mean, got_variance = posterior(schedule, x * one, x0 * one, levels(t), levels(p))
    assert got_mean.item() == pytest.approx(mean, rel=1e-9)
    assert got_variance.item() == pytest.approx(1 / precision, rel=1e-9)


def test_full_noise_ddim_is_the_posterior() -> None:
    """With η = 1 a DDIM step has the posterior's mean and variance (Song et al. 2021, sec. 4.1)."""
    schedule = NoiseSchedule("cosine", T).double()
    x, x0 = torch.tensor([[0.4]], dtype=torch.float64), torch.tensor([[0.9]], dtype=torch.float64)
    t, p = levels(30), levels(29)
    noise = schedule.noise_of(x, x0, t)
    mean, variance = posterior(schedule, x, x0, t, p)
    torch.testing.assert_close(ddim_step(schedule, x0, noise, t, p, 1.0, None), mean)
    fresh = torch.ones_like(x)
    torch.testing.assert_close(ddim_step(schedule, x0, noise, t, p, 1.0, fresh) - mean, variance.sqrt())


def gaussian_model(schedule: NoiseSchedule, mean: float, deviation: float) -> Any:
    """The exact noise prediction for data N(mean, deviation²): E[ε | x_t]."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        a = schedule.at(t, x)
        return (1 - a).sqrt() * (x - a.sqrt() * mean) / (a * deviation**2 + 1 - a)

    return predict


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 1.0), ("ddim", 0.5)])
def test_samplers_draw_a_gaussian_when_the_network_is_exact(sampler: str, eta: float) -> None:
    schedule = NoiseSchedule("linear", 1000)
    g = torch.Generator().manual_seed(0)
    start = torch.randn(20_000, 1, generator=g)
    *_, last = denoise(
        gaussian_model(schedule, 2.0, 0.5), start, schedule, visited_levels(1000, 250), prediction="noise",
        sampler=sampler, eta=eta, generator=g,
    )  # fmt: skip
    assert last.level == -1
    assert last.x.mean().item() == pytest.approx(2.0, abs=0.02)
    assert last.x.std().item() == pytest.approx(0.5, rel=0.05)


def test_inversion_leads_back_to_the_noise() -> None:
    schedule = NoiseSchedule("linear", 1000)
    model = gaussian_model(schedule, 1.0, 0.7)
    start = torch.randn(16, 2, generator=torch.Generator().manual_seed(0))
    visited = visited_levels(1000, 500)
    *_, last = denoise(model, start, schedule, visited, prediction="noise")
    back = invert(model, last.x, schedule, visited, prediction="noise")
    torch.testing.assert_close(back, start, atol=0.05, rtol=0.02)


def test_visited_levels() -> None:
    assert visited_levels(10, 10) == list(range(9, -1, -1))
    assert visited_levels(1000, 4) == [999, 749, 499, 249]
    assert visited_levels(1000, 1) == [999]
    assert visited_levels(1000, 4, highest=600) == [499, 249]
    assert visited_levels(1000, 4, highest=100) == [100]
    for steps in (0, 1001):
        with pytest.raises(ValueError, match="steps"):
            visited_levels(1000, steps)


# ---- against diffusers ---------------------------------------------------------------------------------------------
diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (extra dev)")

_KINDS = {"noise": "epsilon", "x0": "sample", "v": "v_prediction"}
_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}


def stand_in_network(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(3 * x) + 0.1 * x * (t.float() / 1000).reshape(-1, 1)


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("kind", ["noise", "x0", "v"])
@pytest.mark.parametrize(("sampler", "steps", "eta"), [("ddim", 20, 0.0), ("ddim", 25, 0.8), ("ddpm", 1000, 0.0)])
def test_samplers_agree_with_diffusers(name: str, kind: Prediction, sampler: str, steps: int, eta: float) -> None:
    schedule = NoiseSchedule(name, 1000)
    common: dict[str, Any] = {
        "num_train_timesteps": 1000,
        "beta_schedule": _SCHEDULES[name],
        "prediction_type": _KINDS[kind],
        "clip_sample": True,
        "timestep_spacing": "trailing",
    }
    g = torch.Generator().manual_seed(0)
    start = torch.randn(5, 7, generator=g)
    if sampler == "ddim":
        theirs = diffusers.DDIMScheduler(**common, set_alpha_to_one=True)
    else:
        theirs = diffusers.DDPMScheduler(**common, variance_type="fixed_small")
    theirs.set_timesteps(steps)
    visited = visited_levels(1000, steps)
    assert theirs.timesteps.tolist() == visited
    if sampler == "ddpm":
        visited = visited[:40]

    ours = [
        visit.x
        for visit in denoise(
            stand_in_network, start, schedule, visited, prediction=kind, sampler=sampler, eta=eta,
            correct=lambda x0: x0.clamp(-1, 1), generator=torch.Generator().manual_seed(1),
        )
    ]  # fmt: skip
    x = start
    fresh = torch.Generator().manual_seed(1)
    # Ours ends at level -1, which a schedule cut short does not reach in theirs.
    for i, level in enumerate(visited[:-1]):
        torch.testing.assert_close(ours[i], x, atol=1e-5, rtol=1e-5)
        prediction = stand_in_network(x, torch.full((5,), level))
        if sampler == "ddim":
            noise = torch.randn(x.shape, generator=fresh) if eta > 0 else None
            x = theirs.step(
                prediction, level, x, eta=eta, use_clipped_model_output=True, variance_noise=noise
            ).prev_sample
        else:
            x = theirs.step(prediction, level, x, generator=fresh).prev_sample
    torch.testing.assert_close(ours[len(visited) - 1], x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_noising_agrees_with_diffusers(name: str) -> None:
    theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule=_SCHEDULES[name])
    schedule = NoiseSchedule(name, 1000)
    g = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(6, 3, generator=g), torch.randn(6, 3, generator=g)
    t = levels(0, 1, 10, 500, 998, 999)
    torch.testing.assert_close(schedule.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t), atol=1e-5, rtol=1e-5)
    velocity = theirs.get_velocity(x0, noise, t)
    torch.testing.assert_close(schedule.target(x0, noise, t, "v"), velocity, atol=1e-5, rtol=1e-5)
