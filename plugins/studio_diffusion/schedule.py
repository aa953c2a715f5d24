"""The forward process: how noise is added, what the network is asked to predict, and how one turns into the other.

Notation of Ho et al. 2020 ("Denoising Diffusion Probabilistic Models"): noise levels t = 0..T-1, β_t the variance added
at level t, α_t = 1 − β_t, ᾱ_t = ∏ α_s the share of the signal's variance that is left:

    q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I)        (eq. 4)
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Prediction = Literal["noise", "x0", "v"]

_COSINE_OFFSET = 0.008
_LARGEST_BETA = 0.999
_MIDDLE, _SPREAD, _ANYWHERE = 0.4, 1.0, 0.2
"""Mean and deviation of logit(t / T), and the share of levels drawn from all alike."""


def betas(name: str, timesteps: int) -> Float[Tensor, " timesteps"]:
    """Variances β_t, float64.

    linear: from 1e-4 to 0.02 over 1000 levels (Ho et al. 2020, sec. 4); for another number they are scaled so that as
    much noise is added in all. cosine: ᾱ(t) = cos²((t/T + s)/(1 + s) · π/2), s = 0.008 (Nichol & Dhariwal 2021,
    eq. 17).

    Raises:
        ValueError: An unknown name, or fewer than 2 levels.
    """
    if timesteps < 2:
        raise ValueError(f"timesteps: expected at least 2, got {timesteps}")
    if name == "linear":
        scale = 1000 / timesteps
        values = torch.linspace(scale * 1e-4, scale * 0.02, timesteps, dtype=torch.float64)
        return values.clamp(max=_LARGEST_BETA)
    if name == "cosine":
        t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        alpha_bar = torch.cos((t + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * math.pi / 2).square()
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=_LARGEST_BETA)
    raise ValueError(f"schedule: expected linear or cosine, got {name!r}")


def draw_levels(
    n: int, timesteps: int, generator: torch.Generator | None, *, middle: bool = False
) -> Int[Tensor, " n"]:
    """Noise levels to train, on the CPU: each as likely, or most of them in the middle.

    There t / T is logit-normal (Esser et al. 2024, "Scaling Rectified Flow Transformers", sec. 3.1), a little above one
    half, where small pictures lose their shapes; a fifth is drawn from all levels, as sampling begins at the last one.
    """
    anywhere = torch.randint(timesteps, (n,), generator=generator)
    if not middle:
        return anywhere
    share = torch.sigmoid(_MIDDLE + _SPREAD * torch.randn(n, generator=generator))
    chosen = (share * timesteps).long().clamp(max=timesteps - 1)
    return torch.where(torch.rand(n, generator=generator) < _ANYWHERE, anywhere, chosen)


class NoiseSchedule(nn.Module):
    """Coefficients of the forward process, and what follows from them in closed form.

    Samples have any shape (b, *shape); levels t are (b,) int64.
    """

    alpha_bar: Tensor

    def __init__(self, name: str, timesteps: int) -> None:
        super().__init__()
        # They follow from the configuration, so checkpoints need not hold them.
        self.register_buffer("alpha_bar", torch.cumprod(1 - betas(name, timesteps), 0).float(), persistent=False)

    @property
    def timesteps(self) -> int:
        return self.alpha_bar.shape[0]

    def at(self, t: Int[Tensor, " b"], like: Tensor) -> Tensor:
        """ᾱ_t, shaped to multiply `like`; 1 for t = −1, the level without noise."""
        values = torch.where(t < 0, 1.0, self.alpha_bar[t.clamp(min=0)])
        return values.reshape(-1, *[1] * (like.ndim - 1))

    def add_noise(
        self, x0: Float[Tensor, " b *shape"], noise: Float[Tensor, " b *shape"], t: Int[Tensor, " b"]
    ) -> Float[Tensor, " b *shape"]:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε   (eq. 4)."""
        a = self.at(t, x0)
        return a.sqrt() * x0 + (1 - a).sqrt() * noise

    def target(
        self, x0: Float[Tensor, " b *shape"], noise: Float[Tensor, " b *shape"], t: Int[Tensor, " b"], kind: Prediction
    ) -> Float[Tensor, " b *shape"]:
        """What the network shall predict: ε, x_0, or v = √ᾱ_t ε − √(1 − ᾱ_t) x_0 (Salimans & Ho 2022, app. D)."""
        if kind == "noise":
            return noise
        if kind == "x0":
            return x0
        a = self.at(t, x0)
        return a.sqrt() * noise - (1 - a).sqrt() * x0

    def split(
        self,
        x: Float[Tensor, " b *shape"],
        prediction: Float[Tensor, " b *shape"],
        t: Int[Tensor, " b"],
        kind: Prediction,
    ) -> tuple[Float[Tensor, " b *shape"], Float[Tensor, " b *shape"]]:
        """The two parts that x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε consists of by the network's prediction: (x_0, ε)."""
        a = self.at(t, x)
        if kind == "noise":
            return (x - (1 - a).sqrt() * prediction) / a.sqrt(), prediction
        if kind == "x0":
            return prediction, self.noise_of(x, prediction, t)
        return a.sqrt() * x - (1 - a).sqrt() * prediction, a.sqrt() * prediction + (1 - a).sqrt() * x

    def noise_of(
        self, x: Float[Tensor, " b *shape"], x0: Float[Tensor, " b *shape"], t: Int[Tensor, " b"]
    ) -> Float[Tensor, " b *shape"]:
        """ε of x_t when x_0 is known."""
        a = self.at(t, x)
        return (x - a.sqrt() * x0) / (1 - a).sqrt()

    def loss_weight(
        self, t: Int[Tensor, " b"], kind: Prediction, min_snr: float | None, floor: float = 0.0
    ) -> Float[Tensor, " b"]:
        """Weight of each level's squared error.

        With SNR_t = ᾱ_t / (1 − ᾱ_t) an error of x_0 weighs SNR_t as an error of ε, and 1 / (SNR_t + 1) of one of v.
        Min-SNR-γ (Hang et al. 2023, sec. 3.4) weighs the error of x_0 by min(SNR_t, γ), whatever is predicted. A floor
        is added to that: with 1, the loss is the error of v up to the cap, whatever is predicted, as Li & He 2025 learn
        x_0 ("Back to Basics: Let Denoising Generative Models Denoise"). Without γ all errors of what is predicted
        weigh 1.
        """
        if min_snr is None:
            return torch.ones_like(t, dtype=torch.float32)
        a = self.alpha_bar[t]
        snr = a / (1 - a)
        weight = snr.clamp(max=min_snr) + floor
        return {"noise": weight / snr, "x0": weight, "v": weight / (snr + 1)}[kind]
