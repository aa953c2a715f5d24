"""Which fields a configuration may have, and what is said about others."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from studio.plugin import PluginConfig
from studio.plugin.config import config_problems


class Color(enum.Enum):
    RED = 1


@dataclass
class Inner:
    size: int | None = None
    names: tuple[str, ...] = ()


@dataclass
class Sound(PluginConfig):
    TABLE: ClassVar[dict[str, Any]] = {}
    BARE: ClassVar = 3

    a: int = 1
    b: float | None = None
    c: Literal["x", "y"] = "x"
    d: tuple[int, float] = (1, 2.0)
    e: tuple[tuple[int, ...], ...] = ()
    f: Inner = field(default_factory=Inner)
    g: int | str = 3
    h: bool = False


@dataclass
class BadInner:
    place: Path = Path()


def test_every_supported_type() -> None:
    assert config_problems(Sound) == []


@pytest.mark.parametrize(
    "hint", [list[int], dict[str, int], set[str], Path, Color, Any, tuple, complex, BadInner, bytes]
)
def test_unsupported_types_are_named(hint: Any) -> None:
    cls = dataclass(type("Config", (PluginConfig,), {"__annotations__": {"wrong": hint}, "wrong": None}))
    (problem,) = config_problems(cls)
    assert problem.startswith("field 'wrong' is a ")
    assert "fields are int, float, str, bool" in problem


def test_other_mistakes_are_named() -> None:
    class Undecorated(PluginConfig):
        width: int = 3

    @dataclass(kw_only=True)
    class Needy(PluginConfig):
        width: int

    @dataclass
    class Unknown(PluginConfig):
        width: Nowhere = 3  # type: ignore[name-defined]

    assert "not decorated with @dataclass" in config_problems(Undecorated)[0]
    assert config_problems(Needy) == ["field 'width' has no default"]
    assert "annotations cannot be read (NameError" in config_problems(Unknown)[0]
