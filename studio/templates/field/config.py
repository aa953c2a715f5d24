"""Options of the plugin; each is a flag of `studio train`, and the text below it that flag's help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from studio.plugin import PluginConfig


@dataclass
class TemplateConfig(PluginConfig):
    """A small radiance field."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"steps": 800},
        "default": {},
    }
    CHECK: ClassVar[Mapping[str, Any]] = {"width": 32, "rays": 64, "samples": 24}

    steps: int = 4000
    """Training steps."""
    frequencies: int = 7
    """Octaves of sines and cosines that the network sees of a position."""
    width: int = 64
    """Numbers in a hidden layer."""
    rays: int = 512
    """Pixels a step."""
    samples: int = 64
    """Points along a ray."""
    lr: float = 2e-3
    """Learning rate at the start; it falls to a twentieth along a cosine."""
