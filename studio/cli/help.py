"""The help of a command, wrapped at any width.

tyro keeps the line breaks that a docstring has in the source, and never wraps a description. Here the texts are
unfolded first, and what belongs together is held together, so that no line of the help is one lost word.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import itertools
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Iterator
from typing import Annotated, Any, TextIO

import tyro

_GLUE = "\N{NO-BREAK SPACE}"
_DESCRIPTION = "@description@"
_LAST = 24
"""Letters that stay together at the end of a text, at most."""


def documented(command: type[Any]) -> type[Any]:
    """The same dataclass, nested ones included, with its docstrings unfolded. For showing help; not to be made."""
    hints = typing.get_type_hints(command, include_extras=True)
    texts = field_texts(command)
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(command):
        hint: Any = hints[field.name]
        marks: tuple[Any, ...] = ()
        if typing.get_origin(hint) is Annotated:
            hint, marks = hint.__origin__, hint.__metadata__
        options: dict[str, Any] = {"init": field.init, "kw_only": field.kw_only}
        if dataclasses.is_dataclass(hint):
            inner = documented(hint)  # type: ignore[arg-type]
            if field.default_factory is not dataclasses.MISSING:
                options["default_factory"] = _default(field.default_factory, inner)
            hint = inner
        else:
            if field.default is not dataclasses.MISSING:
                options["default"] = field.default
            if field.default_factory is not dataclasses.MISSING:
                options["default_factory"] = field.default_factory
            marks = (*marks, *_mark(marks, texts.get(field.name)))
        parts = (hint, *marks)
        fields.append((field.name, Annotated[parts] if marks else hint, dataclasses.field(**options)))
    doc = unfold(inspect.getdoc(command) or "")
    return dataclasses.make_dataclass(command.__name__, fields, namespace={"__doc__": doc})


def _default(factory: Any, inner: type[Any]) -> Any:
    return lambda: _copied(factory(), inner)


def _copied(value: Any, inner: type[Any]) -> Any:
    hints = typing.get_type_hints(inner)
    return inner(
        **{
            field.name: _copied(found, hints[field.name]) if dataclasses.is_dataclass(found) else found
            for field in dataclasses.fields(inner)
            if field.init
            for found in [getattr(value, field.name)]
        }
    )


def _mark(marks: tuple[Any, ...], text: str | None) -> list[Any]:
    """What gives a field its text and its default in the help."""
    given = next((mark.help for mark in marks if getattr(mark, "help", None)), None)
    found = unfold(given or text or "")
    # The default is put behind the text by tyro; glued, it stays on one line.
    options: dict[str, Any] = {"help_behavior_hint": lambda value: f"(default:{_GLUE}{value})" if value else ""}
    if tyro.conf.Positional in marks:
        options = {}
    if found:
        options["help"] = found
    return [tyro.conf.arg(**options)] if options else []


def _glued(text: str) -> str:
    """The last words of a text in one piece, unless that is long."""
    head, space, last = text.rpartition(" ")
    before = head.rpartition(" ")[2]
    return f"{head}{_GLUE}{last}" if space and len(before) + len(last) < _LAST else text


def field_texts(command: type[Any]) -> dict[str, str]:
    """The docstrings under the fields of a dataclass and of those that it is derived from."""
    found: dict[str, str] = {}
    for cls in reversed(command.__mro__):
        with contextlib.suppress(OSError, TypeError, SyntaxError):  # made at run time, or without its source
            tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
            body = getattr(tree, "body", [])
            for field, below in itertools.pairwise(body):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(below, ast.Expr)
                    and isinstance(below.value, ast.Constant)
                    and isinstance(below.value.value, str)
                ):
                    found[field.target.id] = inspect.cleandoc(below.value.value)
    return found


def unfold(text: str) -> str:
    """Paragraphs as one line each; indented lines and lists as they are."""
    lines: list[str] = []
    for line in text.splitlines():
        goes_on = bool(lines) and bool(lines[-1].strip()) and line[:1].strip() and not re.match(r"[-*] ", line)
        if goes_on and not lines[-1].startswith(" "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line.rstrip())
    return "\n".join(lines).strip("\n")


def wrapped(text: str, width: int) -> str:
    """Text at a width; the second column of an indented table stays a column, and no line is one short word."""
    return "\n".join(_wrapped_line(line, max(width, 30)) for line in unfold(text).splitlines())


def _wrapped_line(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    table = re.match(r"\s+\S+(?: [A-Z]+)?\s{2,}|\s+", line)
    indent = min(len(table[0]) if table else 0, width // 2)
    lines = textwrap.wrap(
        _glued(line), width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines).replace(_GLUE, " ")


class _Shown:
    """Standard output that puts the description in its place and takes the glue out."""

    def __init__(self, stream: TextIO, description: str) -> None:
        self._stream = stream
        self._description = description

    def write(self, text: str) -> int:
        self._stream.write(text.replace(_DESCRIPTION, self._description).replace(_GLUE, " "))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def showing(description: str) -> Iterator[str]:
    """While the help is printed: gives what tyro is to be given as the description."""
    width = shutil.get_terminal_size().columns
    before = sys.stdout
    sys.stdout = typing.cast(TextIO, _Shown(before, wrapped(description, width)))
    try:
        yield _DESCRIPTION
    finally:
        sys.stdout = before
