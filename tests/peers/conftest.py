"""Comparisons with other programs, in the environment that `make peers` makes; other runs do not collect them.

Each test holds a part of the studio against an implementation that others wrote and keep. A peer that is missing is a
failure here, not a skip: whoever runs these wants to know.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

collect_ignore_glob = [] if os.environ.get("STUDIO_PEERS") else ["test_*.py"]

HERE = Path(__file__).parent
if os.environ.get("STUDIO_PEERS"):
    sys.path.insert(0, str(HERE.parent / "bridge"))
    from torchvision_operators import register_missing

    # torch-fidelity imports torchvision, of which there may be no CPU build within reach.
    register_missing()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.peers)
