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
    presets={"quick": "half a minute on two CPU cores", "default": "two minutes on two CPU cores, for 28x28 pictures"},
)
