"""A radiance field: one small network from position to density and colour."""

from studio.plugin import PluginSpec

__all__ = ["SPEC"]

# Strings only: the studio lists its plugins without importing a model.
SPEC = PluginSpec(
    name="template",
    kind="field",
    summary="A small radiance field: sines and cosines of the position, three layers, density and colour.",
    target="studio.templates.field.model:TemplateField",
    config="studio.templates.field.config:TemplateConfig",
    capabilities=("render", "density"),
    devices=("cpu", "cuda", "mps"),
    presets={
        "quick": "800 steps, for a first blurred view: 80 seconds of one CPU core",
        "default": "4,000 steps: six minutes of one CPU core",
    },
)
