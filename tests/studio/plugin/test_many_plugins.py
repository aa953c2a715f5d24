"""Thirty installed plugins, one that hangs and three that are broken, and two distributions with one name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from installed_plugins import install_plugin, install_thirty

from studio import probing, registry
from studio.errors import StudioError


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed distributions that this process and its children see."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.delenv("STUDIO_PLUGINS", raising=False)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_thirty_plugins(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PROBE_SECONDS", 12.0)
    expected = install_thirty(site)
    assert len(expected) == 30
    listed = {entry.name: entry for entry in registry.list_plugins()}
    assert {name: listed[name].status for name in expected} == expected
    assert "did not finish within" in listed["hangs"].reason
    assert listed["raises"].reason == "RuntimeError: no good today"
    assert "needs the package 'a_package_that_nobody_has'" in listed["lacks"].reason
    assert "needs plugin API >=9" in listed["future"].reason
    assert listed["plain-00"].distribution == "many-plain-00"
    assert listed["plain-00"].version == "1.0"

    # From now on the answers are remembered: no plugin and no torch is imported, and only the plugin that raised, which
    # may work by now, is tried again.
    probe, tried = probing.probe, []

    def watch(registrations: list[probing.Registration], *rest: object) -> object:
        tried.extend(registration.name for registration in registrations)
        return probe(registrations, *rest)

    monkeypatch.setattr(probing, "probe", watch)
    again = {entry.name: entry.status for entry in registry.list_plugins()}
    assert {name: again[name] for name in expected} == expected
    assert tried == ["raises"]
    code = (
        "import sys\nfrom studio.cli.main import main\n"
        "main(['plugins', '--json'])\nprint(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    shown = {entry["name"]: entry["status"] for entry in json.loads(done.stdout)}
    assert {name: shown[name] for name in expected} == expected
    loaded = set(done.stderr.split())
    assert not {"torch", "numba", "many_plain_00", "studio_splat"} & loaded


def test_two_distributions_with_one_name(site: Path) -> None:
    install_plugin(site, "twin", distribution="alpha-plugins", module="alpha_twin")
    install_plugin(site, "twin", distribution="beta-plugins", module="beta_twin")
    twins = [entry for entry in registry.list_plugins() if entry.name == "twin"]
    assert [entry.status for entry in twins] == ["broken", "broken"]
    with pytest.raises(
        StudioError, match=r"two plugins are named 'twin': alpha-plugins .* and beta-plugins .*uninstall"
    ):
        registry.find_plugin("twin")


def test_a_plugin_that_takes_a_built_in_name_is_refused_with_it(site: Path) -> None:
    install_plugin(site, "vae", distribution="other-vae", module="other_vae")
    with pytest.raises(StudioError, match=r"neural-studio .* and other-vae"):
        registry.find_plugin("vae")
