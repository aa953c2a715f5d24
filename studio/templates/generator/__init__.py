"""A generator of points and small pictures by flow matching."""

from studio.plugin import PluginSpec

__all__ = ["SPEC"]

# Strings only: the studio lists its plugins without importing a model.
SPEC = PluginSpec(
    name="template",
    kind="generator",
    summary="Flow matching with a small residual network: points and small pictures, of a class if the data has any.",
    target="studio.templates.generator.model:TemplateGenerator",
    config="studio.templates.generator.config:TemplateConfig",
    capabilities=("sample", "trajectory"),
    devices=("cpu", "cuda", "mps"),
    presets={
        "quick": "1,500 steps, for points: half a minute of one CPU core",
        "default": "4,000 steps, for 28x28 pictures: five minutes of one CPU core",
    },
)
