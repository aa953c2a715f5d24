"""Configuration of the gan plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from studio.plugin import PluginConfig
from studio.plugin.ranges import Decay, LearningRate, NonNegativeNumber, PositiveCount, PositiveNumber, Range, Share


@dataclass
class GanConfig(PluginConfig):
    """Generative adversarial networks. The default is the GAN of points."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gan-2d": {},
        "cgan-mnist": {
            "steps": 9000,
            "family": "conditional",
            "latent_dim": 64,
            "generator_hidden": (256, 512, 1024),
            "discriminator_hidden": (1024, 512, 256),
            "batch_size": 64,
            "lr_generator": 2e-4,
            "lr_discriminator": 2e-4,
            "label_smoothing": 0.9,
        },
        "dcgan": {
            "steps": 10_000,
            "family": "convolutional",
            "latent_dim": 100,
            "batch_size": 64,
            "lr_generator": 2e-4,
            "lr_discriminator": 2e-4,
        },
        "sagan": {
            "steps": 6000,
            "family": "attention",
            "latent_dim": 128,
            "batch_size": 64,
            "loss": "hinge",
            "lr_generator": 1e-4,
            "lr_discriminator": 4e-4,
            "beta1": 0.0,
            "beta2": 0.9,
        },
        "progan": {
            "steps": 10_000,
            "family": "progressive",
            "latent_dim": 128,
            "width": 8,
            "batch_size": 32,
            "loss": "wgan-gp",
            "beta1": 0.0,
            "beta2": 0.99,
        },
    }
    CHECK: ClassVar[Mapping[str, Any]] = {"batch_size": 64}

    steps: int = 5000
    """Training rounds: so many steps of the discriminator, then of the generator."""

    # ---- model
    family: Literal["points", "conditional", "convolutional", "attention", "progressive"] = "points"
    """Fully connected for points; fully connected for pictures with classes; DCGAN; SAGAN; ProGAN."""
    latent_dim: PositiveCount = 16
    """Numbers in a latent vector."""
    generator_hidden: Annotated[tuple[int, ...], Range(1, 1 << 20)] = (32, 64, 128)
    """Widths of the generator's hidden layers (fully connected families)."""
    discriminator_hidden: Annotated[tuple[int, ...], Range(1, 1 << 20)] = (128, 64, 32)
    """Those of the discriminator."""
    embedding_dim: PositiveCount = 16
    """Size of the class embedding (conditional family)."""
    dropout: Annotated[float, Range(0, 0.99)] = 0.3
    """Dropout of the discriminator (conditional family)."""
    width: PositiveCount = 32
    """Channels at the largest resolution; they double with every halving (convolutional, attention, progressive)."""
    attention_side: PositiveCount = 16
    """Side of the feature maps that get self-attention (attention family)."""

    growth: Share = 0.6
    """Share of the training after which the networks have their full size (progressive family)."""

    # ---- losses
    loss: Literal["minimax", "non-saturating", "wasserstein", "wgan-gp", "hinge"] = "non-saturating"
    """The game that the two play."""
    label_smoothing: Share = 1.0
    """Target for real samples in the minimax and non-saturating losses; 0.9 keeps the discriminator modest."""
    clip: PositiveNumber = 0.01
    """Largest weight of the critic (wasserstein)."""
    penalty_weight: NonNegativeNumber = 10.0
    """Weight of the gradient penalty (wgan-gp)."""
    discriminator_steps: PositiveCount = 1
    """Steps of the discriminator a round; Wasserstein critics want about 5."""
    generator_steps: PositiveCount = 1
    """Steps of the generator a round."""

    # ---- optimiser (Adam)
    batch_size: PositiveCount = 1000
    """Samples a step of the discriminator."""
    lr_generator: LearningRate = 1e-3
    """Learning rate of the generator."""
    lr_discriminator: LearningRate = 1e-3
    """Learning rate of the discriminator."""
    lr_decay_start: Share = 0.5
    """Share of the training after which both rates fall linearly to 0; 1 keeps them."""
    beta1: Decay = 0.5
    """Decay of Adam's first moment."""
    beta2: Decay = 0.999
    """Decay of its second moment."""
    average_decay: Decay = 0.999
    """Decay of the moving average of the generator that samples are drawn from; 0 keeps none."""
