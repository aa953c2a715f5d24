"""Plugin configuration: one dataclass a plugin, with presets, a checked plain-data form, and helpful errors."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from studio.errors import StudioError
from studio.plugin.ranges import check_ranges

C = TypeVar("C", bound="PluginConfig")
D = TypeVar("D")
_RETRAIN = "Train the run again."


@dataclass
class PluginConfig:
    """Base of every plugin's configuration.

    Fields are numbers, strings, booleans, None, tuples of those, `Literal`s, or nested dataclasses; the docstring under
    a field becomes its help on the command line. Presets are named sets of field values.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Preset name -> field values that differ from the defaults."""
    CHECK: ClassVar[Mapping[str, Any]] = {}
    """Field values of a model so small that `studio plugins check` is done in seconds. It is trained for 20 steps, or
    as many as 'steps' says here; without them the default configuration is."""

    steps: int = 1000
    """Training steps."""

    def check(self) -> None:
        """Look at all values before anything is trained; a configuration with rules of its own adds them here.

        Raises:
            StudioError: A number is out of the range that its type declares (`studio.plugin.ranges`), or not finite.
        """
        check_ranges(self)

    @classmethod
    def preset(cls: type[C], name: str | None = None) -> C:
        """The default configuration, or the named preset.

        Raises:
            StudioError: No preset of this name; the message lists those there are.
        """
        if name is None:
            return cls()
        if name not in cls.PRESETS:
            if name == "default":
                return cls()
            known = ", ".join(cls.PRESETS) or "none"
            raise StudioError(f"There is no preset '{name}'; presets: {known}.", fix=_nearest(name, cls.PRESETS))
        return cls.from_dict(cls.PRESETS[name], source=f"preset {name}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data (dicts, lists, numbers, strings) that YAML and JSON can hold."""
        return {f.name: _to_plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls: type[C], data: Mapping[str, Any], *, source: str = "config") -> C:
        """Build from plain data; missing fields take their defaults.

        Raises:
            StudioError: An unknown field or a value of the wrong type, named with `source`.
        """
        return _from_plain(cls, data, source)


def known_fields(cls: type[D], data: Mapping[str, Any], source: str, *, required: Sequence[str] = ()) -> D:
    """A dataclass of plain facts about a run; fields that a newer version added are ignored.

    Raises:
        StudioError: A required field is missing, a value is of the wrong type, or a number is not finite; names
            `source` and the field.
    """
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if missing := [name for name in required if name not in data]:
        raise StudioError(f"{source}: the field '{missing[0]}' is missing.", fix=_RETRAIN)
    try:
        found: D = _from_plain(cls, {name: value for name, value in data.items() if name in names}, source)
    except StudioError as error:
        raise StudioError(error.message, fix=error.fix or _RETRAIN) from error
    for name in names:
        if not _all_finite(value := getattr(found, name)):
            raise StudioError(f"{source}: {name}: {value!r} is not finite.", fix=_RETRAIN)
    return found


def _all_finite(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_all_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def config_problems(cls: type[PluginConfig]) -> list[str]:
    """What is wrong with the fields of a configuration class, one line each; empty when it is valid."""
    try:
        hints = typing.get_type_hints(cls)
    except Exception as error:  # names in annotations can be anything
        return [f"its annotations cannot be read ({type(error).__name__}: {error})"]
    found = []
    own = {name for base in cls.__mro__ if base is not PluginConfig for name in vars(base).get("__annotations__", {})}
    fields = {f.name: f for f in dataclasses.fields(cls)}
    forgotten = [n for n in sorted(own & set(hints)) if n not in fields and not _is_class_variable(hints[n])]
    if forgotten:
        found.append(f"field '{forgotten[0]}' is no field, as the class is not decorated with @dataclass")
    for name, f in fields.items():
        if f.init and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            found.append(f"field '{name}' has no default")
        if not _is_supported(hints[name]):
            hint = hints[name]
            shown = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
            found.append(
                f"field '{name}' is a {shown.replace('typing.', '')}; fields are int, float, str, bool, None, Literal, "
                "tuples or unions of these, or dataclasses of such fields"
            )
    return found


def _is_class_variable(hint: Any) -> bool:
    return hint is ClassVar or typing.get_origin(hint) is ClassVar


def _is_supported(hint: Any) -> bool:
    """Whether plain data and the command line can hold values of an annotated type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _is_supported(args[0])
    if origin is typing.Literal:
        return all(isinstance(value, (str, int, bool)) for value in args)
    if origin is tuple:
        return bool(args) and all(a is Ellipsis or _is_supported(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        return all(a is type(None) or _is_supported(a) for a in args)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        inner = typing.get_type_hints(hint)
        return all(_is_supported(inner[f.name]) for f in dataclasses.fields(hint))
    return hint in (int, float, str, bool)


def _nearest(name: str, known: typing.Iterable[str]) -> str | None:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean '{close[0]}'?" if close else None


def _to_plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [_to_plain(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _to_plain(v) for k, v in value.items()}
    return value


def _from_plain(cls: Any, data: Mapping[str, Any], source: str) -> Any:
    if not isinstance(data, Mapping):
        raise StudioError(f"{source}: expected a mapping of fields, got {type(data).__name__}.")
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls) if f.init}
    for key in data:
        if key not in names:
            raise StudioError(
                f"{source}: unknown field '{key}'.",
                fix=_nearest(str(key), names) or f"Fields: {', '.join(sorted(names))}.",
            )
    return cls(**{key: _convert(hints[key], value, f"{source}: {key}") for key, value in data.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type, or a StudioError that names the field."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _convert(args[0], value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        for option in (a for a in args if a is not type(None)):
            try:
                return _convert(option, value, where)
            except StudioError:
                continue
        raise StudioError(f"{where}: {value!r} does not fit {hint}.")
    if origin is typing.Literal:
        if value in args:
            return value
        raise StudioError(f"{where}: {value!r} must be one of {', '.join(map(repr, args))}.")
    if origin is tuple and isinstance(value, (list, tuple)):
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], v, where) for v in value)
        if len(args) == len(value):
            return tuple(_convert(a, v, where) for a, v in zip(args, value, strict=True))
    elif dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else _from_plain(hint, value, where)  # type: ignore[arg-type]
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif (
        hint is Any
        or (hint is int and isinstance(value, int) and not isinstance(value, bool))
        or (hint in (str, bool) and isinstance(value, hint))
    ):
        return value
    raise StudioError(f"{where}: {value!r} is not a valid {getattr(hint, '__name__', hint)}.")
