"""Plugin configurations: presets, plain data, and errors that name the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.errors import StudioError
from studio.plugin import PluginConfig, PluginSpec
from studio.plugin.spec import api_mismatch


@dataclass
class Inner:
    width: int = 8
    rate: float = 0.5


@dataclass
class Example(PluginConfig):
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"big": {"inner": {"width": 64}, "sizes": [4, 5]}}

    inner: Inner = field(default_factory=Inner)
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (1, "a")
    mode: Literal["a", "b"] = "a"
    limit: int | None = None
    name: str = "x"
    on: bool = False


def test_presets_replace_only_what_they_name() -> None:
    big = Example.preset("big")
    assert big == dataclasses.replace(Example(), inner=Inner(width=64), sizes=(4, 5))
    assert Example.preset(None) == Example.preset("default") == Example()


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(StudioError, match=r"'bigg'.*presets: big.*Did you mean 'big'"):
        Example.preset("bigg")


@settings(deadline=None)
@given(
    st.builds(
        Example,
        steps=st.integers(1, 10**9),
        inner=st.builds(Inner, width=st.integers(), rate=st.floats(allow_nan=False)),
        sizes=st.lists(st.integers()).map(tuple),
        pair=st.tuples(st.integers(), st.text()),
        mode=st.sampled_from(["a", "b"]),
        limit=st.none() | st.integers(),
        name=st.text(),
        on=st.booleans(),
    )
)
def test_round_trip_through_yaml(config: Example) -> None:
    assert Example.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"modee": "a"}, r"unknown field 'modee'.*Did you mean 'mode'"),
        ({"mode": "c"}, r"mode: 'c' must be one of 'a', 'b'"),
        ({"steps": "many"}, r"steps: 'many' is not a valid int"),
        ({"steps": True}, r"steps: True is not a valid int"),
        ({"steps": 1.5}, r"steps: 1\.5 is not a valid int"),
        ({"on": 1}, r"on: 1 is not a valid bool"),
        ({"inner": {"with": 3}}, r"inner: unknown field 'with'.*Did you mean 'width'"),
        ({"inner": 3}, r"inner: expected a mapping"),
        ({"sizes": [1, "b"]}, r"sizes: 'b' is not a valid int"),
        ({"pair": [1]}, r"pair: \[1\]"),
        ({"limit": "none"}, r"limit: 'none' does not fit"),
    ],
)
def test_bad_values_are_named(data: dict[str, Any], expected: str) -> None:
    with pytest.raises(StudioError, match=expected) as caught:
        Example.from_dict(data, source="run.yaml")
    assert str(caught.value).startswith("run.yaml")
    assert "\n" not in str(caught.value)


def test_whole_numbers_become_floats_where_floats_are_meant() -> None:
    assert isinstance(Example.from_dict({"inner": {"rate": 1}}).inner.rate, float)


def spec(**changes: Any) -> PluginSpec:
    return PluginSpec(**{"name": "p", "kind": "field", "summary": "s", "target": "a.b:C", "config": "a:D", **changes})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "Bad Name"}, "name"),
        ({"kind": "other"}, "kind"),
        ({"target": "a.b.C"}, "target"),
        ({"config": "a:"}, "config"),
        ({"capabilities": ("fly",)}, "unknown capability 'fly'"),
        ({"devices": ("tpu",)}, "unknown device 'tpu'"),
        ({"devices": ()}, "devices is empty"),
        ({"api": ">=2"}, "needs plugin API >=2"),
        ({"api": "latest"}, "not a version range"),
    ],
)
def test_a_bad_declaration_is_described(changes: dict[str, Any], expected: str) -> None:
    problems = spec(**changes).problems()
    assert len(problems) == 1
    assert expected in problems[0]


def test_a_good_declaration_has_no_problems_and_implies_its_capability() -> None:
    assert spec().problems() == []
    assert spec(capabilities=("export",)).all_capabilities() == ("render", "export")
    assert spec(kind="generator").all_capabilities() == ("sample",)
    assert PluginSpec.from_dict(spec(presets={"a": "b"}).to_dict()) == spec(presets={"a": "b"})


def test_api_ranges() -> None:
    assert api_mismatch(">=1,<2") is None
    assert api_mismatch("") is None
    assert "this studio has" in (api_mismatch("<1") or "")
