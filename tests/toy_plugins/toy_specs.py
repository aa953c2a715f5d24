"""Declarations of the toy plugins; importing this module imports no torch."""

from __future__ import annotations

from studio.plugin.spec import PluginSpec

RAYS = PluginSpec(
    name="toy-rays",
    kind="field",
    summary="An MLP from rays to colours.",
    target="toy_plugins:RayField",
    config="toy_plugins:RayConfig",
    presets={"tiny": "8 hidden units"},
)
GAUSS = PluginSpec(
    name="toy-gauss",
    kind="generator",
    summary="A Gaussian fitted by maximum likelihood.",
    target="toy_plugins:GaussGenerator",
    config="toy_plugins:GaussConfig",
    capabilities=("likelihood",),
)
PIXELS = PluginSpec(
    name="toy-pixels",
    kind="generator",
    summary="Independent pixels around the mean of each class.",
    target="toy_generators:PixelGenerator",
    config="toy_generators:ToyConfig",
    capabilities=("encode", "decode", "reconstruct", "interpolate", "likelihood", "trajectory", "edit"),
)
BYTES = PluginSpec(
    name="toy-bytes",
    kind="generator",
    summary="Bytes by their frequency.",
    target="toy_generators:ByteGenerator",
    config="toy_generators:ToyConfig",
    capabilities=("likelihood", "stream"),
)
NEAREST = PluginSpec(
    name="toy-nearest",
    kind="generator",
    summary="The caption of the most similar training picture.",
    target="toy_generators:NearestCaption",
    config="toy_generators:ToyConfig",
    capabilities=("caption",),
)
