"""Does the plugin do what it declares?"""

from __future__ import annotations

import pytest

from studio.templates.generator import SPEC
from studio.testing import check_plugin


@pytest.mark.parametrize("data", ["points", "pictures"])
def test_conformance(data: str) -> None:
    check_plugin(SPEC, data=data).require()
