"""Parsing of arguments: tyro, with numbers that are checked, durations, and positionals that may stand anywhere."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import math
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from studio.errors import StudioError

T = TypeVar("T")

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(text: str) -> float:
    """Seconds of '90', '90s', '5m', '1h30m', '1.5h'.

    Raises:
        ValueError: Not a duration, or not above zero.
    """
    stripped = text.strip().lower()
    # A bare number is seconds, but not behind a unit: people mean minutes by the 30 of 1h30.
    match = _DURATION.fullmatch(stripped + "s" if re.fullmatch(r"\d+(\.\d+)?", stripped) else stripped)
    if match is None or not any(match.groups()):
        raise ValueError(f"'{text}' is not a duration; write 90, 90s, 5m or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if not (total > 0 and math.isfinite(total)):
        raise ValueError(f"'{text}' must be above zero")
    return total


def format_duration(seconds: float) -> str:
    """As '0:42', '12:05' or '1:02:03'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _number(kind: Callable[[str], Any], text: str, accepts: Callable[[Any], bool], must: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        name = "whole number" if kind is int else "number"
        raise ValueError(f"'{text}' is not a {name}") from None
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    if not accepts(value):
        raise ValueError(f"{text} must be {must}")
    return value


def _spec(metavar: str, read: Callable[[str], Any]) -> PrimitiveConstructorSpec[Any]:
    """One value. None is admitted as a default only; annotated unions with None would print as such in the help."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda strings: read(strings[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: ["none" if value is None else str(value)],
    )


def _checked(
    kind: type[Any], accepts: Callable[[Any], bool] = lambda value: True, must: str = ""
) -> PrimitiveConstructorSpec[Any]:
    return _spec("INT" if kind is int else "FLOAT", lambda text: _number(kind, text, accepts, must))


_POSITIVE = _checked(float, lambda v: v > 0, "above zero")
_ONE_OR_MORE = _checked(int, lambda v: v >= 1, "1 or more")
_DEGREES = _checked(float, lambda v: -90 <= v <= 90, "between -90 and 90")

PositiveFloat = Annotated[float, _POSITIVE]
OptionalPositiveFloat = Annotated[float | None, _POSITIVE]
OptionalAtLeastOne = Annotated[float | None, _checked(float, lambda v: v >= 1, "at least 1")]
PositiveInt = Annotated[int, _ONE_OR_MORE]
OptionalPositiveInt = Annotated[int | None, _ONE_OR_MORE]
NonNegativeInt = Annotated[int, _checked(int, lambda v: v >= 0, "zero or more")]
OptionalDegrees = Annotated[float | None, _DEGREES]
OptionalDuration = Annotated[float | None, _spec("TIME", parse_duration)]
"""Seconds, written as 90, 90s, 5m or 1h30m."""


@functools.cache
def _registry() -> ConstructorRegistry:
    """Any other float and int, those of plugins included, must be a finite number; unions with None read plainly."""
    registry = ConstructorRegistry()
    plain = {float: _checked(float), int: _checked(int), str: _spec("STR", str), Path: _spec("PATH", Path)}

    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if info.type in (float, int):
            return plain[info.type]
        options = [option for option in typing.get_args(info.type) if option is not type(None)]
        is_union = typing.get_origin(info.type) in (typing.Union, types.UnionType)
        if not is_union or len(options) != 1 or options[0] not in plain:
            return None
        spec = plain[options[0]]

        def read(text: str) -> Any:
            return None if text.lower() == "none" else spec.instance_from_str([text])

        return _spec(spec.metavar, read)

    registry.primitive_rule(rule)
    return registry


def parse(
    command: type[T], argv: Sequence[str], *, prog: str, positionals: int = 0, description: str | None = None
) -> T:
    """Parse the arguments of one command.

    Args:
        command: A dataclass; the docstrings under its fields become their help, nested dataclasses groups of options.
        argv: Without the command's own name.
        prog: The command, as shown in the usage line.
        positionals: How many positional arguments the command needs; they may stand before, between or behind options.
        description: Shown under the usage line; default: the docstring.

    Raises:
        StudioError: An unknown option (names the nearest), a bad value, an argument missing or too many.
        SystemExit: Code 0 after the help.
    """
    if wants_help(argv):
        from studio.cli.help import documented, showing

        with showing(description or inspect.getdoc(command) or "") as text:
            return tyro.cli(documented(command), prog=prog, description=text, args=["--help"], registry=_registry())
    known = arguments_of(command)
    found, options = known.split(argv, positionals)
    _refuse_unknown(known, options, prog)
    if len(found) > positionals:
        extra = found[positionals]
        raise StudioError(f"'{extra}' is one argument too many for '{prog}'.", fix=f"See: {prog} --help")
    missing = _required(command)[len(found) :]
    if missing:
        raise StudioError(f"'{prog}' needs {missing[0]}, which is not given.", fix=f"See: {prog} --help")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _one_long_line():
            return tyro.cli(command, prog=prog, args=[*found, *options], registry=_registry())
    except SystemExit as stop:
        raise StudioError(_refusal(said.getvalue()), fix=f"See: {prog} --help") from stop


def _required(command: type[Any]) -> list[str]:
    """The positional arguments that must be given, as the help names them."""
    found = []
    hints = typing.get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        marks = getattr(hints[field.name], "__metadata__", ())
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if tyro.conf.Positional in marks and not has_default:
            found.append(next((m.metavar for m in marks if getattr(m, "metavar", None)), field.name.upper()))
    return found


@contextlib.contextmanager
def _one_long_line() -> Iterator[None]:
    """A terminal so wide that tyro breaks no message."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


_CHOICE = re.compile(r"invalid choice '(.*?)' for argument '(?:.*/)?(.*?)'\. Expected one of \((.*)\)\.?")


def _refusal(box: str) -> str:
    """The message in what tyro printed: a box of lines, of which those behind the first rule explain the option."""
    lines: list[str] = []
    # Colours may be forced on a terminal or by the environment.
    for line in re.sub(r"\x1b\[[\d;]*m", "", box).splitlines():
        text = line.strip("│ ")
        if text.startswith("╭"):
            continue
        if set(text) <= set("─╰╯") and lines:
            break
        lines.append(text)
    message = " ".join(filter(None, lines)).removeprefix("Error parsing ")
    if choice := _CHOICE.search(message):
        said, option, known = choice[1], choice[2], re.findall(r"'([^']*)'", choice[3])
        near = difflib.get_close_matches(said, known, n=1)
        return f"{option}: '{said}' is none of {', '.join(known)}." + (f" Did you mean '{near[0]}'?" if near else "")
    return message.rstrip(".") + "."


@dataclass(frozen=True)
class Arguments:
    """How many values each flag of a command takes, to tell values from positional arguments."""

    arity: dict[str, int | None]
    """Flag -> number of values; None: as many as follow."""

    def positions(self, argv: Sequence[str], wanted: int) -> list[int]:
        """Indices of the positional arguments.

        A flag that takes several values would swallow positionals behind it. Where fewer than `wanted` are found
        elsewhere, the last values of the last such flag are taken for them.
        """
        found: list[int] = []
        swallowed: list[list[int]] = []
        i = 0
        while i < len(argv):
            if argv[i] == "--":
                found += range(i + 1, len(argv))
                break
            if not _is_flag(argv[i]):
                found.append(i)
                i += 1
                continue
            flag, equals, _ = argv[i].partition("=")
            count = 0 if equals else self.arity.get(_normal(flag), 0)
            i += 1
            values: list[int] = []
            while i < len(argv) and not _is_flag(argv[i]) and (count is None or len(values) < count):
                values.append(i)
                i += 1
            if count is None:
                swallowed.append(values)
        for values in reversed(swallowed):
            missing = wanted - len(found)
            if missing > 0 and len(values) > missing:
                found += values[-missing:]
        return sorted(found)

    def split(self, argv: Sequence[str], wanted: int) -> tuple[list[str], list[str]]:
        """The positional arguments, and all others in their order."""
        places = self.positions(argv, wanted)
        rest = [token for i, token in enumerate(argv) if i not in places and token != "--"]
        return [argv[i] for i in places], rest

    def value(self, argv: Sequence[str], flag: str) -> str | None:
        """The value of a flag that takes one; None where it is absent."""
        given = None
        for i, token in enumerate(argv):
            name, equals, value = token.partition("=")
            if token.startswith("--") and _normal(name) == flag:
                given = value if equals else "".join(argv[i + 1 : i + 2])
        return given

    def given(self, argv: Sequence[str]) -> list[str]:
        """The known flags that occur, in their normal spelling."""
        flags = [_normal(token.partition("=")[0]) for token in argv if _is_flag(token)]
        return [flag for flag in flags if flag in self.arity]

    def __or__(self, other: Arguments) -> Arguments:
        return Arguments({**self.arity, **other.arity})


def arguments_of(*commands: type[Any]) -> Arguments:
    """The flags of one or several dataclasses, as tyro names them."""
    arity: dict[str, int | None] = {"--help": 0, "-h": 0}
    for command in commands:
        _collect(command, "", arity)
    return Arguments(arity)


def _collect(command: type[Any], prefix: str, arity: dict[str, int | None]) -> None:
    hints = typing.get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        hint: Any = hints[field.name]
        marks: tuple[Any, ...] = ()
        if typing.get_origin(hint) is Annotated:
            hint, marks = hint.__origin__, hint.__metadata__
        name = prefix + field.name.replace("_", "-")
        if not field.init or tyro.conf.Positional in marks:
            continue
        if dataclasses.is_dataclass(hint):
            # Both ways of leaving out a group's name: for the group and all in it, and for the group alone.
            bare = tyro.conf.OmitArgPrefixes in marks or any(getattr(mark, "name", None) == "" for mark in marks)
            _collect(hint, prefix if bare else f"{name}.", arity)  # type: ignore[arg-type]
        elif hint is bool:
            arity |= {f"--{name}": 0, f"--{prefix}no-{name.removeprefix(prefix)}": 0}
        else:
            arity[f"--{name}"] = _values(hint)


def _values(hint: Any) -> int | None:
    """Number of values of a field of this type; None: as many as follow."""
    args = typing.get_args(hint)
    if typing.get_origin(hint) in (tuple, list):
        return len(args) if typing.get_origin(hint) is tuple and Ellipsis not in args else None
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next((None for option in args if _values(option) is None), 1)
    return 1


def _refuse_unknown(known: Arguments, options: Sequence[str], prog: str) -> None:
    for flag in (token.partition("=")[0] for token in options if _is_flag(token)):
        if _normal(flag) not in known.arity:
            near = difflib.get_close_matches(_normal(flag), known.arity, n=1, cutoff=0.5)
            raise StudioError(
                f"'{prog}' has no option '{flag}'.",
                fix=f"Did you mean '{near[0]}'?" if near else f"See: {prog} --help",
            )


def wants_help(argv: Iterable[str]) -> bool:
    """Whether -h or --help is among the arguments."""
    return any(token in ("-h", "--help") for token in argv)


def _is_flag(token: str) -> bool:
    """-0.5 is a value, --x and -x are flags."""
    return len(token) > 1 and token[0] == "-" and not (token[1].isdigit() or token[1] == ".")


def _normal(flag: str) -> str:
    return "--" + flag[2:].replace("_", "-") if flag.startswith("--") else flag
