"""`studio plugins` and its commands: the list, `why`, `check` and `new`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from studio.errors import StudioError
from studio.templates.package import write_package
from studio.testing import check_plugin


def read_toml(text: str) -> dict[str, Any]:
    """Skips where Python has no reader of TOML."""
    return pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib").loads(text)  # type: ignore[no-any-return]


# ---- the list --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("columns", [80, 120])
def test_the_list_fits(studio, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("STUDIO_PLUGINS", "toy-pixels=toy_specs:PIXELS,gone=no_such_module:SPEC")
    done = studio("plugins")
    assert done.code == 0
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= columns
    titles = ["name", "kind", "version", "distribution", "devices", "status"]
    assert lines[0].split()[:6] == titles
    row = next(line for line in lines if line.startswith("vae"))
    assert row.split()[:4] == ["vae", "generator", "0.1.0", "neural-studio"]
    assert "cpu cuda mps  ok" in row
    # Whole names only: nothing is broken in the middle of a word or cut off.
    text = " ".join(done.out.split())
    assert "encode, decode, reconstruct, interpolate, likelihood, trajectory, edit" in text
    assert "needs the package 'no_such_module', which is not installed" in text
    assert "studio plugins why gone" in text
    assert (columns == 120) == ("sample" in row)


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str], studio) -> None:
    shown = studio("plugins", "--help")
    assert shown.code == 0
    for name in ("new", "check", "why"):
        assert f"studio plugins {name} NAME" in shown.out


def test_unknown_commands(studio) -> None:
    done = studio("plugins", "chek")
    assert done.code == 2
    assert "Did you mean 'studio plugins check'?" in done.err


# ---- why -------------------------------------------------------------------------------------------------------------
def test_why(studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "raising_declaration.py").write_text("def fails():\n    return 1 / 0\n\nfails()\n")
    (tmp_path / "raising_model.py").write_text("raise OSError('no such library')\n")
    (tmp_path / "good_declaration.py").write_text(
        "from dataclasses import replace\nfrom toy_specs import GAUSS\n"
        "SPEC = replace(GAUSS, name='late', target='raising_model:Model')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setenv(
        "STUDIO_PLUGINS", "raises=raising_declaration:SPEC,late=good_declaration:SPEC,toy-gauss=toy_specs:GAUSS"
    )
    raised = studio("plugins", "why", "raises")
    assert raised.code == 1
    assert "ZeroDivisionError: division by zero" in raised.out
    assert 'raising_declaration.py", line 2, in fails' in raised.out
    late = studio("plugins", "why", "late")
    assert late.code == 1
    assert "OSError: no such library" in late.out
    assert 'raising_model.py", line 1' in late.out
    fine = studio("plugins", "why", "toy-gauss")
    assert fine.code == 0
    assert "nothing is wrong" in fine.out
    unknown = studio("plugins", "why", "raisse")
    assert unknown.code == 2
    assert "Did you mean 'raises'?" in unknown.err


# ---- check -----------------------------------------------------------------------------------------------------------
def test_check(studio) -> None:
    done = studio("plugins", "check", "toy-gauss", "--device", "cpu")
    assert done.code == 0
    assert "pass  20 steps lower the loss [cpu]" in done.out
    assert "toy-gauss: " in done.out.splitlines()[-1]
    assert "0 failed" in done.out
    broken = studio("plugins", "check", "clash", "--json")
    assert broken.code == 1
    assert broken.json["passed"] is False
    (failure, *_) = [entry for entry in broken.json["checks"] if entry["status"] == "fail"]
    assert failure["name"] == "command line"
    assert "--seed" in failure["message"]


def test_check_of_a_reader(studio, scene_folder: Path) -> None:
    done = studio("plugins", "check", "transforms", "--data", scene_folder)
    assert done.code == 0
    assert "pass  poses" in done.out
    assert "--data FOLDER" in studio("plugins", "check", "colmap").err


# ---- new -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["generator", "field", "reader"])
@pytest.mark.parametrize("license", ["MIT", "none"])
def test_a_new_package_is_whole(studio, tmp_path: Path, kind: str, license: str) -> None:
    name = f"fresh-{kind}"
    author = 'Ann "A\\B" Lee'
    done = studio("plugins", "new", name, "--kind", kind, "--license", license, "--author", author)
    assert done.code == 0
    assert f"pip install -e {name}" in done.out
    folder, package = tmp_path / name, f"fresh_{kind}"
    project = read_toml((folder / "pyproject.toml").read_text())
    group = "studio.readers" if kind == "reader" else "studio.plugins"
    attribute = "READER" if kind == "reader" else "SPEC"
    assert project["project"]["name"] == name
    assert project["project"]["authors"] == [{"name": author}]
    assert project["project"]["entry-points"] == {group: {name: f"{package}:{attribute}"}}
    assert project["tool"]["setuptools"] == {"packages": [package], "package-dir": {"": "src"}}
    assert (folder / "src" / package / "__init__.py").is_file()
    if license == "MIT":
        assert project["project"]["license"] == "MIT"
        assert author in (folder / "LICENSE").read_text()
    else:
        assert not (folder / "LICENSE").exists()
        assert project["project"]["classifiers"] == ["Private :: Do Not Upload"]
    assert (folder / "README.md").read_text().startswith(f"# {name}\n")
    sources = [*folder.rglob("*.py")]
    assert folder / "tests" / f"test_{package}.py" in sources
    for source in sources:
        text = source.read_text()
        compile(text, str(source), "exec")
        for leftover in ("studio.templates", "Template", '"template"'):
            assert leftover not in text, source
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]


@pytest.mark.parametrize("kind", ["generator", "field"])
def test_a_new_plugin_passes_the_kit(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    folder = write_package(tmp_path, f"checked-{kind}", kind)
    monkeypatch.syspath_prepend(str(folder / "src"))
    package = importlib.import_module(f"checked_{kind}")
    report = check_plugin(package.SPEC, device="cpu").require()
    assert report["presets"].status == "pass"


def test_the_tests_of_a_new_reader_pass(tmp_path: Path) -> None:
    folder = write_package(tmp_path, "checked-reader", "reader")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:dash", "tests"]
    done = subprocess.run(command, cwd=folder, env=_environment(folder), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def _environment(folder: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(folder / "src")}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("MyGen", "such as my-gen"),
        ("my gen", "such as my-gen"),
        ("2fast", "such as fast"),
        ("-x", "no option"),
        ("a--b", "such as a-b"),
        ("../x", "cannot be the name"),
        ("class", "word of Python.*my-class"),
        ("json", "module of Python.*my-json"),
        ("studio", "which it would hide"),
        ("torch", "package 'torch' already"),
        ("splat", "plugin 'splat' already, of neural-studio"),
        # Installing these would replace the studio, a package that it needs, one that it can use.
        ("neural-studio", "distribution 'neural-studio' already.*my-neural-studio"),
        ("neural_studio", "distribution 'neural_studio' already"),
        ("pyyaml", "distribution 'pyyaml' already"),
        ("open3d", "distribution 'open3d' already|package 'open3d' already"),
        ("there", "is there already"),
    ],
)
def test_bad_names_and_existing_folders(studio, tmp_path: Path, name: str, expected: str) -> None:
    import re

    (tmp_path / "there").mkdir()
    before = sorted(tmp_path.iterdir())
    done = studio("plugins", "new", name)
    assert done.code == 2
    assert re.search(expected, done.err), done.err
    assert len(done.err.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_names_of_readers(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="reader 'colmap' already"):
        write_package(tmp_path, "colmap", "reader")


def test_listing_and_starting_import_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom studio.cli.main import main\n"
        "asked = [['plugins'], ['plugins', 'new', 'no-torch'], ['plugins', 'new', 'r', '--kind', 'reader']]\n"
        "codes = [main(words) for words in asked]\n"
        "print(codes, [m for m in ('torch', 'numba') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr.strip() == "[0, 0, 0] []"
