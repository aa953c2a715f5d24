"""Checks of what a plugin declares, before anything is built."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

from studio.plugin import PluginConfig, PluginSpec
from studio.plugin.deprecation import ApiDeprecationWarning
from studio.plugin.spec import API_VERSION, api_mismatch
from studio.processes import clean_environment, clean_python
from studio.registry import PluginEntry, load_config_class, load_plugin_class
from studio.testing.report import CheckFailed, NotApplicable

if TYPE_CHECKING:
    from studio.plugin import Plugin

_LOADED = """
import importlib, sys
importlib.import_module(sys.argv[1])
print(*(name for name in sys.argv[2:] if name in sys.modules))
"""
_HEAVY = ("torch", "numba", "jax", "tensorflow")


def check_declaration(entry: PluginEntry) -> str | None:
    """It can be read and says nothing impossible."""
    if entry.spec is None:
        raise CheckFailed(f"{entry.reason}.", f"The traceback: studio plugins why {entry.name}")
    problems = [p for p in entry.spec.problems() if p != api_mismatch(entry.spec.api)]
    if problems:
        raise CheckFailed("; ".join(problems) + ".", "Change the PluginSpec.")
    if entry.status != "ok" and not api_mismatch(entry.spec.api):
        raise CheckFailed(
            f"{entry.reason}.", "Give it a name of its own, the same in the entry point and the PluginSpec."
        )
    if len(entry.spec.summary) > 120 or "\n" in entry.spec.summary or not entry.spec.summary.strip():
        raise CheckFailed("its summary is not one line of at most 120 characters.", "Shorten PluginSpec.summary.")
    return None


def check_api(spec: PluginSpec) -> str | None:
    """It admits this version of the contract, and not the next one that breaks it."""
    from packaging.specifiers import SpecifierSet

    major = int(API_VERSION.partition(".")[0])
    fix = f'Write api=">={major},<{major + 1}".'
    if reason := api_mismatch(spec.api):
        raise CheckFailed(f"{reason}.", fix)
    if f"{major + 1}.0" in SpecifierSet(spec.api):
        raise CheckFailed(f"its API range {spec.api} admits {major + 1}.0, which may break it.", fix)
    return None


def check_import(entry: PluginEntry) -> str | None:
    """Reading the declaration loads nothing heavy: every `studio` command reads it."""
    module = entry.value.partition(":")[0]
    if not module:
        raise NotApplicable("it is not registered, but given as a PluginSpec.")
    # The child looks for modules where this process does.
    command = clean_python(module, *_HEAVY, code=_LOADED, path=sys.path)
    done = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), timeout=60)
    if done.returncode != 0:
        raise CheckFailed(f"{module} cannot be imported: {done.stderr.strip().splitlines()[-1]}.")
    heavy = done.stdout.rstrip("\n").rpartition("\n")[2]
    if heavy:
        raise CheckFailed(
            f"importing {module} loads {heavy}, which slows down every command.",
            "Import the model where it is used; the PluginSpec names it by strings.",
        )
    return None


def check_class(entry: PluginEntry) -> tuple[type[Plugin], str | None]:
    """It is of its kind and has the methods that its capabilities promise; the class, and a remark."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ApiDeprecationWarning)
        cls = load_plugin_class(entry)
    old = [str(w.message) for w in caught if issubclass(w.category, ApiDeprecationWarning)]
    return cls, "; ".join(old) or None


def check_config(entry: PluginEntry) -> type[PluginConfig]:
    """Its fields are of supported types, and survive a way through JSON; the class."""
    cls = load_config_class(entry)
    _round_trip(cls, cls(), "the default configuration")
    if cls.CHECK:
        _round_trip(cls, cls.from_dict(cls.CHECK, source="CHECK"), "CHECK")
    return cls


def check_presets(spec: PluginSpec, cls: type[PluginConfig]) -> str | None:
    """The declared ones and those of the class are the same, and each can be loaded."""
    declared, there = set(spec.presets), set(cls.PRESETS)
    if missing := sorted(declared - there - {"default"}):
        raise CheckFailed(
            f"the PluginSpec declares the preset '{missing[0]}', which {cls.__name__}.PRESETS lacks.",
            "Give it its values there.",
        )
    if hidden := sorted(there - declared):
        raise CheckFailed(
            f"{cls.__name__}.PRESETS has '{hidden[0]}', which the PluginSpec does not declare.",
            "Add it to PluginSpec.presets with a line of help.",
        )
    if not declared:
        raise NotApplicable("it has no presets.")
    for name in sorted(declared):
        _round_trip(cls, cls.preset(name), f"preset {name}")
    return ", ".join(sorted(declared))


def _round_trip(cls: type[PluginConfig], config: PluginConfig, what: str) -> None:
    try:
        text = json.dumps(config.to_dict(), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckFailed(
            f"{what} is not plain data: {error}.", "Use the field types that the contract names."
        ) from None
    again = cls.from_dict(json.loads(text), source=what)
    if again != config:
        before, after = config.to_dict(), again.to_dict()
        names = [name for name in before if before[name] != after[name] or _types(config, name) != _types(again, name)]
        raise CheckFailed(
            f"{what} is not the same after to_dict and from_dict (field '{(names or ['?'])[0]}').",
            "Let __post_init__ leave values as they were given, and annotate fields as what they hold.",
        )


def _types(config: PluginConfig, name: str) -> Any:
    return type(getattr(config, name))


def check_command_line(entry: PluginEntry) -> str | None:
    """`studio train NAME DATA` understands its options."""
    from studio.cli.train_arguments import read_train_arguments

    if not entry.value:
        raise NotApplicable("it is not registered, but given as a PluginSpec.")
    try:
        read_train_arguments([entry.name, "DATA"])
    except SystemExit as stop:
        raise CheckFailed("`studio train` cannot read its options.", f"Try: studio train {entry.name} --help") from stop
    return None
