"""The plugin contract: what a plugin declares (`PluginSpec`) and what its class offers (`Field`, `Generator`).

Importing this package imports no torch: `PluginSpec` is plain strings. The base classes are loaded when first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from studio.plugin.config import PluginConfig
from studio.plugin.spec import API_VERSION, CAPABILITIES, KINDS, PluginSpec

if TYPE_CHECKING:
    from studio.plugin.base import DataInfo, Field, Generator, Plugin, SampleOptions, SceneInfo, TrainingContext
    from studio.plugin.batches import (
        PhotoBatch,
        PhotoRequest,
        RayBatch,
        RayRequest,
        SampleBatch,
        SampleRequest,
        TokenBatch,
        TokenRequest,
    )

_LAZY = {
    "DataInfo": "studio.plugin.base",
    "Field": "studio.plugin.base",
    "Generator": "studio.plugin.base",
    "Plugin": "studio.plugin.base",
    "SampleOptions": "studio.plugin.base",
    "SceneInfo": "studio.plugin.base",
    "TrainingContext": "studio.plugin.base",
    "PhotoBatch": "studio.plugin.batches",
    "PhotoRequest": "studio.plugin.batches",
    "RayBatch": "studio.plugin.batches",
    "RayRequest": "studio.plugin.batches",
    "SampleBatch": "studio.plugin.batches",
    "SampleRequest": "studio.plugin.batches",
    "TokenBatch": "studio.plugin.batches",
    "TokenRequest": "studio.plugin.batches",
}

__all__ = [
    "API_VERSION",
    "CAPABILITIES",
    "KINDS",
    "DataInfo",
    "Field",
    "Generator",
    "PhotoBatch",
    "PhotoRequest",
    "Plugin",
    "PluginConfig",
    "PluginSpec",
    "RayBatch",
    "RayRequest",
    "SampleBatch",
    "SampleOptions",
    "SampleRequest",
    "SceneInfo",
    "TokenBatch",
    "TokenRequest",
    "TrainingContext",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
