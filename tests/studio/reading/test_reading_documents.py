"""JSON and YAML: what each kind of damage is called, and what sound documents give."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import given, settings

from studio.errors import StudioError
from studio.reading.fields import Fields
from studio.reading.json_text import parse_json, read_json_object
from studio.reading.yaml_text import read_yaml

# PyYAML writes NEL, which is an end of line to YAML 1.1, so that it is read as a space.
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x85"), max_size=9)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60)
@given(PLAIN)
def test_json_is_read_as_python_reads_it(value: Any) -> None:
    assert parse_json(json.dumps(value), "x") == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), "x") == value


@settings(deadline=None, max_examples=60)
@given(PLAIN)
def test_yaml_is_read_as_it_was_written(value: Any) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.yaml"
        path.write_text(yaml.safe_dump({"a": value}, allow_unicode=True), encoding="utf-8", newline="\n")
        assert read_yaml(path) == {"a": value}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested deeper than 64"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested deeper than 64"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "has the name 'c' twice"),
        ('["\\ud800"]', "half of a surrogate pair"),
        ('{\n"a": 1,,\n}', r"line 2, column 8 .*: \"a\": 1,,"),
        ("", "line 1, column 1"),
        (b"\xff\xfe[\0", "is text in UTF-16"),
        (b'["\xe4"]', "not text in UTF-8"),
    ],
)
def test_json_that_is_refused(text: str | bytes, words: str) -> None:
    with pytest.raises(StudioError, match=words) as caught:
        parse_json(text, "file.json")
    assert str(caught.value).startswith("file.json: ")
    assert caught.value.fix


def test_json_numbers_beyond_all_bounds() -> None:
    text = "[9223372036854775807, 9223372036854775808, -9223372036854775808, 1" + "0" * 400 + ", -1e999, NaN]"
    whole, above, below, huge, low, nan = parse_json(text, "x")
    assert (whole, below) == (2**63 - 1, -(2**63))
    assert isinstance(above, float)
    assert (above, huge, low) == (2.0**63, math.inf, -math.inf)
    assert math.isnan(nan)
    assert parse_json("[" + "7" * 6000 + "]", "x") == [math.inf]
    assert parse_json('"\\ud83d\\ude00"', "x") == "😀"


def test_fields_name_the_place(tmp_path: Path) -> None:
    fields = Fields({"a": math.inf, "b": 1e30, "c": 2.5, "d": [[1, 2], [3, "x"]], "e": True}, "f.json", "frames[3]")
    for call, words in (
        (lambda: fields.number("a"), r"f\.json: frames\[3\]\.a is inf"),
        (lambda: fields.length("b"), r"b is 1e\+30, beyond all measure"),
        (lambda: fields.whole("c", 1, 9), r"c is 2\.5; it must be a whole number from 1 to 9"),
        (lambda: fields.numbers("d", (2, 2)), r"d\[1\]\[1\] must be a number, got a string"),
        (lambda: fields.numbers("d", (3, 2)), "d must be 3 x 2 numbers"),
        (lambda: fields.number("e"), "e must be a number, got true/false"),
        (lambda: fields.choice("c", ("u", "v")), r"c must be one of u, v, got 2\.5"),
        (lambda: fields.fields("d"), "d must be an object, got a list"),
    ):
        with pytest.raises(StudioError, match=words):
            call()
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(StudioError, match="the top level must be an object, got a list"):
        read_json_object(tmp_path / "a.json")


def _bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (_bomb(), "an alias .* line 2"),
        ("a: " + "[" * 2000, "nested deeper than 64"),
        ("- " * 3000 + "a", "nested deeper than 64|not YAML|line 1"),
        ("a: 1\nb: 2\na: 3", "the name 'a' stands twice"),
        ("a: !!binary aGk=", "constructor|tag"),
        ("a: !!timestamp 2020-01-01", "constructor|tag"),
        ("a: !!python/object/apply:os.system [echo]", "constructor|tag"),
        ("a: !!int x", "cannot be read as YAML"),
        ("a: " + "1:" * 200 + "1", "a number of 401 characters"),
        ("a: [", "line 1"),
        ("? [x]\n: 1", "unhashable|line 1"),
        (b"a: \xff\xfe", "not text in UTF-8"),
        ("a\0", "cannot be read as YAML"),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudioError, match=words) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yaml_dates_stay_texts(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 2020-01-01\nb: 2020-99-99\nc: 1_000\nd: 1e-3\ne: .inf\n")
    assert read_yaml(tmp_path / "a.yaml") == {
        "a": "2020-01-01", "b": "2020-99-99", "c": 1000, "d": "1e-3", "e": math.inf,
    }  # fmt: skip
