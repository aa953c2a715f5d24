"""Denoising diffusion models of points and pictures, with class and caption conditions and training-free editing."""

from __future__ import annotations

from studio.plugin.spec import PluginSpec

__all__ = ["SPEC"]

SPEC = PluginSpec(
    name="diffusion",
    kind="generator",
    summary="Denoising diffusion: DDPM training, DDIM sampling, classes or captions with guidance, editing.",
    target="studio_diffusion.model:DiffusionModel",
    config="studio_diffusion.config:DiffusionConfig",
    capabilities=("sample", "encode", "decode", "interpolate", "trajectory", "edit"),
    devices=("cpu", "cuda", "mps"),
    presets={
        "default": "pictures of 32 to 64 pixels: U-Net of 64 channels, attention below 16 pixels",
        "toy": "points: a residual network, trained in a minute",
        "mnist": "digits: a small U-Net, about ten minutes on two CPU cores",
        "shapes": "captioned pictures of 32 pixels, x0 prediction, about 40 minutes on one CPU core",
        "ddpm": "the network, schedule and rates of Ho et al. 2020 for 32-pixel pictures; for a GPU",
    },
)
