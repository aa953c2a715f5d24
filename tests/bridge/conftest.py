"""Tests against the real nerfstudio, in an environment of its own: ``make nerfstudio``. Elsewhere they do not exist."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).parent

if importlib.util.find_spec("nerfstudio") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    sys.path.insert(0, str(HERE))
    from torchvision_operators import register_missing

    register_missing()
