"""Plugins that were written against API 1.0 keep passing the conformance kit, for as long as the major version is 1."""

from __future__ import annotations

import hashlib
from pathlib import Path

import frozen_api_1_0_specs as frozen
import pytest

from studio.plugin import PluginSpec
from studio.testing import check_plugin

FILES = {
    "frozen_api_1_0.py": "648297e591bebefefc6ee5127ba431957107609224a036d346fa06f03d7202ed",
    "frozen_api_1_0_specs.py": "80b870941426f0f2fe0e96df5596ec43e3d00ccbfea56eba2d496278c8ff37ca",
}


@pytest.mark.parametrize("spec", [frozen.MIXTURE, frozen.BALL], ids=lambda spec: spec.name)
def test_written_against_1_0(spec: PluginSpec) -> None:
    check_plugin(spec, device="cpu").require()


@pytest.mark.parametrize("name", FILES)
def test_the_copy_is_the_one_of_1_0(name: str) -> None:
    content = (Path(frozen.__file__).parent / name).read_bytes().replace(b"\r\n", b"\n")
    assert hashlib.sha256(content).hexdigest() == FILES[name], "change the studio, not the frozen plugin"
