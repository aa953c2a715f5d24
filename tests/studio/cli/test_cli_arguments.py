"""Durations, checked numbers, and positional arguments among flags."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from studio.cli.arguments import (
    NonNegativeInt,
    OptionalAtLeastOne,
    OptionalDuration,
    PositiveFloat,
    arguments_of,
    format_duration,
    parse,
    parse_duration,
)
from studio.errors import StudioError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1h2m3s", 3723),
        ("0.5s", 0.5),
        ("2M", 120),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5x", "-5m", "0", "0s", "1h30", "5 m", "nan", "inf", "1e3", "5m1h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="'"):
        parse_duration(text)


@given(st.integers(1, 10**6))
def test_shown_durations_are_exact(seconds: int) -> None:
    parts = [int(part) for part in format_duration(seconds).split(":")]
    assert sum(part * 60**i for i, part in enumerate(reversed(parts))) == seconds
    assert all(part < 60 for part in parts[1:])


@dataclass
class Deep:
    """Deep."""

    depth: int = 1


@dataclass
class Group:
    """A group."""

    seed: NonNegativeInt = 0
    """Seed."""
    size: PositiveFloat = 1.0
    factor: OptionalAtLeastOne = 1.0
    budget: OptionalDuration = None
    ratio: float = 0.5
    label: str | None = None
    count: int | None = 7
    pair: tuple[int, int] = (1, 2)


@dataclass
class Command:
    """A command."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """The run."""
    outputs: tuple[str, ...] = ("rgb",)
    save_all: bool = False
    deep: Deep = field(default_factory=Deep)
    group: tyro.conf.OmitArgPrefixes[Group] = field(default_factory=Group)


def read(*argv: str) -> Command:
    return parse(Command, argv, prog="test", positionals=1)


def test_arity() -> None:
    assert arguments_of(Command).arity == {
        "--help": 0, "-h": 0, "--outputs": None, "--save-all": 0, "--no-save-all": 0, "--deep.depth": 1, "--seed": 1,
        "--size": 1, "--factor": 1, "--budget": 1, "--ratio": 1, "--label": 1, "--count": 1, "--pair": 2,
    }  # fmt: skip


def test_the_order_of_arguments_never_matters() -> None:
    groups = [
        ["RUN"],
        ["--seed", "3"],
        ["--outputs", "rgb", "depth"],
        ["--save_all"],
        ["--pair", "4", "5"],
        ["--ratio=-2"],
    ]
    expected = Command("RUN", ("rgb", "depth"), True, Deep(), Group(seed=3, pair=(4, 5), ratio=-2.0))
    for order in itertools.islice(itertools.permutations(groups), 0, None, 13):
        assert read(*itertools.chain.from_iterable(order)) == expected


def test_values_in_all_their_forms() -> None:
    done = read("--label=a b", "R", "--budget", "1m", "--count", "none", "--ratio", "-.5", "--deep.depth", "4")
    assert done.group == Group(label="a b", budget=60, count=None, ratio=-0.5)
    assert done.deep.depth == 4
    assert read("--seed", "4", "--", "R").run == "R"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["R", "--seed", "-1"], "--seed: -1 must be zero or more"),
        (["R", "--seed", "1.5"], "--seed: '1.5' is not a whole number"),
        (["R", "--size", "0"], "--size: 0 must be above zero"),
        (["R", "--size", "nan"], "--size: nan is not a finite number"),
        (["R", "--ratio", "inf"], "--ratio: inf is not a finite number"),
        (["R", "--ratio", "x"], "--ratio: 'x' is not a number"),
        (["R", "--factor", "0.5"], "--factor: 0.5 must be at least 1"),
        (["R", "--budget", "soon"], "--budget: 'soon' is not a duration"),
        (["R", "--count", "2.5"], "--count: '2.5' is not a whole number"),
        ([], "RUN"),
    ],
)
def test_bad_values_name_their_flag(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StudioError) as caught:
        read(*argv)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(" --help")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("flag", "near"), [("--sead", "--seed"), ("--output", "--outputs"), ("--bugdet=5", "--budget")]
)
def test_unknown_flags_name_the_nearest(flag: str, near: str) -> None:
    with pytest.raises(StudioError, match=f"Did you mean '{near}'"):
        read("R", flag, "1")


def test_too_many_arguments() -> None:
    with pytest.raises(StudioError, match="'B' is one argument too many"):
        read("A", "B")


@dataclass
class Wordy:
    """Does something that takes a sentence to say, which goes on in the next line of the source and
    then in another one."""

    kind: Literal["red", "green"] = "red"
    """Which of them; a text that is longer than a line of the source, and whose second line
    (this one) begins with a bracket and ends with 1."""
    group: tyro.conf.OmitArgPrefixes[Group] = field(default_factory=lambda: Group(seed=3))


@pytest.mark.parametrize("columns", [60, 80, 120, 200])
def test_help_is_wrapped_without_lost_words(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as caught:
        parse(Wordy, ["--help"], prog="wordy")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    assert "\N{NO-BREAK SPACE}" not in shown
    text = " ".join(shown.replace("│", " ").split())
    assert "in the next line of the source and then in another one." in text
    assert "whose second line (this one) begins with a bracket and ends with 1. (default: red)" in text
    assert "Seed. (default: 3)" in text
    # A default is never torn, and no line in the middle of a text ends early.
    assert not [line for line in lines if line.count("(default:") > line.count(")")]


def test_choices_name_the_nearest() -> None:
    with pytest.raises(StudioError, match=r"--kind: 'gren' is none of red, green\. Did you mean 'green'\?"):
        parse(Wordy, ["--kind", "gren"], prog="wordy")
