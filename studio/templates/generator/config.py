"""Options of the plugin; each is a flag of `studio train`, and the text below it that flag's help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from studio.errors import StudioError
from studio.plugin import PluginConfig, SampleOptions


@dataclass
class TemplateConfig(PluginConfig):
    """Flow matching with a residual network."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": {"steps": 1500, "width": 256},
        "default": {},
    }
    CHECK: ClassVar[Mapping[str, Any]] = {"width": 32, "batch": 64}

    steps: int = 4000
    """Training steps."""
    width: int = 512
    """Numbers in a hidden layer."""
    blocks: int = 3
    """Residual blocks."""
    batch: int = 128
    """Samples a step."""
    lr: float = 1e-3
    """Learning rate at the start; it falls to zero along a cosine."""
    label_dropout: float = 0.1
    """Share of the samples whose class is hidden, so that the model can do without."""


@dataclass
class TemplateSampling(SampleOptions):
    """How samples are drawn."""

    ode_steps: int = 50
    """Steps from noise to sample; more are slower and more exact."""

    def __post_init__(self) -> None:
        if self.ode_steps < 1:
            raise StudioError(f"ode_steps: {self.ode_steps} is no number of steps.", fix="Give 1 or more.")
