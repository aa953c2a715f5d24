"""The figures of the README are those of the files that they name, and each says what processor it is of."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- figures:(\w+) — from (\S+) -->\n(.*?)<!-- /figures:\1 -->", README, re.DOTALL)

# With a decimal or thousands: what is measured. Whole numbers below a thousand are sizes and counts, of which any file
# holds so many that finding them there would say nothing.
_NUMBER = re.compile(r"(?<![\w.,-])(\d{1,3}(?:,\d{3})+|\d+\.\d+)(?![\w,]*\d)")
_ALSO_SAID = {
    # Whose figures are quoted beside ours, or follow from the model's sizes.
    "gpt_shakespeare": {"1.88", "0.8"},
    "nerf_lego": {"595,844"},
    "vae_mnist": {"9,000"},
    "captions": {"1,000"},
    "memory_2000_photos": {"2,000"},
}


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, str):
        for word in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", value):
            yield float(word.replace(",", ""))


def _is_shown(text: str, found: float) -> bool:
    """Whether a number is what a figure of the file rounds to, as it is, as a percentage, or in thousandths."""
    shown = float(text.replace(",", ""))
    decimals = len(text.partition(".")[2])
    half = 0.5000001 * 10**-decimals
    return any(abs(found * factor - shown) <= half for factor in (1, 100, 1000, 0.001))


def _missing(name: str, text: str, document: Any) -> list[str]:
    figures = list(_numbers(document))
    words = [word for word in _NUMBER.findall(text) if word not in _ALSO_SAID.get(name, set())]
    return [word for word in words if not any(_is_shown(word, figure) for figure in figures)]


def test_blocks_are_found() -> None:
    assert len(BLOCKS) == README.count("<!-- figures:") > 12


@pytest.mark.parametrize(("name", "file", "text"), BLOCKS, ids=[block[0] for block in BLOCKS])
def test_figures_are_those_of_the_file(name: str, file: str, text: str) -> None:
    assert _missing(name, text, json.loads((ROOT / file).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(("name", "file", "text"), BLOCKS, ids=[block[0] for block in BLOCKS])
def test_the_processor_is_named(name: str, file: str, text: str) -> None:
    machine = json.loads((ROOT / file).read_text(encoding="utf-8"))["machine"]
    words = " ".join(text.split())
    assert machine["cpu"] in words
    # What a figure of a processor with wider vectors is worth on one without, its reader must be able to judge.
    assert ("AVX-512" in words) >= ("avx512f" in machine["simd"])


def test_a_figure_that_is_not_in_the_file_is_noticed() -> None:
    document = {"rows": [{"psnr": 36.2149, "share": 0.9594, "rays": 13070}]}
    assert _missing("none", "36.21 dB, 95.9 %, 13,070 rays", document) == []
    assert _missing("none", "36.22 dB, 95.8 %, 13,170 rays", document) == ["36.22", "95.8", "13,170"]
