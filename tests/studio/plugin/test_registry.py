"""Finding plugins: broken ones are listed with their reason and harm nothing; listing imports none of them."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from studio import probing, registry
from studio.errors import StudioError

GOOD = """
from studio.plugin.spec import PluginSpec
SPEC = PluginSpec(
    name={name!r}, kind="generator", summary="s", target="{module}:Model", config="{module}:Config", {extra}
)
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Registers modules written on the fly; returns the function that does it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    registered: list[str] = []

    def add(name: str, source: str, attribute: str = "SPEC", module: str | None = None) -> None:
        module = module or f"plugin_of_{name.replace('-', '_')}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source.replace("{module}", module)))
        registered.append(f"{name}={module}:{attribute}")
        monkeypatch.setenv("STUDIO_PLUGINS", ",".join(registered))

    return add


def good(name: str, extra: str = "") -> str:
    return GOOD.replace("{name!r}", repr(name)).replace("{extra}", extra)


def entries() -> dict[str, registry.PluginEntry]:
    return {entry.name: entry for entry in registry.list_plugins()}


def test_each_kind_of_breakage_is_told_and_the_rest_works(plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PROBE_SECONDS", 6.0)
    plugins("works", good("works"))
    plugins("raises", "raise RuntimeError('at import')")
    plugins("needs", "import a_package_that_is_not_there")
    plugins("exits", "import sys; sys.exit(3)")
    plugins("dies", "import os; os._exit(9)")
    plugins("prints", "print('hello from import')\n" + textwrap.dedent(good("prints")))
    plugins("hangs", "import time; time.sleep(60)")
    plugins("nospec", "SPEC = 5")
    plugins("absent", "", attribute="MISSING")
    plugins("future", good("future", 'api=">=9"'))
    plugins("renamed", good("another"))
    found = entries()
    expected = {
        "works": None,
        "prints": None,
        "raises": "RuntimeError: at import",
        "needs": "needs the package 'a_package_that_is_not_there'",
        "exits": "SystemExit: 3",
        "dies": "ended the process",
        "hangs": "did not finish within",
        "nospec": "is a int, not a PluginSpec",
        "absent": "has no attribute 'MISSING'",
        "future": "needs plugin API >=9",
        "renamed": "registered as 'renamed' but its spec says 'another'",
    }
    for name, reason in expected.items():
        entry = found[name]
        assert entry.status == ("ok" if reason is None else "broken"), (name, entry.reason)
        if reason is not None:
            assert reason in entry.reason
            assert "\n" not in entry.reason
    assert found["splat"].status == "ok"
    assert "RuntimeError" in found["raises"].details
    with pytest.raises(StudioError, match=r"'raises'.*cannot be used: RuntimeError: at import"):
        registry.find_plugin("raises")
    assert registry.find_plugin("works").spec is not None


def test_two_plugins_of_one_name_are_both_refused(plugins) -> None:
    plugins("twin", good("twin"), module="twin_a")
    plugins("twin", good("twin"), module="twin_b")
    with pytest.raises(StudioError, match=r"two plugins are named 'twin'.*twin_a:SPEC.*twin_b:SPEC"):
        registry.find_plugin("twin")


def test_a_built_in_name_cannot_be_taken_silently(plugins) -> None:
    plugins("splat", good("splat"))
    with pytest.raises(StudioError, match=r"neural-studio.*studio_splat:SPEC"):
        registry.find_plugin("splat")


def test_unknown_names_suggest_the_nearest(plugins) -> None:
    with pytest.raises(StudioError, match="Did you mean 'splat'"):
        registry.find_plugin("spalt")


def test_declarations_are_remembered_until_the_file_changes(
    plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins("memo", good("memo"))
    assert entries()["memo"].status == "ok"
    probed: list[str] = []
    original = probing.probe
    monkeypatch.setattr(probing, "probe", lambda rs, *how: probed.extend(r.name for r in rs) or original(rs, *how))
    assert entries()["memo"].status == "ok"
    assert probed == []
    module = tmp_path / "plugin_of_memo.py"
    module.write_text("raise ValueError('edited')")
    assert entries()["memo"].reason == "ValueError: edited"
    assert probed == ["memo"]


def test_a_failure_that_may_pass_is_not_remembered(plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag = tmp_path / "bad-day"
    flag.touch()
    plugins("moody", f"import os\nif os.path.exists({str(flag)!r}): raise OSError('disk full')\n" + good("moody"))
    plugins("dying", f"import os\nif os.path.exists({str(flag)!r}): os._exit(3)\n" + good("dying"))
    sleeper = f"import os, time\nif os.path.exists({str(flag)!r}): time.sleep(60)\n" + good("sleepy")
    plugins("sleepy", sleeper)
    monkeypatch.setattr(registry, "PROBE_SECONDS", 6.0)
    found = entries()
    assert [found[name].status for name in ("moody", "dying", "sleepy")] == ["broken"] * 3
    flag.unlink()
    monkeypatch.setattr(registry, "PROBE_SECONDS", 60.0)
    found = entries()
    assert [found[name].reason for name in ("moody", "dying")] == [""] * 2
    # A list does not wait for one that hung a moment ago, but who asks for it by name does.
    assert "within 6 s" in found["sleepy"].reason
    assert registry.find_plugin("sleepy").reason == ""
    assert entries()["sleepy"].status == "ok"


def test_one_plugin_is_found_without_looking_at_others(plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins("quick", good("quick"))
    plugins("hanging", "import time; time.sleep(600)")
    assert registry.find_plugin("quick").status == "ok"
    assert {"quick", "hanging", "splat"} <= set(registry.plugin_names())
    monkeypatch.setattr(registry, "PROBE_SECONDS", 1.0)
    with pytest.raises(StudioError, match="did not finish within 1 s"):
        registry.find_plugin("hanging")


@pytest.mark.parametrize(
    "answer",
    [
        5,
        None,
        "ok",
        [],
        {},
        {"spec": 5},
        {"spec": {}},
        {"spec": {"name": 1}},
        {"reason": 7},
        {"reason": "x", "details": [1]},
        {"spec": {"name": "calm", "kind": 1, "summary": "", "target": "", "config": "", "capabilities": 3}},
        {"spec": {"unknown": "field"}},
    ],
)
def test_a_memory_of_another_shape_is_read_anew(plugins, tmp_path: Path, answer: object) -> None:
    plugins("calm", good("calm"))
    file = tmp_path / "cache" / "neural-studio" / "plugins.json"
    assert registry.find_plugin("calm").status == "ok"
    file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()), answer)))
    assert registry.find_plugin("calm").status == "ok"


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ("api=1", "api is 1, not a text"),
        ("capabilities='sample'", "capabilities is 'sample', not a tuple of texts"),
        ("devices=(1,)", r"devices is \(1,\), not a tuple of texts"),
        ("presets=['quick']", r"presets is \['quick'\], not a dict of texts"),
    ],
)
def test_fields_of_another_type_are_named(plugins, extra: str, reason: str) -> None:
    plugins("odd", good("odd", extra))
    with pytest.raises(StudioError, match=reason):
        registry.find_plugin("odd")


