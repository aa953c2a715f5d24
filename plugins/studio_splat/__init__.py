"""3D Gaussian splatting: fast kernels on a CPU, gsplat on a GPU, plain torch as the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from studio.plugin.spec import PluginSpec

if TYPE_CHECKING:
    from studio_splat.functional import rasterization

__all__ = ["SPEC", "rasterization"]

SPEC = PluginSpec(
    name="splat",
    kind="field",
    summary="3D Gaussian splatting: trains in minutes on a CPU, renders in real time.",
    target="studio_splat.field:SplatField",
    config="studio_splat.config:SplatConfig",
    capabilities=("render", "export", "gaussians"),
    devices=("cpu", "cuda"),
    presets={
        "quick": "about two minutes on two CPU cores",
        "default": "about ten minutes on two CPU cores",
        "quality": "the paper's schedule: 30,000 steps, adaptive density control",
        "mcmc": "30,000 steps of MCMC density control: relocation and noise under a fixed cap",
    },
)


def __getattr__(name: str) -> Any:
    # Loaded when first named: the command line lists this plugin without importing torch.
    if name == "rasterization":
        from studio_splat.functional import rasterization

        return rasterization
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
