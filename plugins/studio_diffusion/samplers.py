"""The way back from noise: which levels are visited, and one step from a level to the next lower one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from studio.plugin.noise import normal
from studio_diffusion.schedule import NoiseSchedule, Prediction

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""The network's prediction for samples (b, *shape) at levels (b,)."""
Correction = Callable[[Tensor], Tensor]
"""Changes the predicted x_0: a known part is put in its place, a range is kept."""


def visited_levels(timesteps: int, steps: int, highest: int | None = None) -> list[int]:
    """`steps` levels from the highest down to above zero, evenly spaced ("trailing", Lin et al. 2024).

    They end at the level T − 1 where training saw the least signal, which even spacing from below would leave out.

    Args:
        timesteps: T, the number of levels.
        steps: How many to visit, at most all.
        highest: Start at this level instead of T − 1 (editing starts in the middle).

    Raises:
        ValueError: `steps` is below 1 or above T.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"steps: expected 1 to {timesteps}, the model's noise levels, got {steps}")
    levels = [round(timesteps - i * timesteps / steps) - 1 for i in range(steps)]
    if highest is None:
        return levels
    return [level for level in levels if level <= highest] or [max(highest, 0)]


@dataclass(frozen=True)
class Visit:
    """A state on the way back: what was at `level`, and what the network made of it."""

    level: int
    x: Tensor
    """x_t before the step."""
    x0: Tensor
    """The picture that the network expects behind x_t."""


def ddim_step(
    schedule: NoiseSchedule, x0: Tensor, noise: Tensor, t: Tensor, previous: Tensor, eta: float, fresh: Tensor | None
) -> Tensor:
    """From level t to `previous` (Song et al. 2021, "Denoising Diffusion Implicit Models", eq. 12 and 16).

    σ = η √((1 − ᾱ_p)/(1 − ᾱ_t)) √(1 − ᾱ_t/ᾱ_p);   x_p = √ᾱ_p x_0 + √(1 − ᾱ_p − σ²) ε + σ z
    """
    a, p = schedule.at(t, x0), schedule.at(previous, x0)
    sigma = eta * ((1 - p) / (1 - a)).sqrt() * (1 - a / p).clamp(min=0).sqrt()
    stepped = p.sqrt() * x0 + (1 - p - sigma.square()).clamp(min=0).sqrt() * noise
    return stepped if fresh is None else stepped + sigma * fresh


def posterior(schedule: NoiseSchedule, x: Tensor, x0: Tensor, t: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(x_p | x_t, x_0) (Ho et al. 2020, eq. 6 and 7), for any lower level p.

    With α = ᾱ_t/ᾱ_p and β = 1 − α:

        mean = √ᾱ_p β/(1 − ᾱ_t) x_0 + √α (1 − ᾱ_p)/(1 − ᾱ_t) x_t,     variance = (1 − ᾱ_p)/(1 − ᾱ_t) β
    """
    a, p = schedule.at(t, x), schedule.at(previous, x)
    alpha = a / p
    beta = 1 - alpha
    mean = p.sqrt() * beta / (1 - a) * x0 + alpha.sqrt() * (1 - p) / (1 - a) * x
    return mean, (1 - p) / (1 - a) * beta


def denoise(
    model: Denoiser,
    x: Float[Tensor, " b *shape"],
    schedule: NoiseSchedule,
    levels: list[int],
    *,
    prediction: Prediction,
    sampler: str = "ddim",
    eta: float = 0.0,
    correct: Correction | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Visit]:
    """Go down the levels; yields a `Visit` for each, and at the end one of level −1, whose `x` is the sample.

    Args:
        model: Predicts as `prediction` says.
        x: What is at the first level.
        levels: Descending.
        sampler: 'ddim', or 'ddpm' for draws from the posterior.
        correct: Applied to each predicted x_0; ε is then the one that x_t and the corrected x_0 imply.
        generator: CPU generator of the fresh noise.
    """
    for level, lower in zip(levels, [*levels[1:], -1], strict=True):
        t, previous = (torch.full((x.shape[0],), value, device=x.device) for value in (level, lower))
        x0, noise = schedule.split(x, model(x, t), t, prediction)
        if correct is not None:
            x0 = correct(x0)
            noise = schedule.noise_of(x, x0, t)
        yield Visit(level, x, x0)
        if sampler == "ddpm":
            mean, variance = posterior(schedule, x, x0, t, previous)
            x = mean if lower < 0 else mean + variance.sqrt() * fresh_noise(x, generator)
        else:
            # The last step has σ = 0 at any η.
            fresh = fresh_noise(x, generator) if eta > 0 and lower >= 0 else None
            x = ddim_step(schedule, x0, noise, t, previous, eta, fresh)
    yield Visit(-1, x, x)


def invert(
    model: Denoiser,
    x: Float[Tensor, " b *shape"],
    schedule: NoiseSchedule,
    levels: list[int],
    *,
    prediction: Prediction,
) -> Float[Tensor, " b *shape"]:
    """The noise from which deterministic DDIM steps lead to `x`: the same steps, taken upwards (sec. 4.3).

    The clean picture is taken for the lowest level: it differs from it by a hundredth of a grey value's noise.
    """
    upwards = levels[::-1]
    lowest = 0
    if prediction == "x0":
        # The noise that x_0 implies is its error times √ᾱ/√(1 − ᾱ), a hundredfold at level 0: begin higher.
        lowest = upwards[0]
    for lower, level in zip([lowest, *upwards[:-1]], upwards, strict=True):
        at, t = (torch.full((x.shape[0],), value, device=x.device) for value in (lower, level))
        x0, noise = schedule.split(x, model(x, at), at, prediction)
        x = ddim_step(schedule, x0, noise, at, t, 0.0, None)
    return x


def fresh_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Unit normal noise of the shape of `like`, drawn on the CPU so that a seed means the same on every device."""
    return normal(like.shape, generator).to(like.device)
