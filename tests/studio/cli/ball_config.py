"""Configurations with every kind of field that the command line has to offer; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from studio.plugin.config import PluginConfig


@dataclass
class Shade:
    """Shading."""

    ambient: float = 0.25
    """Light from everywhere."""


@dataclass
class BallConfig(PluginConfig):
    """A ball."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"big": {"radius": 0.8, "steps": 4}}

    steps: int = 3
    """Training steps."""
    radius: float = 0.5
    """In scene units."""
    hidden: tuple[int, ...] = (8, 8)
    """Widths that nothing uses."""
    finish: Literal["matt", "shiny"] = "matt"
    """Surface."""
    limit: int | None = None
    """A limit."""
    smooth: bool = True
    """Whether it is smooth."""
    shade: Shade = field(default_factory=Shade)


@dataclass
class ClashConfig(PluginConfig):
    """Clashes."""

    seed: int = 1
    """Also an option of the engine."""
