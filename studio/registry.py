"""Finding, checking and lazily loading plugins.

Listing never imports a plugin into this process (see `studio.probing`). A plugin that raises, hangs or lacks a package
is listed with its reason and harms no other command.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from studio.errors import StudioError
from studio.plugin.spec import API_VERSION, CAPABILITIES, PluginSpec
from studio.probing import Registration, declarations, import_target, registrations

if TYPE_CHECKING:
    from studio.plugin.base import Plugin
    from studio.plugin.config import PluginConfig

GROUP = "studio.plugins"
ENVIRONMENT = "STUDIO_PLUGINS"
PROBE_SECONDS = 20.0
"""How long importing a declaration, which is strings only, may take."""


@dataclass(frozen=True)
class PluginEntry:
    """One registration: what an entry point or `STUDIO_PLUGINS` said, and what was found behind it."""

    name: str
    value: str
    """'module:attribute' of the `PluginSpec`."""
    distribution: str
    version: str
    spec: PluginSpec | None
    status: str
    """'ok' or 'broken'."""
    reason: str
    """Empty when ok, else one line."""
    details: str = ""
    """Traceback of a broken plugin."""

    def to_dict(self) -> dict[str, Any]:
        """The stable JSON form of `studio plugins --json`."""
        spec = self.spec
        return {
            "name": self.name,
            "kind": spec.kind if spec else None,
            "version": self.version,
            "distribution": self.distribution,
            "summary": spec.summary if spec else None,
            "capabilities": list(spec.all_capabilities()) if spec else [],
            "devices": list(spec.devices) if spec else [],
            "presets": dict(spec.presets) if spec else {},
            "status": self.status,
            "reason": self.reason,
        }


def _registrations() -> list[Registration]:
    found = registrations((GROUP,))
    for item in filter(None, (part.strip() for part in os.environ.get(ENVIRONMENT, "").split(","))):
        name, _, value = item.partition("=")
        found.append(Registration(name.strip(), value.strip(), f"${ENVIRONMENT}", "-", GROUP))
    return list(dict.fromkeys(found))


def describe(found: Any, registration: Registration) -> dict[str, Any]:
    """What a listing keeps of a declaration; called where it was imported, in a process of its own."""
    if not isinstance(found, PluginSpec):
        return {"reason": f"{registration.value} is a {type(found).__name__}, not a PluginSpec"}
    if wrong := found.type_problems():
        return {"reason": "; ".join(wrong)}
    return {"spec": found.to_dict()}


def _spec(answer: Mapping[str, Any]) -> PluginSpec:
    """The declaration in an answer that has no reason; raises where there is none."""
    spec = PluginSpec.from_dict(answer["spec"])
    if wrong := spec.type_problems():
        raise TypeError(wrong[0])
    return spec


def _entry(registration: Registration, answer: Mapping[str, Any]) -> PluginEntry:
    spec, reason, details = None, answer.get("reason", ""), answer.get("details", "")
    if not reason:
        spec = _spec(answer)
        problems = spec.problems()
        if spec.name != registration.name:
            problems.insert(0, f"is registered as '{registration.name}' but its spec says '{spec.name}'")
        reason = "; ".join(problems)
    status = "broken" if reason else "ok"
    return PluginEntry(
        registration.name,
        registration.value,
        registration.distribution,
        registration.version,
        spec,
        status,
        reason,
        details,
    )


def plugin_names() -> list[str]:
    """The names of all registered plugins, broken ones too, sorted. Reads no declaration, so it takes no time."""
    return sorted({registration.name for registration in _registrations()})


def list_plugins(name: str | None = None, *, refresh: bool = False) -> list[PluginEntry]:
    """Every registered plugin, or those of one name, sorted, broken ones with their reason.

    Imports no plugin and no torch. With a name no other plugin is looked at, so none can take time; one that
    hung before is given another chance.
    """
    found = [registration for registration in _registrations() if name in (None, registration.name)]
    answers = declarations(
        found,
        "studio.registry:describe",
        version=API_VERSION,
        cache="plugins.json",
        seconds=PROBE_SECONDS,
        check=_spec,
        retry=name is not None,
        refresh=refresh,
    )
    entries = [_entry(registration, answer) for registration, answer in zip(found, answers, strict=True)]
    by_name: dict[str, list[PluginEntry]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    return [_refuse_shadowing(group, entry) for _, group in sorted(by_name.items()) for entry in group]


def _refuse_shadowing(group: list[PluginEntry], entry: PluginEntry) -> PluginEntry:
    if len(group) == 1:
        return entry
    owners = " and ".join(sorted(f"{e.distribution} ({e.value})" for e in group))
    reason = f"two plugins are named '{entry.name}': {owners}; uninstall or rename one"
    return PluginEntry(entry.name, entry.value, entry.distribution, entry.version, entry.spec, "broken", reason)


def find_plugin(name: str) -> PluginEntry:
    """The usable plugin of this name.

    Raises:
        StudioError: Unknown (names the nearest), broken (says why), or claimed by two distributions.
    """
    match = next(iter(list_plugins(name)), None)
    if match is None:
        names = plugin_names()
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"Installed plugins: {', '.join(names) or 'none'}."
        raise StudioError(f"There is no plugin named '{name}'.", fix=hint)
    if match.status != "ok":
        raise StudioError(
            f"Plugin '{name}' ({match.distribution}) cannot be used: {match.reason}.",
            fix=f"See: studio plugins why {name}",
        )
    return match


def load_config_class(entry: PluginEntry) -> type[PluginConfig]:
    """Import a plugin's configuration class, and nothing else of it."""
    from studio.plugin.config import PluginConfig, config_problems

    config = _load(entry, entry.spec.config if entry.spec else entry.value)
    if not (isinstance(config, type) and issubclass(config, PluginConfig)):
        raise StudioError(f"Plugin '{entry.name}': config {config!r} is not a subclass of studio.plugin.PluginConfig.")
    if problems := config_problems(config):
        raise StudioError(
            f"Plugin '{entry.name}': {config.__module__}.{config.__name__}: {problems[0]}.",
            fix=f"Its author ({entry.distribution}) has to change it.",
        )
    return config


