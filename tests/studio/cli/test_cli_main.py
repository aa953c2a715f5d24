"""Dispatch, errors, exit codes, and what is not imported."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import studio as package
from studio.cli import clock
from studio.cli.main import COMMANDS, main


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(studio, arguments) -> None:
    done = studio(*arguments)
    assert (done.code, done.err) == (0, "")
    for name, (_, summary) in COMMANDS.items():
        assert name in done.out
        assert summary.split(";")[0][:30] in done.out


def test_version(studio) -> None:
    assert studio("--version").out == f"studio {package.__version__}\n"


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "data"])
def test_every_command_has_help(studio, name: str) -> None:
    done = studio(name, "--help")
    assert done.code == 0
    assert f"usage: studio {name}" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "error: There is no command 'trian'. Did you mean 'studio train'?\n"),
        (["--verison"], "error: There is no option '--verison'. Commands: "),
        (["plugins", "--jsn"], "error: 'studio plugins' has no option '--jsn'. Did you mean '--json'?\n"),
        (["plugins", "more"], "error: There is no command 'studio plugins more'. "),
        (["doctor", "more"], "error: 'more' is one argument too many for 'studio doctor'. "),
        (["eval", "nowhere"], "error: nowhere: there is no such folder. "),
        (["data", "inof"], "error: There is no command 'studio data inof'. "),
        (["info", "bal"], "error: There is no plugin named 'bal'. Did you mean 'ball'?\n"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(studio, arguments: list[str], message: str) -> None:
    done = studio(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(message)
    assert done.err.count("\n") == 1


def test_unexpected_errors_keep_their_traceback(studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("by hand")

    monkeypatch.setattr("studio.cli.plugins.list_plugins", lambda refresh: fail())
    done = studio("plugins")
    assert done.code == 1
    assert "Traceback" in done.err
    assert "ZeroDivisionError: by hand" in done.err
    assert "studio doctor" in done.err


def test_interrupts_are_quiet(studio, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(refresh: bool) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("studio.cli.plugins.list_plugins", interrupt)
    done = studio("plugins")
    assert (done.code, done.err) == (130, "interrupted\n")


def test_listing_and_help_import_no_torch() -> None:
    code = """
import sys
from studio.cli.main import main
import studio
for arguments in (["--help"], ["--version"], ["plugins"], ["plugins", "--json"], ["train", "--help"],
                  ["train", "ball", "--help"], ["train", "splat", "--help"], ["render", "--help"], ["eval", "--help"],
                  ["export", "--help"], ["data", "info", "--help"], ["info", "--help"], ["trian"],
                  ["train", "ball", "x", "--radius", "wide"], ["train", "ball", "x", "--rdius", "1"]):
    main(arguments)
    assert "torch" not in sys.modules, arguments
studio.list_plugins(), studio.StudioError
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_module_is_the_command_and_a_closed_pipe_is_quiet() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "studio", "plugins", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


def test_the_clock_starts_with_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time; t = time.time(); from studio.cli.clock import process_start; time.sleep(0.3);"
    code += "print(time.perf_counter() - process_start())"
    age = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    assert age > 0.3
    monkeypatch.setattr(clock.Path, "read_text", lambda self, **_: "no such file here")
    now = time.perf_counter()
    assert clock.process_start() >= now


def test_exit_codes_of_argument_errors(studio) -> None:
    assert studio("render").code == 2
    assert main(["train", "ball", "x", "--seed", "one"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train splat toy:moons", r"learns scenes from posed photos\. Plugins that take it: .*diffusion, gan, .*vae"),
        ("train splat scenes/tabeltop", r"Did you mean \S*scenes/tabletop\?"),
        ("train gan scenes/tabeltop", r"Did you mean \S*scenes/tabletop\?"),
        ("train gan toy:moon", r"Did you mean toy:moons\?"),
        (
            "train splat scenes/tabletop --budget 5x",
            r"--budget: '5x' is not a duration.*See: studio train splat --help",
        ),
        ("train gan toy:moons --steps 1e3", r"--steps: '1e3' is not a whole number"),
        ("train splat", r"'studio train splat' needs DATA"),
        ("train splat scenes/tabletop --buget 5m", r"no option '--buget'\. Did you mean '--budget'\?"),
        ("render scenes/tabeltop", r"Did you mean \S*scenes/tabletop\?"),
        ("view scenes/tabeltop", r"Did you mean \S*scenes/tabletop\?"),
        ("compare", r"needs RUN"),
    ],
)
def test_what_is_refused_is_one_line(studio, tmp_path: Path, words: str, said: str) -> None:
    (tmp_path / "scenes" / "tabletop").mkdir(parents=True)
    done = studio(*words.split())
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert re.search(said, done.err), done.err


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_help_of_every_command_fits(studio, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for command in (*([name] for name in COMMANDS), ["train", "vae"], ["data", "info"], ["plugins", "new"]):
        done = studio(*command, "--help")
        assert done.code == 0
        usage, *lines = done.out.splitlines()
        assert usage.startswith(f"usage: studio {command[0]}")
        wide = [line for line in lines if len(line) > columns and not line.startswith("       studio ")]
        # Only the lines of the usage, which are there to be copied, are not broken.
        assert not wide, (command, wide)
