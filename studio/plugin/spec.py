"""What a plugin declares about itself. Plain strings only: reading a spec never imports torch or a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

API_VERSION = "1.0"
"""Version of the plugin contract. The minor number grows with additions, the major number with breaks."""

KINDS = ("field", "generator")
"""field: a scene representation, trained on posed photos. generator: a sample model, trained on a data set."""

CAPABILITIES: Mapping[str, tuple[str, ...]] = {
    "render": ("render",),
    "sample": ("sample",),
    "export": ("export",),
    "encode": ("encode",),
    "decode": ("decode",),
    "reconstruct": ("reconstruct",),
    "interpolate": ("interpolate",),
    "invert": ("invert",),
    "caption": ("caption",),
    "likelihood": ("log_likelihood",),
    "stream": ("stream",),
    "trajectory": ("trajectory",),
    "edit": ("edit",),
    "attention": ("attention_maps", "token_labels"),
    "density": ("density",),
    "inspect": ("ray_samples",),
    "gaussians": ("cloud", "from_gaussians"),
}
"""Every capability a spec may declare, and the methods that a class declaring it must have."""

DEVICES = ("cpu", "cuda", "mps")

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True)
class PluginSpec:
    """A plugin's declaration, exposed through the entry-point group ``studio.plugins``.

    Example:
        ``SPEC = PluginSpec(name="my_gen", kind="generator", summary="...", target="my_gen.model:MyGen",
        config="my_gen.config:MyGenConfig", capabilities=("sample",))``
    """

    name: str
    """What users type: lower-case letters, digits, '-' and '_'."""
    kind: str
    """One of `KINDS`."""
    summary: str
    """One line for `studio plugins`."""
    target: str
    """'package.module:Class' of the `Field` or `Generator` class; imported only when the plugin is used."""
    config: str
    """'package.module:Class' of its `PluginConfig` dataclass."""
    capabilities: tuple[str, ...] = ()
    """Keys of `CAPABILITIES`. 'render' (fields) and 'sample' (generators) are implied by the kind."""
    devices: tuple[str, ...] = ("cpu",)
    """Device types it runs on, out of cpu, cuda, mps."""
    api: str = ">=1,<2"
    """Range of `API_VERSION`s it was written against (PEP 440)."""
    presets: Mapping[str, str] = field(default_factory=dict)
    """Preset name -> one line of help. The config class holds the values."""

    def type_problems(self) -> list[str]:
        """The fields that are not even of their type, one line each."""
        found = [
            f"{label} is {value!r}, not a text"
            for label in ("name", "kind", "summary", "target", "config", "api")
            if not isinstance(value := getattr(self, label), str)
        ]
        for label in ("capabilities", "devices"):
            value = getattr(self, label)
            if not isinstance(value, tuple | list) or not all(isinstance(item, str) for item in value):
                found.append(f"{label} is {value!r}, not a tuple of texts")
        presets = self.presets
        if not isinstance(presets, Mapping) or not all(isinstance(t, str) for pair in presets.items() for t in pair):
            found.append(f"presets is {presets!r}, not a dict of texts")
        return found

    def problems(self) -> list[str]:
        """Everything wrong with the declaration, one line each; empty when it is valid."""
        if found := self.type_problems():
            return found
        if not _NAME.fullmatch(self.name):
            found.append(f"name {self.name!r} must match {_NAME.pattern}")
        if self.kind not in KINDS:
            found.append(f"kind {self.kind!r} must be one of {', '.join(KINDS)}")
        for label, value in (("target", self.target), ("config", self.config)):
            if not _TARGET.fullmatch(value):
                found.append(f"{label} {value!r} must look like 'package.module:Class'")
        found += [
            f"unknown capability {c!r}; known: {', '.join(CAPABILITIES)}"
            for c in self.capabilities
            if c not in CAPABILITIES
        ]
        found += [f"unknown device {d!r}; known: {', '.join(DEVICES)}" for d in self.devices if d not in DEVICES]
        if not self.devices:
            found.append("devices is empty; name at least 'cpu'")
        if reason := api_mismatch(self.api):
            found.append(reason)
        return found

    def all_capabilities(self) -> tuple[str, ...]:
        """Declared capabilities plus the one that the kind implies."""
        implied = {"field": "render", "generator": "sample"}.get(self.kind)
        extra = (implied,) if implied and implied not in self.capabilities else ()
        return extra + tuple(self.capabilities)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and the listing cache."""
        data = asdict(self)
        data["presets"] = dict(self.presets)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PluginSpec:
        """Inverse of `to_dict`."""
        return cls(**{**data, "capabilities": tuple(data["capabilities"]), "devices": tuple(data["devices"])})


def api_mismatch(api: str) -> str | None:
    """Why a plugin's API range does not admit this studio, or None when it does."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        admitted = SpecifierSet(api)
    except InvalidSpecifier:
        return f"api {api!r} is not a version range such as '>=1,<2'"
    if API_VERSION not in admitted:
        return f"needs plugin API {api}, this studio has {API_VERSION}; install versions that match"
    return None
