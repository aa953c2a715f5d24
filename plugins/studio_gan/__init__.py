"""Generative adversarial networks: points, conditional digits, 64x64 pictures."""

from __future__ import annotations

from studio.plugin.spec import PluginSpec

__all__ = ["SPEC"]

SPEC = PluginSpec(
    name="gan",
    kind="generator",
    summary="Generative adversarial networks: sample in one pass, invert pictures, edit in latent space.",
    target="studio_gan.generator:GanGenerator",
    config="studio_gan.config:GanConfig",
    capabilities=("sample", "decode", "invert", "reconstruct", "interpolate"),
    devices=("cpu", "cuda", "mps"),
    presets={
        "gan-2d": "GAN of points, such as toy:swiss-roll (the default)",
        "cgan-mnist": "conditional GAN of pictures up to 32x32 with class labels: MNIST in minutes",
        "dcgan": "deep convolutional GAN of pictures up to 64x64",
        "sagan": "convolutional GAN with self-attention, spectral norm and hinge loss",
        "progan": "convolutional GAN that grows from 4x4 to full size, with the WGAN-GP loss",
    },
)