def test_listing_works_with_an_unwritable_or_damaged_cache(plugins, tmp_path: Path) -> None:
    plugins("calm", good("calm"))
    cache = tmp_path / "cache" / "neural-studio" / "plugins.json"
    cache.parent.mkdir(parents=True)
    cache.write_text("{ damaged")
    assert entries()["calm"].status == "ok"
    cache.unlink()
    cache.mkdir()
    assert entries()["calm"].status == "ok"


def test_listing_imports_neither_torch_nor_plugins() -> None:
    code = (
        "import sys, json; from studio.registry import list_plugins; names = [e.name for e in list_plugins()];"
        "print(json.dumps([names, [m for m in ('torch', 'numba', 'studio_splat') if m in sys.modules]]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    names, imported = json.loads(out)
    assert "splat" in names
    assert imported == []


MODEL = """
from dataclasses import dataclass
from studio.plugin import Generator, PluginConfig
@dataclass
class Config(PluginConfig):
    pass
class Model(Generator):
    {body}
"""


@pytest.mark.parametrize(
    ("body", "extra", "expected"),
    [
        ("pass", "", "declares the capability 'sample'.*no method 'sample'"),
        ("def sample(self, n): ...", 'capabilities=("likelihood",)', "'likelihood'.*no method 'log_likelihood'"),
        ("def sample(self, n): ...\n    def train(self, mode=True): ...", "", "overrides nn.Module.train"),
    ],
)
def test_a_class_must_keep_what_its_spec_declares(plugins, body: str, extra: str, expected: str, request) -> None:
    name = f"liar{abs(hash(body)) % 10_000}"
    plugins(name, good(name, extra) + MODEL.replace("{body}", body))
    with pytest.raises(StudioError, match=expected):
        registry.load_plugin_class(registry.find_plugin(name))


def test_a_class_of_the_wrong_kind_is_refused(plugins) -> None:
    plugins("wrongkind", good("wrongkind") + "class Model: pass\nclass Config: pass\n")
    entry = registry.find_plugin("wrongkind")
    with pytest.raises(StudioError, match=r"not a subclass of studio.plugin.Generator"):
        registry.load_plugin_class(entry)
    with pytest.raises(StudioError, match=r"not a subclass of studio.plugin.PluginConfig"):
        registry.load_config_class(entry)
