"""Configuration of the plugin `nerf`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from studio.plugin import PluginConfig
from studio.plugin.ranges import Count, LearningRate, NonNegativeNumber, PositiveCount, PositiveNumber, Share


@dataclass
class NerfConfig(PluginConfig):
    """The classic NeRF. Schedules are shares of the training, so they stretch with --steps and --budget."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"steps": 3_000, "grid_resolution": 48},
        "default": {},
        "paper": {
            "steps": 200_000,
            "sampling": "hierarchical",
            "rays": 4_096,
            "density_activation": "relu",
            "density_noise": 0.0,
            "learning_rate": 5e-4,
            "learning_rate_final": 5e-5,
            "warmup": 0.0,
            "precision": "fp32",
        },
    }
    CHECK: ClassVar[Mapping[str, Any]] = {
        "rays": 32,
        "batch_samples": 512,
        "samples_across": 32,
        "grid_resolution": 16,
        "warmup": 0.0,
    }

    steps: int = 20_000
    """Training steps."""

    # ---- samples along rays
    sampling: Literal["grid", "hierarchical"] = "grid"
    """hierarchical: the paper's coarse and fine networks, evaluated everywhere; grid: the fine network alone, evaluated
    where an occupancy grid says that something may be."""
    rays: PositiveCount = 4_096
    """Rays a step (the paper: 4096; its authors' code: 1024); grid: at most."""
    coarse_samples: PositiveCount = 64
    """Stratified samples a ray for the coarse network (hierarchical)."""
    fine_samples: Count = 128
    """Further samples a ray where the coarse network has weight (hierarchical)."""
    batch_samples: PositiveCount = 8_192
    """Samples a step that the number of rays is adapted to (grid)."""
    samples_across: PositiveCount = 192
    """Steps that the diagonal of the scene's box is marched in (grid)."""
    grid_resolution: PositiveCount = 64
    """Cells of the occupancy grid along each axis of the box (grid)."""
    silhouettes: bool = True
    """Keep empty what a photo with alpha sees through (grid)."""
    near: NonNegativeNumber = 0.02
    """Least distance of a sample from the camera, times the extent of the cameras; rays begin where they enter the
    box."""
    far: PositiveNumber | None = None
    """Largest distance of a sample, in scene units; default: where rays leave the box."""

    # ---- network
    density_activation: Literal["relu", "softplus"] = "softplus"
    """relu: the paper's; softplus (mip-NeRF's) cannot get stuck with no density anywhere."""
    density_noise: NonNegativeNumber = 0.0
    """Standard deviation of the noise on densities before their activation while training (the paper: 1 for real
    scenes)."""

    # ---- optimiser (Adam)
    learning_rate: LearningRate = 1e-3
    """Learning rate at the start."""
    learning_rate_final: LearningRate = 5e-5
    """The same at the end (exponential decay)."""
    warmup: Share = 0.005
    """Share of the training over which the learning rate rises from zero."""

    # ---- photos
    precrop: Share = 0.0
    """Share of the training on the middle of the photos only, which helps where much is background."""
    precrop_size: Share = 0.5
    """Sides of that middle, as a share of the photo's."""
    random_background: bool = False
    """Composite photos with alpha on random colours each step, instead of the fixed background."""

    # ---- where
    precision: Literal["auto", "fp32", "bf16"] = "bf16"
    """Number format of the network's matrix products; float32 where the device has no units for the other. auto: 16
    bits on GPUs only."""
