"""A voxel grid as a plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from studio.plugin import PluginConfig, PluginSpec


@dataclass
class VoxelConfig(PluginConfig):
    """A grid of densities and colours."""

    PRESETS: ClassVar = {"quick": {"resolution": 64, "samples": 96, "steps": 1000}}
    CHECK: ClassVar = {"resolution": 16, "rays": 64, "samples": 24}

    steps: int = 4000
    """Training steps."""
    resolution: int = 128
    """Points of the grid along each side of the scene's box."""
    rays: int = 1024
    """Pixels a step."""
    samples: int = 192
    """Points along a ray."""
    lr: float = 0.1
    """Learning rate at the start; it falls to a tenth."""


SPEC = PluginSpec(
    name="voxels",
    kind="field",
    summary="A plain voxel grid of densities and colours.",
    target="voxel_plugin.grid:VoxelField",
    config="voxel_plugin:VoxelConfig",
    capabilities=("render", "density", "inspect"),
    devices=("cpu", "cuda", "mps"),
    presets={"quick": "64 voxels a side, fewer steps"},
)
