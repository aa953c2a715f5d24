"""`studio info`: a plugin's networks and their sizes, its options and what it can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from studio.cli.arguments import PositiveInt, parse
from studio.cli.console import out, print_json
from studio.errors import StudioError
from studio.reading.files import is_file
from studio.registry import PluginEntry, find_plugin, load_config_class, load_plugin_class

if TYPE_CHECKING:
    from torch import nn

    from studio.plugin.base import Plugin


@dataclass
class Info:
    """Show a plugin: parameters of every network, options, presets and abilities; or those of a trained run."""

    plugin: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PLUGIN")]
    """A name of `studio plugins`, or a run folder."""
    preset: str | None = None
    """Build it with this preset."""
    num_train: PositiveInt = 1
    """Training photos that a field is built for."""
    sample_shape: tuple[PositiveInt, ...] = (2,)
    """Shape of the samples that a generator is built for, such as 3 32 32."""
    num_classes: PositiveInt | None = None
    """Classes that a generator is built for."""
    json: bool = False
    """Print JSON, and nothing else on standard output."""


def main(argv: Sequence[str], started: float) -> int:
    """Build the plugin and print what it is made of."""
    request = parse(Info, argv, prog="studio info", positionals=1)
    run = _run_folder(request.plugin)
    if run is not None:
        from studio.training.loaded import open_run

        opened = open_run(run, device="cpu")
        entry, plugin, preset = find_plugin(opened.config.plugin), opened.plugin, opened.config.preset
        if request.preset is not None:
            raise StudioError("--preset: a run has its own configuration.", fix="Leave it out, or name the plugin.")
    else:
        entry, preset = find_plugin(request.plugin), request.preset
        plugin = _build(entry, request)
    description = _describe(entry, plugin, preset)
    if request.json:
        print_json(description)
    else:
        _print(description)
    return 0


def _run_folder(text: str) -> Path | None:
    path = Path(text).expanduser()
    looks_like_path = "/" in text or "\\" in text or text.startswith((".", "~"))
    return path if looks_like_path or is_file(path / "config.yaml") else None


def _build(entry: PluginEntry, request: Info) -> Plugin:
    from studio.plugin.base import DataInfo, SceneInfo

    assert entry.spec is not None
    config = load_config_class(entry).preset(request.preset)
    cls = load_plugin_class(entry)
    if entry.spec.kind == "field":
        info: Any = SceneInfo(num_train=request.num_train)
    else:
        names = tuple(str(i) for i in range(request.num_classes)) if request.num_classes else ()
        info = DataInfo(tuple(request.sample_shape), request.num_classes, names)
    return cls(config, info)  # type: ignore[call-arg]


def _describe(entry: PluginEntry, plugin: Plugin, preset: str | None) -> dict[str, Any]:
    """The stable JSON form."""
    from studio.plugin.base import Field

    assert entry.spec is not None
    outputs = list(plugin.output_names) if isinstance(plugin, Field) else []
    formats = dict(plugin.export_formats) if isinstance(plugin, Field) else {}
    counted: set[int] = set()
    networks = [{"name": name, **_count(network, counted)} for name, network in plugin.networks().items()]
    return {
        **entry.to_dict(),
        "preset": preset,
        "networks": networks,
        "parameters": _count(plugin, set())["parameters"],
        "config": plugin.config.to_dict(),
        "outputs": outputs,
        "export_formats": formats,
    }


def _count(network: nn.Module, counted: set[int]) -> dict[str, Any]:
    """All parameters, trained by autograd or not, and their bytes; shared ones count where they are met first."""
    parameters = [p for p in network.parameters() if id(p) not in counted]
    counted |= {id(p) for p in parameters}
    return {
        "type": type(network).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
    }


def _print(description: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    console = out()
    console.print(
        f"{description['name']} ({description['kind']}): {description['summary']}", style="bold", markup=False
    )
    facts = [
        ("version", f"{description['version']} of {description['distribution']}"),
        ("can", ", ".join(description["capabilities"])),
        ("devices", ", ".join(description["devices"])),
        ("outputs", ", ".join(description["outputs"])),
        ("exports", ", ".join(description["export_formats"])),
        ("preset", description["preset"] or ""),
    ]
    for name, value in facts:
        if value:
            console.print(f"  {name:8} {value}", markup=False)
    for name, about in description["presets"].items():
        console.print(f"  preset {name}: {about}", style="dim", markup=False)

    table = Table(title="\nnetworks", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("name")
    table.add_column("type")
    table.add_column("parameters", justify="right")
    for network in description["networks"]:
        table.add_row(Text(network["name"]), Text(network["type"]), f"{network['parameters']:,}")
    table.add_row(Text("total", style="bold"), "", Text(f"{description['parameters']:,}", style="bold"))
    console.print(table, soft_wrap=False)
    if description["parameters"] == 0:
        console.print("It is made from the data: `studio info RUN` counts those of a trained run.", style="dim")

    options = Table(title="\noptions", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    options.add_column("name")
    options.add_column("value")
    for name, value in description["config"].items():
        options.add_row(Text(name), Text(str(value)))
    console.print(options, soft_wrap=False)
