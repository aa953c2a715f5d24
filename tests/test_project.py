"""The project's own files agree with each other."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import studio

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def _pins(python: str) -> dict[str, str]:
    """Name -> version of constraints.txt as they hold for a Python version."""
    pins: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"python_version": python}):
            continue
        name = canonicalize_name(requirement.name)
        assert name not in pins, f"{name} is pinned twice for Python {python}"
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        pins[name] = specifier.version
    return pins


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_is_pinned_within_its_range(python: str) -> None:
    pins = _pins(python)
    extras = PYPROJECT["project"]["optional-dependencies"]
    tested = [line for extra in ("dev", "mesh", "sfm", "scenes") for line in extras[extra]]
    for line in [*PYPROJECT["project"]["dependencies"], *tested]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), f"{line} on Python {python}"


def test_the_set_with_hashes_is_the_tested_one() -> None:
    """requirements.txt is made from constraints.txt: each package at the version of its pins, with hashes."""
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    found: dict[str, list[Requirement]] = {}
    for line in lines:
        wanted, *hashes = line.split(" --hash=")
        assert hashes, line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", part.strip()) for part in hashes), line
        requirement = Requirement(wanted.strip())
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    for python in PYTHONS:
        environment = {"python_version": python, "python_full_version": f"{python}.5", "sys_platform": "linux"}
        pins = _pins(python)
        for name, requirements in found.items():
            chosen = [r for r in requirements if r.marker is None or r.marker.evaluate(environment)]
            assert len(chosen) <= 1, f"{name} twice on Python {python}"
            for requirement in chosen:
                assert name not in pins or requirement.specifier.contains(pins[name]), f"{name} on Python {python}"
        for line in PYPROJECT["project"]["dependencies"]:
            name = canonicalize_name(Requirement(line).name)
            # torch comes from another index where it is wanted without CUDA.
            assert name == "torch" or name in found, name


def test_version_is_stated_once_more_without_contradiction() -> None:
    assert PYPROJECT["project"]["version"] == studio.__version__


def test_classifiers_name_the_supported_pythons() -> None:
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PYPROJECT["project"]["classifiers"]))
    assert tuple(named) == PYTHONS
    assert PYPROJECT["project"]["requires-python"] == ">=3.10,<3.14"


def test_entry_points_resolve() -> None:
    """What pyproject.toml names exists, whatever an older installation of the project says."""
    project = PYPROJECT["project"]
    for target in (*project["scripts"].values(), *project["entry-points"]["studio.plugins"].values()):
        module, _, attribute = target.partition(":")
        assert getattr(importlib.import_module(module), attribute) is not None


def test_every_package_is_found_by_setuptools() -> None:
    packages = {path.parent for path in (ROOT / "plugins").glob("*/__init__.py")} | {ROOT / "studio"}
    places = PYPROJECT["tool"]["setuptools"]["package-dir"]
    assert {name: ROOT / place for name, place in places.items()} == {package.name: package for package in packages}
    for package in packages:
        patterns = PYPROJECT["tool"]["setuptools"]["package-data"][package.name]
        shipped = {path for pattern in patterns for path in package.glob(pattern)}
        files = [path for path in package.rglob("*.*") if path.is_file() and "__pycache__" not in path.parts]
        data = {path for path in files if path.suffix != ".py"}
        assert package / "py.typed" in data
        assert shipped == data


def test_engine_imports_no_plugin() -> None:
    plugins = "|".join(path.parent.name for path in (ROOT / "plugins").glob("*/__init__.py"))
    pattern = re.compile(rf"^\s*(?:from|import)\s+(?:{plugins})\b", re.MULTILINE)
    guilty = [path for path in (ROOT / "studio").rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))]
    assert guilty == []
