"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def _find_data() -> Path | None:
    named = os.environ.get("STUDIO_DATA")
    candidates = [Path(named)] if named else [Path(__file__).resolve().parents[2] / "shared" / "data"]
    return next((c for c in candidates if c.is_dir()), None)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real test data (photos, splats, digits), or a skip that says how to name it."""
    found = _find_data()
    if found is None:
        pytest.skip("real data not found: set STUDIO_DATA to its folder")
    return found
