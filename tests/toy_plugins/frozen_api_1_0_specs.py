"""Frozen: declarations as written for plugin API 1.0. The studio has to keep them working; never edit this."""

from studio.plugin import PluginSpec

MIXTURE = PluginSpec(
    name="frozen-mixture",
    kind="generator",
    summary="A mixture of Gaussians, as written for API 1.0.",
    target="frozen_api_1_0:Mixture",
    config="frozen_api_1_0:MixtureConfig",
    capabilities=("sample", "likelihood"),
    devices=("cpu",),
    api=">=1,<2",
    presets={"few": "three components"},
)
BALL = PluginSpec(
    name="frozen-ball",
    kind="field",
    summary="A coloured soft ball, as written for API 1.0.",
    target="frozen_api_1_0:Ball",
    config="frozen_api_1_0:BallConfig",
    capabilities=("render", "density"),
    devices=("cpu",),
    api=">=1,<2",
)
