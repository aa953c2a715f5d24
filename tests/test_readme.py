"""What the README shows works: its Python runs, its commands parse, what it links to exists."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from studio.cli import main as command_line
from studio.cli import run_arguments
from studio.cli.arguments import parse
from studio.plugin import DataInfo
from studio.registry import find_plugin, load_config_class
from studio.training.run import DataSettings, RunConfig, RunFolder

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def _commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for block in _blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line]


class _Parsed(Exception):
    """The arguments were understood; what the command would do next does not matter here."""


def test_commands_are_found() -> None:
    assert len([line for line in _commands() if line.startswith("studio ")]) >= 10
    assert {"make demo", "make test"} <= set(_commands())


@pytest.mark.parametrize(
    # Resuming needs a run: see the Python example. What is done with a new plugin is run with the documentation.
    "line",
    [line for line in _commands() if line.startswith("studio ") and "--resume" not in line and "my-gen" not in line],
)
def test_studio_commands_parse(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, name, *arguments = shlex.split(line)
    (tmp_path / "scenes").symlink_to(ROOT / "scenes")
    for argument in arguments:
        _make_generator_run(tmp_path, argument)
    module = importlib.import_module(command_line.COMMANDS[name][0])
    homes = {"train": "studio.cli.train_arguments", "data process": "studio.cli.data_process"}
    elsewhere = homes.get(name) or homes.get(f"{name} {arguments[0]}")
    home = importlib.import_module(elsewhere) if elsewhere else module

    def parse_and_stop(*positional: Any, **named: Any) -> None:
        parse(*positional, **named)
        raise _Parsed

    for place in (home, run_arguments):
        if hasattr(place, "parse"):
            monkeypatch.setattr(place, "parse", parse_and_stop)
    monkeypatch.chdir(tmp_path)
    try:
        with pytest.raises(_Parsed):
            module.main(arguments, 0.0)
    except SystemExit as stop:
        pytest.fail(f"{line}: exit code {stop.code}\n{capsys.readouterr().err}")


def _make_generator_run(root: Path, argument: str) -> None:
    """The run that an argument such as runs/DATA/PLUGIN names: its plugin decides which options a command has."""
    parts = Path(argument).parts
    entry = find_plugin(parts[2]) if parts[:1] == ("runs",) and len(parts) == 3 else None
    if entry is None or entry.spec is None or entry.spec.kind != "generator":
        return
    run = RunFolder.create(root / "runs", parts[1], parts[2])
    run.write_config(
        RunConfig(
            plugin=parts[2],
            preset=None,
            config=load_config_class(entry).preset().to_dict(),
            data=DataSettings(path="nowhere"),
            info=DataInfo((3, 32, 32), has_captions=True).to_dict(),
            kind="generator",
        )
    )


def test_a_new_plugin_is_made_as_in_the_tutorial() -> None:
    tutorial = (ROOT / "docs" / "tutorials" / "generator-plugin.md").read_text(encoding="utf-8").splitlines()
    lines = [line for line in _commands() if "my-gen" in line]
    assert len(lines) == 5
    assert set(lines) <= set(tutorial)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for line in _commands():
        if line.startswith("make "):
            assert line.split()[1] in targets


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)", README)
    local = [target for target in targets if "://" not in target]
    assert local
    for target in local:
        assert (ROOT / target).exists(), target


def test_every_command_is_in_the_table() -> None:
    for name in command_line.COMMANDS:
        assert re.search(rf"^\| `studio {name}\b", README, re.MULTILINE), name


def test_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = _blocks("python")
    assert len(blocks) == 1
    # As it stands but shorter: fewer steps, fewer frames.
    code, steps = re.subn(r"steps=\d+", "steps=12", blocks[0])
    code, frames = re.subn(r", 90\)", ", 3)", code)
    assert (steps, frames) == (1, 1)
    (tmp_path / "scenes").symlink_to(ROOT / "scenes")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    assert float(re.search(r"([\d.]+) dB on photos it has not seen", capsys.readouterr().out)[1]) > 5  # type: ignore[index]
    assert (tmp_path / "orbit.mp4").stat().st_size > 1000
    assert names["run"].step == 12
    # "studio train --resume runs/tabletop/splat" of the README, on this run.
    assert command_line.main(["train", "--resume", "runs/tabletop/splat", "--steps", "14", "--no-tensorboard"]) == 0
    assert importlib.import_module("studio").open_run("runs").step == 14
