"""Refuses configurations that would fail in the middle of a run."""

from __future__ import annotations

from studio.errors import StudioError
from studio_nerf.ngp.config import NgpConfig

_RANGES: dict[str, tuple[float, float]] = {
    "steps_across": (16, 8192),
    "grid_resolution": (16, 512),
    "cone_angle": (0, 1),
    "levels": (4, 32),
    "coarsest": (1, 4096),
    "finest": (2, 65_536),
    "log2_rows": (6, 24),
    "density_width": (16, 256),
    "color_width": (16, 256),
    "loss_limit": (1e-6, 1e6),
    "distortion": (0, 1e3),
    "samples": (256, 1 << 24),
    "lr": (0, 1),
    "table_decay": (0, 100),
    "lr_networks": (0, 1),
    "lr_decay": (1e-6, 1),
    "decay_start": (0, 1),
    "grid_every": (1, 1_000_000),
    "lr_appearance": (0, 1),
    "lr_poses": (0, 1),
}
_MULTIPLES = {"levels": 4, "grid_resolution": 4, "density_width": 16, "color_width": 16}


def check_config(config: NgpConfig) -> None:
    """Raise a StudioError for the first field whose value cannot work."""
    for name, (low, high) in _RANGES.items():
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            raise StudioError(f"{name}: {value:g} is out of range.", fix=f"Use a value from {low:g} to {high:g}.")
    for name, multiple in _MULTIPLES.items():
        value = getattr(config, name)
        if value % multiple:
            raise StudioError(f"{name}: {value} is no multiple of {multiple}.", fix=f"Use one, such as {4 * multiple}.")
    if config.finest is not None and config.finest < config.coarsest:
        raise StudioError(
            f"finest: {config.finest} is coarser than the coarsest level of {config.coarsest} cells.",
            fix="Raise --finest.",
        )
