"""Scenes for the viewer's tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from viewer_scenes import ball_subject

from studio.viewer.subject import Subject


@pytest.fixture(scope="session")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Three balls of Gaussians with four photos of them; not to be changed."""
    return ball_subject(tmp_path_factory.mktemp("balls"))
