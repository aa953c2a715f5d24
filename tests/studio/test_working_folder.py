"""No process of the studio imports from the folder that it is started in. Everything here runs the real commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from studio.processes import clean_environment, clean_python

HERE = Path(__file__).parent
TOYS = HERE.parent / "toy_plugins"
SCRIPT = Path(sys.executable).with_name("studio")
DECOYS = (
    "json", "dataclasses", "traceback", "typing", "tempfile", "subprocess", "difflib", "importlib_metadata", "logging",
    "pathlib", "textwrap", "random", "inspect", "struct", "copy", "statistics", "queue", "csv", "multiprocessing",
    "numpy/__init__", "torch", "yaml/__init__", "rich/__init__", "tyro", "numba/__init__", "PIL/__init__",
    "safetensors", "tqdm", "scipy/__init__", "viser", "imageio", "imageio_ffmpeg", "packaging/__init__",
    "sitecustomize", "usercustomize", "studio_splat/__init__", "toy_specs", "toy_generators", "config",
    "plugin", "model",
)  # fmt: skip


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A folder full of modules with common names, each of which tells that it was run, and ends the process."""
    folder = tmp_path / "trap"
    for name in DECOYS:
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + ' ')\nraise SystemExit({name!r})\n")
    # A folder that looks like an installed distribution with a plugin.
    info = folder / "evil-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[studio.plugins]\nevil = model:SPEC\n")
    return folder


def run(folder: Path, command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {
        **os.environ,
        "XDG_CACHE_HOME": str(folder.parent / "cache"),
        "PYTHONPATH": str(TOYS),
        "STUDIO_PLUGINS": "toy-gauss=toy_specs:GAUSS",
        "PYTHONDONTWRITEBYTECODE": "1",
        **environment,
    }
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=280)


COMMANDS = (
    ("plugins", "--json", "--refresh"),
    ("train", "toy-gauss", "toy:moons", "--steps", "2", "--no-previews", "--no-tensorboard", "--device", "cpu"),
    ("doctor", "--json"),
)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[0])
def test_the_command_runs_nothing_of_the_working_folder(trap: Path, words: tuple[str, ...]) -> None:
    if not SCRIPT.is_file():
        pytest.skip("the command `studio` is not installed beside this Python")
    done = run(trap, [str(SCRIPT), *words])
    assert not (trap.parent / "ran").exists(), (trap.parent / "ran").read_text()
    assert done.returncode == 0 or words[0] == "doctor", done.stderr
    if words[0] == "plugins":
        found = {entry["name"]: entry["status"] for entry in json.loads(done.stdout)}
        assert "evil" not in found
        assert {found[name] for name in ("toy-gauss", "splat", "diffusion")} == {"ok"}
    if words[0] == "doctor":
        assert '"torch"' in done.stdout


@pytest.mark.parametrize("started", [("-m", "studio"), ("-m", "studio.__main__")])
def test_the_module_runs_nothing_of_the_working_folder(trap: Path, started: tuple[str, ...]) -> None:
    done = run(trap, [sys.executable, *started, "plugins", "--json", "--refresh"])
    assert not (trap.parent / "ran").exists(), (trap.parent / "ran").read_text()
    assert done.returncode == 0, done.stderr
    assert "evil" not in {entry["name"] for entry in json.loads(done.stdout)}


def test_an_empty_part_of_the_path_is_not_the_working_folder(trap: Path) -> None:
    """As `export PYTHONPATH=$PYTHONPATH:/x` leaves where nothing was set. Python itself imports `site` before that."""
    for file in trap.glob("*.py"):
        if file.stem not in ("json", "dataclasses", "traceback", "torch", "tyro", "plugin", "csv"):
            file.unlink()
    done = run(trap, [sys.executable, "-m", "studio", "plugins", "--json"], PYTHONPATH=f":{TOYS}")
    assert not (trap.parent / "ran").exists(), (trap.parent / "ran").read_text()
    assert {e["name"]: e["status"] for e in json.loads(done.stdout)}["toy-gauss"] == "ok"


def test_a_folder_that_is_asked_for_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from dataclasses import replace\nfrom toy_specs import GAUSS\n"
                                      "SPEC = replace(GAUSS, name='mine')\n")  # fmt: skip
    done = run(
        tmp_path,
        [sys.executable, "-m", "studio", "plugins", "--json"],
        PYTHONPATH=f"{tmp_path}{os.pathsep}{TOYS}",
        STUDIO_PLUGINS="mine=mine:SPEC",
        XDG_CACHE_HOME=str(tmp_path / "cache"),
    )
    assert {e["name"]: e["status"] for e in json.loads(done.stdout)}["mine"] == "ok", done.stderr


def test_processes_that_are_started_are_clean(trap: Path) -> None:
    code = "import sys, json, numpy, studio; print(json.dumps([sys.argv[1:], sys.path, studio.__file__]))"
    done = subprocess.run(
        clean_python("a", "-b", code=code), cwd=trap, env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    arguments, path, studio = json.loads(done.stdout)
    assert arguments == ["a", "-b"]
    assert "" not in path
    assert str(trap) not in path
    import studio as own

    assert studio == own.__file__
    done = subprocess.run(
        clean_python("--version", module="studio"), cwd=trap, env=clean_environment(), capture_output=True, text=True
    )
    assert done.stdout == f"studio {own.__version__}\n", done.stderr


def test_a_process_needs_something_to_run() -> None:
    with pytest.raises(ValueError, match="either module or code"):
        clean_python("x")
    with pytest.raises(ValueError, match="either module or code"):
        clean_python(module="a", code="b")


def test_an_empty_path_leaves_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f":/a:{os.pathsep}/b:")
    assert clean_environment()["PYTHONPATH"] == "/a:/b"
    monkeypatch.setenv("PYTHONPATH", os.pathsep)
    assert "PYTHONPATH" not in clean_environment()
