"""Commands on a trained generator: the run among the arguments, its abilities, and its own sampling options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import tyro

from studio.cli.arguments import arguments_of, parse, wants_help
from studio.errors import StudioError
from studio.reading.files import is_folder
from studio.registry import find_plugin, load_plugin_class
from studio.training.run import RunFolder

if TYPE_CHECKING:
    from studio.training.run import RunConfig

T = TypeVar("T")


@dataclass(frozen=True)
class RunCommand(Generic[T]):
    """A command, parsed."""

    request: T
    options: dict[str, Any]
    """Those of the plugin's `sample_options` that differ from their defaults."""
    folder: RunFolder


def parse_for_run(
    command: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    positionals: int = 1,
    capability: str = "sample",
    sampling: bool = False,
) -> RunCommand[T]:
    """Parse a command whose first positional argument is the run of a generator, with a field `run`.

    Args:
        command: A dataclass, as of `studio.cli.arguments.parse`.
        argv: Without the command's own name.
        prog: The command.
        positionals: How many there may be.
        capability: What the plugin must be able to do.
        sampling: Offer the plugin's sampling options, too.

    Raises:
        StudioError: No run there, or one that cannot do this; also all that `parse` raises.
    """
    folder = find_run(command, argv, positionals)
    if folder is None:
        # Shows the help or the fault in the arguments; what is no run at all is told by opening it.
        request: Any = parse(command, argv, prog=prog, positionals=positionals)
        folder = RunFolder.open(request.run)
    config = folder.read_config()
    if not wants_help(argv):
        require(folder, config, capability)
    if not sampling or config.kind != "generator":
        return RunCommand(parse(command, argv, prog=prog, positionals=positionals), {}, folder)
    options_class = load_plugin_class(find_plugin(config.plugin)).sample_options  # type: ignore[attr-defined]
    combined = _combine(command, options_class, config.plugin)
    parsed: Any = parse(combined, argv, prog=prog, positionals=positionals)
    default, chosen = options_class(), parsed.sampling
    options = {
        field.name: getattr(chosen, field.name)
        for field in dataclasses.fields(options_class)
        if getattr(chosen, field.name) != getattr(default, field.name)
    }
    return RunCommand(parsed, options, folder)


def require(folder: RunFolder, config: RunConfig, capability: str) -> None:
    """Raise a StudioError unless the run's plugin declares a capability."""
    entry = find_plugin(config.plugin)
    assert entry.spec is not None
    if config.kind != "generator":
        raise StudioError(
            f"{folder.path}: a run of '{config.plugin}', which is no generator but a scene.",
            fix="`studio render` shows it.",
        )
    able = entry.spec.all_capabilities()
    if capability not in able:
        raise StudioError(
            f"{folder.path}: '{config.plugin}' cannot do this: it lacks the capability '{capability}'.",
            fix=f"It has: {', '.join(able)}.",
        )


def find_run(command: type[Any], argv: Sequence[str], positionals: int) -> RunFolder | None:
    """The first argument that may be a positional one and is a run (the plugin's flags are not known yet), or None."""
    for place in arguments_of(command).positions(argv, positionals):
        if is_folder(Path(argv[place]).expanduser()):
            try:
                return RunFolder.open(Path(argv[place]))
            except StudioError:
                continue
    return None


def _combine(command: type[Any], options: type[Any], plugin: str) -> type[Any]:
    taken = {field.name for field in dataclasses.fields(command)} | {"help"}
    clash = sorted(taken & {field.name for field in dataclasses.fields(options)})
    if clash:
        raise StudioError(
            f"The sampling option '{clash[0]}' of plugin '{plugin}' clashes with the command's own option.",
            fix="Its author has to rename the field.",
        )
    return dataclasses.make_dataclass(
        command.__name__,
        [("sampling", tyro.conf.OmitArgPrefixes[options], dataclasses.field(default_factory=options))],  # type: ignore[misc, valid-type]
        bases=(command,),
        namespace={"__doc__": command.__doc__},
    )
