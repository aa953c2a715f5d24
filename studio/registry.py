"""Finding, checking and lazily loading plugins.

Listing never imports a plugin into this process: each declaration is read once by a short-lived subprocess with a time
limit, and remembered until the plugin's files or version change. A plugin that raises, hangs or lacks a package is
listed with its reason and harms no other command.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import StudioError
from studio.plugin.spec import API_VERSION, CAPABILITIES, PluginSpec

if TYPE_CHECKING:
    from studio.plugin.base import Plugin
    from studio.plugin.config import PluginConfig

GROUP = "studio.plugins"
ENVIRONMENT = "STUDIO_PLUGINS"
PROBE_SECONDS = 20.0


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


@dataclass(frozen=True)
class _Registration:
    name: str
    value: str
    distribution: str
    version: str

    def fingerprint(self) -> str:
        """Changes whenever the plugin's declaring files, its version, the studio's API or Python change."""
        module = self.value.partition(":")[0]
        # Installing a missing package touches its site-packages folder, and so makes a broken plugin be read again.
        stamps = [f"{p}:{os.stat(p).st_mtime_ns}" for p in sys.path if p.endswith("site-packages") and os.path.isdir(p)]
        try:
            # Looking up a top-level name imports nothing, which find_spec on a submodule would.
            top = importlib.util.find_spec(module.partition(".")[0])
            origin = Path(top.origin) if top and top.origin else None
            files = [origin] if origin else []
            if origin and "." in module:
                files.append(origin.parent.joinpath(*module.split(".")[1:]).with_suffix(".py"))
            stamps += [f"{f}:{f.stat().st_mtime_ns}" for f in files if f and f.is_file()]
        except (ImportError, ValueError, OSError):
            stamps.append("unlocated")
        return "|".join([self.name, self.value, self.distribution, self.version, API_VERSION, sys.version, *stamps])


def _registrations() -> list[_Registration]:
    found = []
    for point in importlib.metadata.entry_points(group=GROUP):
        dist = point.dist
        found.append(_Registration(point.name, point.value, dist.name if dist else "?", dist.version if dist else "?"))
    for item in filter(None, (part.strip() for part in os.environ.get(ENVIRONMENT, "").split(","))):
        name, _, value = item.partition("=")
        found.append(_Registration(name.strip(), value.strip(), f"${ENVIRONMENT}", "-"))
    # The same distribution can be seen twice, through an editable install and its source folder on sys.path.
    return list(dict.fromkeys(found))


def _cache_file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "neural-studio" / "plugins.json"


def _read_cache() -> dict[str, Any]:
    try:
        data = json.loads(_cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _write_cache(data: dict[str, Any]) -> None:
    """Best effort: a listing must work with a read-only home."""
    path = _cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as handle:
            json.dump(data, handle)
        os.replace(handle.name, path)
    except OSError:
        return


def _probe(registrations: Iterable[_Registration]) -> dict[_Registration, dict[str, Any]]:
    """Read declarations in subprocesses, all at once, each killed after `PROBE_SECONDS`."""
    running = {}
    for registration in registrations:
        command = [sys.executable, "-m", "studio.registry", registration.value]
        running[registration] = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PROBE_SECONDS
    answers: dict[_Registration, dict[str, Any]] = {}
    for registration, process in running.items():
        try:
            out, err = process.communicate(timeout=max(deadline - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            answers[registration] = {
                "reason": f"importing {registration.value} did not finish within {PROBE_SECONDS:.0f} s "
                "(studio plugins --refresh tries again)"
            }
            continue
        try:
            # A plugin may print while it is imported; the answer is the last line.
            answers[registration] = json.loads(out.strip().rpartition("\n")[2])
        except ValueError:
            answers[registration] = {"reason": f"importing {registration.value} ended the process", "details": err}
    return answers


def _read_spec(value: str) -> dict[str, Any]:
    """Import 'module:attribute' and describe it; runs inside the probing subprocess."""
    try:
        spec = _import_target(value)
        if not isinstance(spec, PluginSpec):
            return {"reason": f"{value} is a {type(spec).__name__}, not a PluginSpec"}
        return {"spec": spec.to_dict()}
    except BaseException as error:  # a plugin may raise anything, SystemExit included, and only its reason matters here
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if isinstance(error, ModuleNotFoundError) and error.name:
            reason = f"needs the package '{error.name}', which is not installed (pip install {error.name})"
        return {"reason": reason, "details": traceback.format_exc()}


def _import_target(value: str) -> Any:
    module, _, attribute = value.partition(":")
    if not attribute:
        raise ValueError(f"'{value}' must look like 'package.module:ATTRIBUTE'")
    return getattr(importlib.import_module(module), attribute)


def _entry(registration: _Registration, answer: dict[str, Any]) -> PluginEntry:
    spec, reason, details = None, answer.get("reason", ""), answer.get("details", "")
    if "spec" in answer:
        spec = PluginSpec.from_dict(answer["spec"])
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


def list_plugins(*, refresh: bool = False) -> list[PluginEntry]:
    """Every registered plugin, sorted by name, broken ones with their reason. Imports no plugin and no torch."""
    registrations = _registrations()
    cache = {} if refresh else _read_cache()
    prints = {r: r.fingerprint() for r in registrations}
    unknown = [r for r in registrations if prints[r] not in cache]
    if unknown:
        for registration, answer in _probe(unknown).items():
            cache[prints[registration]] = answer
        _write_cache({p: cache[p] for p in prints.values()})
    entries = [_entry(r, cache[prints[r]]) for r in registrations]
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
    entries = list_plugins()
    match = next((e for e in entries if e.name == name), None)
    if match is None:
        names = sorted({e.name for e in entries})
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
        return _import_target(target)
    except ModuleNotFoundError as error:
        raise StudioError(
            f"Plugin '{entry.name}' needs the package '{error.name}', which is not installed.",
            fix=f"pip install {error.name}",
        ) from error
    except (ImportError, AttributeError, ValueError) as error:
        raise StudioError(f"Plugin '{entry.name}' cannot be loaded from {target}: {error}.") from error


if __name__ == "__main__":
    print(json.dumps(_read_spec(sys.argv[1])))
