"""Extension points besides models: readers, exporters, camera paths and metrics that other packages bring.

Each is an object that a distribution names by an entry point, ``name = "package.module:OBJECT"``, in the group of its
kind. Like plugins they are looked at in a process of their own first (see `studio.probing`), so one that raises or
hangs at import is listed with the reason, and only a command that asks for it by name fails.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from studio import __version__
from studio.errors import StudioError
from studio.plugin.spec import API_VERSION
from studio.probing import Registration, declarations, import_target, registrations


@dataclass(frozen=True)
class ExtensionPoint:
    """One kind of extension."""

    group: str
    """The group of entry points."""
    members: tuple[str, ...]
    """What each object must have: the members of `Reader`, `Exporter`, `PathMaker` or `PhotoMetric`, which stand here
    because importing those would import torch."""
    built_in: tuple[str, ...]
    """Names of the studio's own, which nobody else can take."""


PROBE_SECONDS = 60.0
"""How long importing an extension may take; most import torch, which on a busy machine is slow."""

READERS: Mapping[str, str] = {
    "transforms": "transforms.json of nerfstudio and instant-ngp",
    "blender": "transforms_train.json of Blender scenes such as NeRF-synthetic",
    "colmap": "sparse models of COLMAP, binary or text",
    "llff": "poses_bounds.npy",
}
"""The studio's readers and what they read, in the order of detection: a mip-NeRF 360 scene has a COLMAP model and LLFF
poses, and the first says more."""

POINTS: Mapping[str, ExtensionPoint] = {
    "reader": ExtensionPoint("studio.readers", ("name", "detect", "read"), tuple(READERS)),
    "exporter": ExtensionPoint(
        "studio.exporters",
        ("name", "summary", "ending", "export"),
        ("ply", "compressed-ply", "splat", "spz", "glb", "html", "mesh", "pointcloud", "list"),
    ),
    "camera path": ExtensionPoint(
        "studio.camera_paths",
        ("name", "summary", "cameras"),
        ("orbit", "spiral", "interpolate", "train", "val", "test"),
    ),
    "metric": ExtensionPoint("studio.metrics", ("name", "summary", "measure"), ("psnr", "ssim", "lpips")),
}
"""Kind -> what it takes to be one."""


@dataclass(frozen=True)
class ExtensionEntry:
    """One registration of an extension, and what was found behind it."""

    name: str
    kind: str
    """A key of `POINTS`."""
    value: str
    """'module:attribute' of the object."""
    distribution: str
    version: str
    summary: str
    """One line; empty where the object has none."""
    status: str
    """'ok' or 'broken'."""
    reason: str
    """Empty when ok, else one line."""
    details: str = ""
    """Traceback of a broken one."""

    def to_dict(self) -> dict[str, Any]:
        """As plugins are given by `studio plugins --json`."""
        return {
            "name": self.name,
            "kind": self.kind,
            "version": self.version,
            "distribution": self.distribution,
            "summary": self.summary or None,
            "capabilities": [],
            "devices": [],
            "presets": {},
            "status": self.status,
            "reason": self.reason,
        }


def built_in_readers() -> list[ExtensionEntry]:
    """The studio's own readers, as `studio plugins` lists them."""
    return [
        ExtensionEntry(name, "reader", f"studio.readers.{name}:READER", "neural-studio", __version__, summary, "ok", "")
        for name, summary in READERS.items()
    ]


def list_extensions(kind: str | None = None, name: str | None = None, *, refresh: bool = False) -> list[ExtensionEntry]:
    """What other packages bring, of one kind or of all, by kind and name, broken ones with their reason.

    Imports none of it, and no torch. With a name no other is looked at, and one that hung gets another chance.
    """
    # Only those asked for are looked at, so that an exporter that hangs costs no reader its time.
    kinds = {point.group: title for title, point in POINTS.items() if kind in (None, title)}
    found = [registration for registration in registrations(tuple(kinds)) if name in (None, registration.name)]
    answers = declarations(
        found,
        "studio.extensions:describe",
        version=API_VERSION,
        cache="extensions.json",
        seconds=PROBE_SECONDS,
        check=_summary,
        retry=name is not None,
        refresh=refresh,
    )
    entries = [_entry(kinds[r.group], r, answer) for r, answer in zip(found, answers, strict=True)]
    entries.sort(key=lambda entry: (entry.kind, entry.name, entry.distribution))
    return [_refuse_shadowing(entry, entries) for entry in entries]


def extension_names(kind: str) -> tuple[str, ...]:
    """Names of the usable ones of a kind that other packages bring."""
    return tuple(entry.name for entry in list_extensions(kind) if entry.status == "ok")


def load_extension(kind: str, name: str) -> Any:
    """The object of this name; it keeps the protocol of its kind.

    Raises:
        StudioError: There is none, it is broken, or it raises when it is imported.
    """
    match = next(iter(list_extensions(kind, name)), None)
    if match is None:
        names = [*POINTS[kind].built_in, *(entry.name for entry in list_extensions(kind))]
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else f"There are {', '.join(names)}."
        raise StudioError(f"There is no {kind} named '{name}'.", fix=hint)
    if match.status != "ok":
        raise StudioError(
            f"The {kind} '{name}' ({match.distribution}) cannot be used: {match.reason}.",
            fix=f"See: studio plugins why {name}",
        )
    try:
        return import_target(match.value)
    except Exception as error:  # it may raise here what it did not raise when it was listed
        raise StudioError(
            f"The {kind} '{name}' cannot be loaded from {match.value} ({type(error).__name__}: {error}).",
            fix=f"Update or uninstall {match.distribution}.",
        ) from error


def describe(found: Any, registration: Registration) -> dict[str, Any]:
    """What a listing keeps of an object; called where it was imported, in a process of its own."""
    point = next(point for point in POINTS.values() if point.group == registration.group)
    if isinstance(found, type):
        return {"reason": f"{registration.value} is a class; register an object of it"}
    if missing := [name for name in point.members if not hasattr(found, name)]:
        return {"reason": f"{registration.value} has no '{missing[0]}'"}
    if found.name != registration.name:
        return {"reason": f"is registered as '{registration.name}' but its name is '{found.name}'"}
    return {"summary": str(getattr(found, "summary", ""))}


def _summary(answer: Mapping[str, Any]) -> str:
    """The summary in an answer that has no reason; raises where there is none."""
    summary = answer["summary"]
    if not isinstance(summary, str):
        raise TypeError("a summary is a text")
    return summary


def _entry(kind: str, registration: Registration, answer: Mapping[str, Any]) -> ExtensionEntry:
    reason = answer.get("reason", "")
    if registration.name in POINTS[kind].built_in:
        reason = "the studio has one of this name itself; rename it"
    return ExtensionEntry(
        registration.name,
        kind,
        registration.value,
        registration.distribution,
        registration.version,
        "" if answer.get("reason") else _summary(answer),
        "broken" if reason else "ok",
        reason,
        answer.get("details", ""),
    )


def _refuse_shadowing(entry: ExtensionEntry, all_entries: list[ExtensionEntry]) -> ExtensionEntry:
    owners = [other for other in all_entries if (other.kind, other.name) == (entry.kind, entry.name)]
    if len(owners) == 1:
        return entry
    named = " and ".join(f"{other.distribution} ({other.value})" for other in owners)
    reason = f"two packages offer a {entry.kind} '{entry.name}': {named}; uninstall one"
    return replace(entry, status="broken", reason=reason)
