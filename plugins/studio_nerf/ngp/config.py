"""Configuration of the hash-grid field; the docstrings are the help of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from studio.plugin.config import PluginConfig
from studio.plugin.ranges import Range


@dataclass
class NgpConfig(PluginConfig):
    """Options of the `ngp` plugin."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"steps": 4_000},
        "default": {},
        "quality": {"steps": 40_000, "samples": 131_072, "log2_rows": 19, "finest": 2048},
        "forward": {"space": "ndc"},
        "unbounded": {"space": "contract"},
    }
    CHECK: ClassVar[Mapping[str, Any]] = {
        "samples": 2048,
        "steps_across": 64,
        "grid_resolution": 32,
        "levels": 4,
        "finest": 64,
        "log2_rows": 10,
        "grid_every": 2,
    }

    steps: int = 20_000
    """Training steps."""

    # ---- where the scene lies
    space: Literal["auto", "box", "contract", "ndc"] = "auto"
    """box: an object in a box; contract: all of space around the cameras; ndc: cameras that face one way; auto: box for
    photos with alpha, contract for others."""
    steps_across: Annotated[int, Range(16, 8192)] = 768
    """Marching steps along the diagonal of the box; among cameras twice as many along that of the cube around them."""
    grid_resolution: Annotated[int, Range(16, 512, multiple=4)] = 128
    """Cells a side of the occupancy grid; a multiple of 4."""
    cone_angle: Annotated[float, Range(0, 1)] = 0.003
    """Growth of marching steps with distance, outside of a box."""

    ambient: bool = True
    """Among cameras, where no photo looked, show the mean colour of the photos in that direction; else the background
    shows there."""

    # ---- encoding and networks
    levels: Annotated[int, Range(4, 32, multiple=4)] = 8
    """Resolutions of the hash grid, with four features each; a multiple of 4."""
    coarsest: Annotated[int, Range(1, 4096)] = 16
    """Cells a side of the coarsest level."""
    finest: Annotated[int | None, Range(2, 65_536)] = None
    """Cells a side of the finest level; default: 1024, and 2048 in contracted space."""
    log2_rows: Annotated[int | None, Range(6, 24)] = None
    """Rows of a level's table, as a power of two; default: 17, and 19 in contracted space."""
    density_width: Annotated[int, Range(16, 256, multiple=16)] = 64
    """Hidden units of the density network; a multiple of 16."""
    color_width: Annotated[int, Range(16, 256, multiple=16)] = 64
    """Hidden units of the colour network; a multiple of 16."""

    # ---- loss
    loss_limit: Annotated[float | None, Range(1e-6, 1e6)] = None
    """Colour error beyond which the loss grows linearly (Huber); default: 0.1, and 0.3 in contracted space."""
    random_background: bool = True
    """Composite rays on random colours, so that what is opaque in the photos becomes opaque."""
    distortion: Annotated[float | None, Range(0, 1e3)] = None
    """Weight of the distortion loss of mip-NeRF 360, against haze and floaters; default: 0, and 0.006 in contracted
    space."""

    # ---- optimiser
    samples: Annotated[int | None, Range(256, 1 << 24)] = None
    """Samples that light reaches in each step; the number of rays follows; default: 49,152, and 40,960 in contracted
    space."""
    lr: Annotated[float | None, Range(0, 1)] = None
    """Adam's learning rate of the hash table; default: 0.01, and 0.02 in contracted space."""
    table_decay: Annotated[float, Range(0, 100)] = 0.3
    """Decoupled weight decay (AdamW) of the finer half of the hash table's levels, in shares of the learning rate."""
    lr_networks: Annotated[float, Range(0, 1)] = 1e-2
    """Adam's learning rate of the networks."""
    lr_decay: Annotated[float | None, Range(1e-6, 1)] = None
    """Factor on the learning rates at the end; default: 0.03, and 0.1 in contracted space."""
    decay_start: Annotated[float, Range(0, 1)] = 0.3
    """Share of the training from which they fall."""
    grid_every: Annotated[int, Range(1, 1_000_000)] = 16
    """Steps between updates of the occupancy grid."""

    # ---- per-photo corrections
    appearance: bool = False
    """Learn an embedding of the look of every training photo."""
    lr_appearance: Annotated[float, Range(0, 1)] = 1e-3
    """Adam's learning rate of the embeddings."""
    pose_refinement: bool = False
    """Learn a small correction of every training camera's pose."""
    lr_poses: Annotated[float, Range(0, 1)] = 1e-4
    """Adam's learning rate of poses, radians and scene units."""

    # ---- where
    backend: Literal["auto", "kernels", "torch"] = "auto"
    """auto takes the compiled kernels on a CPU and torch on a GPU."""
