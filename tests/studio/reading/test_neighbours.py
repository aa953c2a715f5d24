"""Misspelt paths name what is beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.reading.neighbours import meant, nearest_path


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "scenes" / "tabletop" / "images").mkdir(parents=True)
    (tmp_path / "photos.zip").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("said", "near"),
    [
        ("scenes/tabeltop", "scenes/tabletop"),
        ("scense/tabletop/images", "scenes/tabletop/images"),
        ("Photos.ZIP", "photos.zip"),
        ("scenes/tabletop", None),  # is there
        ("scense/tabeltop", None),  # two mistakes are a guess too many
        ("scenes/kitchen", None),
        ("photos.zip/x", None),
    ],
)
def test_nearest(tree: Path, said: str, near: str | None) -> None:
    assert nearest_path(Path(said)) == (None if near is None else Path(near))
    assert nearest_path(tree / said) == (None if near is None else tree / near)


def test_what_is_said(tree: Path) -> None:
    assert meant(Path("scenes/tabeltop"), "Else.") == "Did you mean scenes/tabletop?"
    assert meant(Path("nothing"), "Else.") == "Else."
