"""Refuses configurations that would fail in the middle of a run."""

from __future__ import annotations

from studio.errors import StudioError
from studio.plugin.ranges import check_ranges
from studio_nerf.ngp.config import NgpConfig


def check_config(config: NgpConfig) -> None:
    """Raise a StudioError for the first field whose value cannot work."""
    check_ranges(config)
    if config.finest is not None and config.finest < config.coarsest:
        raise StudioError(
            f"finest: {config.finest} is coarser than the coarsest level of {config.coarsest} cells.",
            fix="Raise --finest.",
        )
