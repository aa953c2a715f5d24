"""Configuration of the diffusion plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from studio.errors import StudioError
from studio.plugin import PluginConfig, SampleOptions
from studio.plugin.ranges import (
    Count,
    Decay,
    LearningRate,
    NonNegativeNumber,
    PositiveCount,
    PositiveNumber,
    Range,
    Share,
)


@dataclass
class DiffusionConfig(PluginConfig):
    """A denoising diffusion model. Pictures get a U-Net, points a residual network."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "toy": {"steps": 4_000, "batch": 512, "timesteps": 200, "channels": 128, "schedule": "cosine", "lr": 2e-3},
        "mnist": {
            "steps": 4_000,
            "batch": 32,
            "channels": 48,
            "multipliers": (1, 2),
            "blocks": 1,
            "attention_size": 8,
            "patch_size": 2,
            "lr": 1e-3,
            "ema_decay": 0.995,
            "precision": "bf16",
        },
        "shapes": {
            "steps": 7_000,
            "batch": 32,
            "channels": 64,
            "multipliers": (1, 2, 2),
            "blocks": 1,
            "attention_size": 8,
            "reading_size": 16,
            "patch_size": 2,
            # Noise of 12 numbers a patch hardly fits through 64 channels; smooth pictures do.
            "prediction": "x0",
            # What stands where is decided at the noisiest levels, which the cap alone would all but leave out.
            "min_snr": 4.0,
            "snr_floor": 1.0,
            "levels": "middle",
            "optimizer": "muon",
            "lr": 8e-4,
            "ema_decay": 0.998,
            "precision": "bf16",
        },
        "ddpm": {
            "steps": 800_000,
            "batch": 128,
            "channels": 128,
            "multipliers": (1, 2, 2, 2),
            "schedule": "linear",
            "prediction": "noise",
            "lr": 2e-4,
            "weight_decay": 0.0,
            "warm_up": 5_000,
            "cosine_decay": False,
            "ema_decay": 0.9999,
            "dropout": 0.1,
            "min_snr": None,
        },
    }
    CHECK: ClassVar[Mapping[str, Any]] = {
        "batch": 16,
        "timesteps": 12,
        "channels": 16,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention_size": 8,
        "head_dim": 8,
        "text_dim": 16,
        "text_layers": 1,
        "lr": 2e-3,
        "warm_up": 1,
        "ema_decay": 0.5,
    }

    steps: int = 20_000
    """Training steps."""
    batch: PositiveCount = 64
    """Samples a step."""

    # ---- noise
    timesteps: Annotated[int, Range(2, 100_000)] = 1000
    """Number T of noise levels."""
    schedule: Literal["linear", "cosine"] = "cosine"
    """How fast noise is added: linear (Ho et al. 2020) or cosine (Nichol & Dhariwal 2021)."""
    prediction: Literal["noise", "x0", "v"] = "v"
    """What the network predicts; noise is ill-defined at levels that leave no signal, where v and x0 are not."""
    min_snr: PositiveNumber | None = 5.0
    """Cap on a noise level's weight in the loss, as signal-to-noise ratio (Hang et al. 2023); none: equal weights."""
    snr_floor: NonNegativeNumber = 0.0
    """Added to that weight; with 1, what is learnt is v's error up to the cap, whatever is predicted (Li & He 2025)."""
    levels: Literal["uniform", "middle"] = "uniform"
    """Noise levels that are trained: all alike, or more often those in the middle, where shapes are decided."""

    # ---- network
    channels: Annotated[int, Range(2, 4096, multiple=2)] = 64
    """Channels at full resolution; width of the network for points."""
    multipliers: Annotated[tuple[int, ...], Range(1, 64)] = (1, 2, 2)
    """Channels of each resolution, times `channels`; each next one has half the side."""
    blocks: PositiveCount = 2
    """Residual blocks of a resolution on the way down; one more on the way up."""
    attention_size: Count = 16
    """Resolutions up to this side have self-attention."""
    reading_size: Count | None = None
    """Resolutions up to this side read captions; none: those that have self-attention."""
    head_dim: PositiveCount = 32
    """Channels of an attention head."""
    patch_size: PositiveCount = 1
    """Side of the pixel blocks that are folded into channels at the input; 2 makes the network about 4 times faster."""
    dropout: Annotated[float, Range(0, 0.99)] = 0.0
    """Dropout in the residual blocks."""
    text_dim: PositiveCount = 128
    """Width of the caption encoder."""
    text_layers: Count = 2
    """Transformer blocks of the caption encoder."""
    caption_length: PositiveCount = 48
    """Words of a caption that are read."""

    # ---- training
    condition: Literal["auto", "none"] = "auto"
    """auto: captions where the data has them, else classes where it has them."""
    condition_dropout: Share = 0.1
    """Share of samples that are trained without their condition, for classifier-free guidance."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: for weights inside the network, in place of AdamW (Jordan et al. 2024); slower steps, but fewer."""
    lr: LearningRate = 3e-4
    """Learning rate of AdamW."""
    muon_lr: LearningRate = 2e-3
    """Learning rate of Muon, whose steps are then as long as AdamW's."""
    weight_decay: NonNegativeNumber = 0.01
    """Decay of weight matrices."""
    warm_up: Count = 200
    """Steps over which the rate rises."""
    cosine_decay: bool = True
    """Lower the rate to zero along a cosine; else it stays."""
    grad_clip: PositiveNumber = 1.0
    """Largest gradient norm."""
    ema_decay: Decay = 0.999
    """Memory of the weight average that samples are drawn with."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of products; a format that the processor has no units for becomes fp32."""

    def check(self) -> None:
        super().check()
        for width in (self.channels * multiplier for multiplier in self.multipliers):
            if width % max(width // self.head_dim, 1):
                raise StudioError(
                    f"head_dim: heads of {self.head_dim} channels do not divide a level of {width}.",
                    fix="Use a divisor of --channels.",
                )


@dataclass
class DiffusionSampling(SampleOptions):
    """How a diffusion model draws."""

    sampler: Literal["ddim", "ddpm"] = "ddim"
    """ddim: few steps; ddpm: ancestral, with fresh noise at each step."""
    steps: int | None = None
    """Evaluations of the network for each sample, up to the model's number of noise levels; default: 50, or all where
    there are fewer."""
    eta: float = 0.0
    """Share of fresh noise in ddim steps: 0 is deterministic, 1 is ancestral."""
    guidance: float | None = None
    """Scale of classifier-free guidance: 1 none, more follows the condition more closely and varies less; default: 2
    for samples and edits with a condition, else 1."""
    strength: float = 0.6
    """Edit mode sdedit: share of the noise levels that the picture is sent through."""
    factor: int = 4
    """Edit mode super-resolution: how many times smaller a full-size picture is made before it is enlarged again."""