def load_plugin_class(entry: PluginEntry) -> type[Plugin]:
    """Import a plugin's class and check that it keeps what its spec declares.

    Raises:
        StudioError: The import fails, the class is of the wrong kind, or a declared capability's method is missing.
    """
    from studio.plugin.base import Field, Generator, Plugin
    from studio.plugin.deprecation import warn_of_overridden

    assert entry.spec is not None
    cls = _load(entry, entry.spec.target)
    base = {"field": Field, "generator": Generator}[entry.spec.kind]
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise StudioError(
            f"Plugin '{entry.name}': {entry.spec.target} is not a subclass of studio.plugin.{base.__name__}."
        )
    for capability in entry.spec.all_capabilities():
        for method in CAPABILITIES[capability]:
            if getattr(cls, method, None) is getattr(base, method, None):
                raise StudioError(
                    f"Plugin '{entry.name}' declares the capability '{capability}', "
                    f"but {entry.spec.target} has no method '{method}'."
                )
    if not issubclass(cls, Plugin) or "train" in vars(cls):
        raise StudioError(f"Plugin '{entry.name}': {entry.spec.target} overrides nn.Module.train, which breaks eval().")
    warn_of_overridden(cls, base)
    return cls


def _load(entry: PluginEntry, target: str) -> Any:
    try:
        return import_target(target)
    except ModuleNotFoundError as error:
        raise _missing(entry, target, error.name or "") from error
    except (ImportError, AttributeError, ValueError) as error:
        raise StudioError(f"Plugin '{entry.name}' cannot be loaded from {target}: {error}.") from error


def _missing(entry: PluginEntry, target: str, name: str) -> StudioError:
    """A module is not there: a package that the plugin needs, or a part of the plugin itself."""
    own = target.partition(":")[0].partition(".")[0]
    if name.partition(".")[0] != own:
        return StudioError(
            f"Plugin '{entry.name}' needs the package '{name}', which is not installed.", fix=f"pip install {name}"
        )
    found = importlib.util.find_spec(own)
    if found is not None and found.origin is None and found.submodule_search_locations:
        # A folder without __init__.py, such as that of the plugin's project; the studio's commands never look there.
        folder = next(iter(found.submodule_search_locations))
        return StudioError(
            f"Plugin '{entry.name}': the folder {folder} hides its package '{own}' from this Python.",
            fix="Start Python in another folder, or move the package into src/ as `studio plugins new` does.",
        )
    return StudioError(
        f"Plugin '{entry.name}': its module '{name}' is not there.", fix=f"Install {entry.distribution} again."
    )
