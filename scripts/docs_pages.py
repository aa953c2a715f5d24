"""Fills in what the documentation does not say twice: the help of every command, and the README's figures.

A hook of mkdocs (see mkdocs.yml). In a page, ``<!-- help of every command -->`` becomes the commands' own help, and
``<!-- section of FILE: TITLE -->`` the section of that title out of a file of the project.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_COLUMNS = 92
_SUBCOMMAND = re.compile(r"studio (\w+) (\w+) [A-Z]")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs with the text of each page."""
    if "<!-- help of every command -->" in markdown:
        markdown = markdown.replace("<!-- help of every command -->", command_help())
    return re.sub(r"<!-- section of (\S+): (.+?) -->", lambda found: section(found[1], found[2]), markdown)


def command_help() -> str:
    """Markdown with a heading and the help of each command and each command below it."""
    from studio.cli.main import COMMANDS

    parts = []
    for name, (module, summary) in COMMANDS.items():
        text = _help(module, [])
        parts.append(f"## studio {name}\n\n{summary}\n\n```text\n{text}```\n")
        for below in dict.fromkeys(found[1] for found in _SUBCOMMAND.findall(text) if found[0] == name):
            parts.append(f"### studio {name} {below}\n\n```text\n{_help(module, [below])}```\n")
    return "\n".join(parts)


def _help(module: str, before: list[str]) -> str:
    """What a command prints with --help, without colours."""
    text = io.StringIO()
    kept = {key: os.environ.get(key) for key in ("COLUMNS", "NO_COLOR", "TERM")}
    os.environ |= {"COLUMNS": str(_COLUMNS), "NO_COLOR": "1", "TERM": "dumb"}
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            importlib.import_module(module).main([*before, "--help"], 0.0)
    finally:
        for key, value in kept.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue()).splitlines()]
    if not any(lines):
        raise RuntimeError(f"{module} {before} prints no help")
    return "\n".join(lines).strip() + "\n"


def section(file: str, title: str) -> str:
    """The text under a heading of the second level, with its pictures and without links out of the documentation.

    Raises:
        RuntimeError: The file has no such heading.
    """
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise RuntimeError(f"{file} has no section '{title}'")
    body = found[1].replace("](docs/images/", "](images/")
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?://)[^)]+\)", r"\1", body)
