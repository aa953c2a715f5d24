"""`studio plugins why`: the whole story of a plugin that cannot be used."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import tyro

from studio.cli.arguments import parse
from studio.cli.console import out
from studio.errors import StudioError
from studio.extensions import ExtensionEntry, built_in_readers, list_extensions, load_extension
from studio.registry import PluginEntry, find_plugin, list_plugins, load_config_class, load_plugin_class


@dataclass
class Why:
    """Tell why a plugin or an extension cannot be used, with the traceback. One that is listed as ok is loaded
    to find out."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """A name of `studio plugins`."""


def main(argv: Sequence[str], started: float) -> int:
    """Print what is wrong; 1 if something is."""
    request = parse(Why, argv, prog="studio plugins why", positionals=1)
    entries = list_plugins(request.name)
    extensions = list_extensions(name=request.name)
    own = [entry for entry in built_in_readers() if entry.name == request.name]
    if not entries and not extensions and not own:
        find_plugin(request.name)
    console = out()
    found: list[PluginEntry | ExtensionEntry] = [*entries, *extensions]
    broken = [entry for entry in found if entry.status != "ok"]
    for entry in broken:
        console.print(f"{entry.name} {entry.version} of {entry.distribution}, declared by {entry.value}", markup=False)
        console.print(f"  {entry.reason}", style="red", markup=False)
        if entry.details:
            console.print(f"\n{entry.details.rstrip()}", markup=False)
    if broken:
        return 1
    loads: list[Callable[[], object]] = [partial(load_extension, entry.kind, entry.name) for entry in extensions]
    if entries:
        loads += [partial(load_config_class, entries[0]), partial(load_plugin_class, entries[0])]
    for load in loads:
        try:
            load()
        except Exception as error:  # a plugin may raise anything while it is imported
            console.print(error.message if isinstance(error, StudioError) else str(error), style="red", markup=False)
            console.print("".join(traceback.format_exception(error)).rstrip(), markup=False)
            return 1
    console.print(f"{request.name}: nothing is wrong with it; it can be loaded.", markup=False)
    if entries or any(entry.kind == "reader" for entry in (*extensions, *own)):
        console.print(f"What it does: studio plugins check {request.name}", style="dim", markup=False)
    return 0
