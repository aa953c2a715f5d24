"""Plugins for the tests of the command line; written against the public contract, importing torch late."""

from __future__ import annotations

from studio.plugin.spec import PluginSpec

BALL = PluginSpec(
    name="ball",
    kind="field",
    summary="A grey ball [at the origin].",
    target="ball_field:BallField",
    config="ball_config:BallConfig",
    capabilities=("export",),
    presets={"big": "radius 0.8"},
)
CLASH = PluginSpec(
    name="clash",
    kind="generator",
    summary="Its configuration has a field 'seed'.",
    target="ball_field:BallField",
    config="ball_config:ClashConfig",
)
