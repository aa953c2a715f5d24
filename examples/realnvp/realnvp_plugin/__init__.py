"""RealNVP as a plugin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from studio.plugin import PluginConfig, PluginSpec


@dataclass
class FlowConfig(PluginConfig):
    """A normalising flow."""

    PRESETS: ClassVar = {"mnist": {"width": 512, "couplings": 10, "batch": 128, "lr": 5e-4, "steps": 6000}}
    CHECK: ClassVar = {"width": 32, "couplings": 4, "batch": 64}

    steps: int = 3000
    """Training steps."""
    couplings: int = 8
    """Affine couplings; each changes half of the dimensions, two in a row all of them."""
    width: int = 64
    """Numbers in a hidden layer."""
    batch: int = 256
    """Samples a step."""
    lr: float = 2e-3
    """Learning rate at the start; it falls to zero along a cosine."""


SPEC = PluginSpec(
    name="realnvp",
    kind="generator",
    summary="RealNVP: a normalising flow of affine couplings, with exact likelihood.",
    target="realnvp_plugin.flow:RealNVP",
    config="realnvp_plugin:FlowConfig",
    capabilities=("sample", "encode", "decode", "likelihood"),
    devices=("cpu", "cuda", "mps"),
    presets={"mnist": "wider and deeper, for 28x28 pictures"},
)
