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
