"""Autoencoders and variational autoencoders: points, digits and 64x64 pictures."""

from __future__ import annotations

from studio.plugin.spec import PluginSpec

__all__ = ["SPEC"]

SPEC = PluginSpec(
    name="vae",
    kind="generator",
    summary="Autoencoders and variational autoencoders: encode, reconstruct, sample, bound the likelihood.",
    target="studio_vae.generator:VaeGenerator",
    config="studio_vae.config:VaeConfig",
    capabilities=("sample", "encode", "decode", "reconstruct", "interpolate", "likelihood"),
    devices=("cpu", "cuda", "mps"),
    presets={
        "vae-2d": "variational autoencoder of points, such as toy:swiss-roll (the default)",
        "ae-2d": "plain autoencoder of points; its samples show why a VAE is needed",
        "denoising": "autoencoder of small pictures that undoes noise, masking or salt and pepper",
        "sparse": "autoencoder of small pictures whose codes are pulled to zero",
        "contractive": "autoencoder of small pictures whose codes are deaf to small changes",
        "cvae-mnist": "conditional VAE of pictures up to 32x32 with class labels: MNIST in minutes",
        "beta-vae": "VAE of pictures up to 32x32 without labels, KL weighted by 4",
        "conv64": "convolutional VAE of pictures up to 64x64, with a learned decoder variance",
    },
)
