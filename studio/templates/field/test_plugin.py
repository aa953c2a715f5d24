"""Does the plugin do what it declares?"""

from __future__ import annotations

from studio.templates.field import SPEC
from studio.testing import check_plugin


def test_conformance() -> None:
    check_plugin(SPEC).require()
