"""Configuration of the vae plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from studio.plugin import PluginConfig
from studio.plugin.ranges import LearningRate, NonNegativeNumber, PositiveCount, PositiveNumber, Range, Share

_DIGITS: Mapping[str, Any] = {
    "steps": 3000,
    "family": "autoencoder",
    "decoder_output": "sigmoid",
    "hidden": (256, 128),
    "latent_dim": 64,
    "batch_size": 128,
}
_PICTURES: Mapping[str, Any] = {
    "family": "convolutional",
    "likelihood": "bernoulli",
    "latent_dim": 128,
    "batch_size": 64,
    "weight_decay": 0.0,
}


@dataclass
class VaeConfig(PluginConfig):
    """Autoencoders and variational autoencoders. The default is the VAE of points."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "vae-2d": {},
        "ae-2d": {"family": "autoencoder"},
        "denoising": {**_DIGITS, "corruption": "salt-and-pepper"},
        "sparse": {**_DIGITS, "sparsity": 1e-4},
        "contractive": {**_DIGITS, "hidden": (128,), "latent_dim": 32, "activation": "sigmoid", "contraction": 1e-4},
        # Nine thousand digits leave gaps between the codes, which the prior draws from, too. With the KL term weighted
        # by 1 a classifier misreads 19% of the samples after 4,800 steps; with 2 it misreads 3% after 7,000, and the
        # samples' FID and coverage are better than with 1 or 3.
        "cvae-mnist": {**_PICTURES, "steps": 7000, "conditional": True, "beta": 2.0, "lr": 2e-3},
        "beta-vae": {**_PICTURES, "steps": 7000, "latent_dim": 16, "beta": 4.0, "lr": 2e-3},
        "conv64": {
            **_PICTURES,
            "steps": 6000,
            "widths": (32, 64, 128, 256),
            "kernel_size": 4,
            "likelihood": "gaussian",
            "decoder_std": None,
        },
    }

    steps: int = 5000
    """Training steps."""

    # ---- model
    family: Literal["autoencoder", "vae", "convolutional"] = "vae"
    """autoencoder: fully connected, no distribution; vae: the same made variational; convolutional: VAE of pictures."""
    latent_dim: PositiveCount = 16
    """Numbers in a code."""
    hidden: Annotated[tuple[int, ...], Range(1, 1 << 20)] = (128, 64, 32)
    """Widths of the encoder's hidden layers (fully connected families); the decoder mirrors them."""
    activation: Literal["relu", "sigmoid"] = "relu"
    """Nonlinearity of the hidden layers (autoencoder family)."""
    decoder_output: Literal["linear", "sigmoid"] = "linear"
    """What the autoencoder's decoder ends in: linear for points, sigmoid for pictures."""
    widths: Annotated[tuple[int, ...], Range(1, 1 << 20)] = (16, 32, 64)
    """Channels after each halving (convolutional family); n of them make a model of pictures up to 4 * 2^n a side."""
    kernel_size: Literal[3, 4] = 3
    """Kernel of the convolutions (convolutional family); 4, a multiple of the stride, leaves no checkerboard."""
    conditional: bool = False
    """Tell encoder and decoder the class (convolutional family)."""

    # ---- variational families
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    """p(x|z): Gaussian around the decoder's output, or Bernoulli a pixel."""
    decoder_std: PositiveNumber | None = 0.1
    """Standard deviation of the Gaussian likelihood; none: one number, learned with the rest."""
    beta: NonNegativeNumber = 1.0
    """Weight of the KL term; above 1 asks for codes whose entries are independent."""
    beta_warmup: Share = 0.0
    """Share of the training over which that weight rises from 0."""
    importance_samples: PositiveCount = 64
    """Codes drawn a sample for the likelihood bound; more make it tighter."""

    # ---- autoencoder family
    corruption: Literal["none", "gaussian", "masking", "salt-and-pepper"] = "none"
    """What is done to a sample before it is encoded; the loss asks for the clean one."""
    corruption_level: NonNegativeNumber = 0.3
    """Standard deviation of the Gaussian noise, or share of the pixels that are masked, or turned black or white."""
    sparsity: NonNegativeNumber = 0.0
    """Weight of the p-norm of the codes."""
    sparsity_p: PositiveNumber = 1.0
    """That p."""
    contraction: NonNegativeNumber = 0.0
    """Weight of the squared Frobenius norm of the encoder's Jacobian."""

    # ---- optimiser (AdamW)
    batch_size: PositiveCount = 1000
    """Samples a step."""
    lr: LearningRate = 1e-3
    """Learning rate at the start."""
    lr_final: Share = 0.05
    """Share of it that is left at the end (cosine)."""
    weight_decay: NonNegativeNumber = 1e-2
    """Decoupled weight decay."""
