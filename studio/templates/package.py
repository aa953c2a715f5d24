"""Writing a plugin package from a template."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import keyword
import os
import re
import secrets
import shutil
import sys
import time
from importlib import resources
from pathlib import Path

from studio import __version__
from studio.errors import StudioError
from studio.extensions import READERS, list_extensions
from studio.registry import list_plugins
from studio.templates.texts import GITIGNORE, LICENSES, PYPROJECT, README

KINDS = ("generator", "field", "reader")
DATA = {"generator": "toy:moons", "field": "PHOTOS", "reader": "PHOTOS"}
"""What a first training is shown with."""

_OWN = "neural-studio"
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_GROUPS = {"generator": "studio.plugins", "field": "studio.plugins", "reader": "studio.readers"}


def write_package(parent: Path, name: str, kind: str, *, license: str = "MIT", author: str | None = None) -> Path:
    """Make the folder `parent` / `name` with a package; nothing is left behind when it cannot be.

    Args:
        parent: Where; made if it is missing.
        name: The plugin's name; the package has '_' where it has '-'.
        kind: One of `KINDS`.
        license: 'MIT', 'Apache-2.0', 'BSD-3-Clause' or 'none'.
        author: Holder of the copyright.

    Returns:
        The folder.

    Raises:
        StudioError: A name that cannot be one, that another plugin or package has, or a folder that exists.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if license != "none" and license not in LICENSES:
        raise ValueError(f"license must be none or one of {', '.join(LICENSES)}, got {license!r}")
    if author is not None and not author.isprintable():
        raise StudioError(f"author: {author!r} holds line breaks or control characters.", fix="Write it in one line.")
    folder = parent / name
    _check_name(name)
    if folder.exists() or folder.is_symlink():
        raise StudioError(f"{folder}: is there already.", fix="Choose another name, or another place with --output.")
    _check_free(name, kind)
    package = name.replace("-", "_")
    temporary = parent / f".{name}.{secrets.token_hex(6)}.partial"
    try:
        temporary.mkdir(parents=True)
        _fill(temporary, name, package, kind, license, author or f"The {name} authors")
        os.rename(temporary, folder)
    except OSError as error:
        raise StudioError(
            f"{folder}: cannot be written ({error.strerror or error}).", fix="Choose another place."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        words = re.sub(r"[^a-z0-9]+", "-", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()).strip("-")
        better = words.lstrip("0123456789-")
        raise StudioError(
            f"'{name}' cannot be the name of a plugin.",
            fix="Use lower-case letters, digits, and single '-' or '_' between them"
            + (f", such as {better}." if len(better) > 1 else "."),
        )
    package = name.replace("-", "_")
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        raise StudioError(f"'{name}' is a word of Python, and no package can have it.", fix=f"Try my-{name}.")
    if package in sys.stdlib_module_names or package in sys.builtin_module_names or package == "studio":
        raise StudioError(
            f"'{name}' is a module of Python or of the studio, which it would hide.", fix=f"Try my-{name}."
        )


def _check_free(name: str, kind: str) -> None:
    if taken := list_plugins(name):
        raise StudioError(f"There is a plugin '{name}' already, of {taken[0].distribution}.", fix=f"Try my-{name}.")
    if kind == "reader" and name in (*READERS, *(entry.name for entry in list_extensions("reader"))):
        raise StudioError(f"There is a reader '{name}' already.", fix=f"Try my-{name}.")
    package = name.replace("-", "_")
    found = importlib.util.find_spec(package)
    # A folder without an __init__.py, such as one in the working folder, is no package that would be hidden.
    if found is not None and found.origin is not None:
        raise StudioError(f"There is a package '{package}' already ({found.origin}).", fix=f"Try my-{name}.")
    # Installing it would replace the distribution of that name; one that the studio can use may not be there yet.
    plain = _distribution_key(name)
    owners = {_distribution_key(_OWN), *(_distribution_key(re.split(r"[^\w.-]", line)[0]) for line in _requirements())}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        owners.add(_distribution_key(importlib.metadata.distribution(name).metadata["Name"]))
    if plain in owners:
        raise StudioError(
            f"There is a distribution '{name}' already, which the new one would replace.", fix=f"Try my-{name}."
        )


def _distribution_key(name: str) -> str:
    """How indexes compare names (https://packaging.python.org/en/latest/specifications/name-normalization/)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires(_OWN) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _fill(folder: Path, name: str, package: str, kind: str, license: str, author: str) -> None:
    template = resources.files("studio.templates") / kind
    class_name = "".join(word.capitalize() for word in package.split("_"))
    if class_name in _CLASSES:
        class_name = f"My{class_name}"
    home = folder / "src" / package
    home.mkdir(parents=True)
    (folder / "tests").mkdir()
    for source in template.iterdir():
        if not source.name.endswith(".py"):
            continue
        text = source.read_text(encoding="utf-8")
        text = text.replace(f"studio.templates.{kind}", package)
        text = text.replace('"template"', f'"{name}"').replace("Template", class_name)
        is_test = source.name == "test_plugin.py"
        target = folder / "tests" / f"test_{package}.py" if is_test else home / source.name
        target.write_text(_sorted_imports(text, package), encoding="utf-8")
    attribute = "READER" if kind == "reader" else "SPEC"
    major, minor = __version__.split(".")[:2]
    values = {
        "name": name,
        "package": package,
        "kind": kind,
        "group": _GROUPS[kind],
        "attribute": attribute,
        "studio": f"{major}.{minor}",
        "license": f'license = "{license}"\nlicense-files = ["LICENSE"]' if license != "none" else _PRIVATE,
        "author": author.replace("\\", "\\\\").replace('"', '\\"'),
    }
    (folder / "pyproject.toml").write_text(PYPROJECT.format(**values), encoding="utf-8")
    (folder / "README.md").write_text(README[kind].format(**values), encoding="utf-8")
    (folder / ".gitignore").write_text(GITIGNORE, encoding="utf-8")
    if license != "none":
        text = LICENSES[license].format(year=time.strftime("%Y"), author=author)
        (folder / "LICENSE").write_text(text, encoding="utf-8")


_CLASSES = ("Plugin",)
"""Of a plugin 'plugin' the class PluginConfig would be derived from itself."""

_PRIVATE = 'classifiers = ["Private :: Do Not Upload"]'


def _sorted_imports(text: str, package: str) -> str:
    """The plugin's own imports behind those of the studio, a blank line between, as style checkers want them."""
    lines = text.splitlines()
    own = [line for line in lines if line.startswith((f"from {package} ", f"from {package}."))]
    if not own:
        return text
    rest = [line for line in lines if line not in own]
    places = [i for i, line in enumerate(rest) if line.startswith("from studio")]
    after = places[-1] + 1
    # The last import may go on over several lines.
    while rest[after - 1].endswith("(") or rest[after - 1].startswith("    ") or rest[after : after + 1] == [")"]:
        after += 1
    return "\n".join([*rest[:after], "", *own, *rest[after:]]) + "\n"
