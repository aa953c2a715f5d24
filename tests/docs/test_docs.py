"""The documentation is true: its code runs as it stands, its links lead somewhere, it names every command.

Each page is run from top to bottom in a folder of its own, in which ``scenes`` and ``examples`` are the project's.
Shell blocks go through the command line in this process; ``pip install -e FOLDER`` is done by writing what pip would
leave behind, since `make examples` does the real thing. What is too slow or needs more than a clone is said in comments
above a block:

    <!-- test: replace A => B -->   run it with B in place of A (fewer steps, smaller photos)
    <!-- test: skip REASON -->       show it only
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from installed_plugins import install_extensions

from studio.cli.main import COMMANDS, main
from studio.plugin.spec import CAPABILITIES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
_BLOCK = re.compile(r"((?:^<!-- test: .*? -->\n)*)^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOTE = re.compile(r"<!-- test: (\w+) (.*?) -->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One piece of code of a page."""

    language: str
    code: str
    replacements: tuple[tuple[str, str], ...]
    skip: str | None

    def runnable(self) -> str:
        """With the replacements, each of which has to find something."""
        code = self.code
        for old, new in self.replacements:
            assert old in code, f"nothing to replace: {old!r} in {code!r}"
            code = code.replace(old, new)
        return code


def blocks(page: Path) -> list[Block]:
    found = []
    for notes, language, code in _BLOCK.findall(page.read_text(encoding="utf-8")):
        replacements, skip = [], None
        for word, rest in _NOTE.findall(notes):
            if word == "replace":
                old, _, new = rest.partition(" => ")
                replacements.append((old, new))
            else:
                assert word == "skip", word
                skip = rest
        found.append(Block(language, code, tuple(replacements), skip))
    return found


class Shell:
    """Runs the commands of shell blocks in this process."""

    def __init__(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._site, self._patch = site, monkeypatch
        self._path = [str(site)]

    def run(self, line: str) -> None:
        command, *arguments = shlex.split(line)
        if command == "pip":
            assert arguments[:2] == ["install", "-e"], line
            self._install(Path(arguments[2]))
            return
        assert command == "studio", f"what is shown cannot be run: {line}"
        assert main(arguments) == 0, line

    def _install(self, folder: Path) -> None:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        install_extensions(self._site, project["name"], project["entry-points"])
        source = (folder / "src" if (folder / "src").is_dir() else folder).resolve()
        self._patch.syspath_prepend(str(source))
        self._path.append(str(source))
        self._patch.setenv("PYTHONPATH", ":".join(self._path))


def _name(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=_name)
def test_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scenes", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.syspath_prepend(str(site))
    shell = Shell(site, monkeypatch)
    names: dict[str, Any] = {"__name__": "documentation"}
    for block in blocks(page):
        if block.skip is not None:
            continue
        code = block.runnable()
        if block.language == "python":
            exec(compile(code, _name(page), "exec"), names)
        else:
            for line in filter(None, (line.partition("#")[0].strip() for line in code.splitlines())):
                shell.run(line)


def test_most_blocks_run() -> None:
    found = [block for page in PAGES for block in blocks(page)]
    assert len(found) >= 25
    assert sum(block.skip is None for block in found) > 0.7 * len(found)


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert set(re.findall(r": (\S+\.md)$", text, re.MULTILINE)) == {_name(page) for page in PAGES}


def test_links_and_pictures_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{_name(page)}: {target}"


def test_pictures_are_small() -> None:
    sizes = [file.stat().st_size for file in (DOCS / "images" / "gallery").iterdir()]
    assert sizes
    assert sum(sizes) < 1.5 * 2**20


def test_every_capability_is_in_the_contract() -> None:
    text = (DOCS / "plugins" / "contract.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(CAPABILITIES)


def test_every_command_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import docs_pages

    text = docs_pages.command_help()
    for name in COMMANDS:
        assert f"\n## studio {name}\n" in "\n" + text
        assert f"usage: studio {name}" in text
    for below in ("plugins new", "plugins check", "plugins why", "data info"):
        assert f"\n### studio {below}\n" in text
    assert "Traceback" not in text
    assert docs_pages.on_page_markdown("<!-- section of README.md: Figures -->").count("<!-- figures:") > 3
    with pytest.raises(RuntimeError, match="no section 'Nothing'"):
        docs_pages.section("README.md", "Nothing")
