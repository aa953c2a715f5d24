"""Neural radiance fields: the classic 5D network (`nerf`) and a hash grid that trains in minutes on a CPU (`ngp`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from studio.plugin.spec import PluginSpec

if TYPE_CHECKING:
    from studio_nerf.classic.directions import angles_from_direction, direction_from_angles

__all__ = ["NERF", "NGP", "angles_from_direction", "direction_from_angles"]

NERF = PluginSpec(
    name="nerf",
    kind="field",
    summary="The classic NeRF: one network from position and direction to density and colour.",
    target="studio_nerf.classic.field:NerfField",
    config="studio_nerf.classic.config:NerfConfig",
    capabilities=("render", "density", "inspect"),
    devices=("cpu", "cuda"),
    presets={
        "quick": "about five minutes on two CPU cores",
        "default": "the paper's network where an occupancy grid says that something is; for CPUs",
        "paper": "coarse and fine network, 64 + 128 samples a ray, 4096 rays a step, exactly; for GPUs",
    },
)

NGP = PluginSpec(
    name="ngp",
    kind="field",
    summary="Hash-grid NeRF (instant-ngp): trains in minutes on a CPU.",
    target="studio_nerf.ngp.field:NgpField",
    config="studio_nerf.ngp.config:NgpConfig",
    capabilities=("render", "density", "inspect"),
    devices=("cpu", "cuda"),
    presets={
        "quick": "about two minutes on two CPU cores",
        "default": "an object, or a room around the cameras; about ten minutes on two CPU cores",
        "quality": "larger tables and batches, several times as long",
        "forward": "cameras that face one way, in normalised device coordinates",
        "unbounded": "cameras amid a scene without end, in contracted space",
    },
)


def __getattr__(name: str) -> Any:
    # Loaded when first named: the command line lists this plugin without importing torch.
    if name in ("angles_from_direction", "direction_from_angles"):
        from studio_nerf.classic import directions

        return getattr(directions, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
