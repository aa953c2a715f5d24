"""The conformance kit: sound plugins pass, and every check fails for a plugin that makes its mistake."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import broken_plugins
import pytest

from studio.errors import StudioError
from studio.plugin import PluginSpec
from studio.testing import CheckReport, check_plugin

PICTURES = {"config": "broken_plugins:PictureConfig"}
TEXT = {"config": "broken_plugins:ToyConfig"}
FIELD = {
    "kind": "field",
    "config": "broken_plugins:FogConfig",
    "presets": {"quick": "soon done", "default": "takes its time"},
}
SMALL_FIELD = {"width": 16, "rays": 32, "samples": 12}


def spec(target: str, **changes: Any) -> PluginSpec:
    values = {
        "name": "made-up",
        "kind": "generator",
        "summary": "Made up for a test.",
        "target": f"broken_plugins:{target}",
        "config": "broken_plugins:GaussConfig",
        **changes,
    }
    return PluginSpec(**values)


def check(plugin: PluginSpec, **options: Any) -> CheckReport:
    if plugin.kind == "field":
        options["config"] = SMALL_FIELD
    elif plugin.config == PICTURES["config"] and "caption" not in plugin.capabilities:
        options["data"] = "pictures"
    return check_plugin(plugin, device="cpu", **options)


CASES: list[tuple[str, str, dict[str, Any], str]] = [
    ("declaration", "GaussGenerator", {"name": "Made Up"}, "name 'Made Up' must match"),
    ("declaration", "GaussGenerator", {"summary": "two\nlines"}, "not one line"),
    ("API range", "GaussGenerator", {"api": ">=1"}, "admits 2.0"),
    ("API range", "GaussGenerator", {"api": ">=2,<3"}, "needs plugin API >=2,<3"),
    ("configuration", "GaussGenerator", {"config": "broken_plugins:ListConfig"}, "'widths' is a list.int.*fields are"),
    ("configuration", "GaussGenerator", {"config": "broken_plugins:NoDefaultConfig"}, "not the same.*'width'"),
    ("configuration", "GaussGenerator", {"config": "broken_plugins:UndecoratedConfig"}, "not decorated"),
    ("configuration", "GaussGenerator", {"config": "broken_plugins:NotANumberConfig"}, "not plain data"),
    ("presets", "GaussGenerator", {"presets": {"quick": "soon done"}}, "'quick', which GaussConfig.PRESETS lacks"),
    (
        "presets",
        "GaussGenerator",
        {"config": "broken_plugins:PresetConfig", "presets": {"quick": "soon done"}},
        "unknown field 'stepps'",
    ),
    ("presets", "GaussGenerator", {"config": "broken_plugins:PresetConfig"}, "does not declare"),
    ("class", "Nothing", {}, "has no attribute 'Nothing'"),
    ("class", "GaussConfig", {}, "not a subclass of studio.plugin.Generator"),
    ("class", "GaussGenerator", {"capabilities": ("caption",)}, "'caption'.*no method 'caption'"),
    ("builds", "NoData", {}, "can be built for no data.*points: RuntimeError: not today"),
    ("builds", "WrongRequest", {}, "asked for RayRequest"),
    ("builds", "AnotherObject", {}, "another object"),
    ("20 steps lower the loss", "NeverSteps", {}, "leave the loss at"),
    ("20 steps lower the loss", "Ascends", {}, "leave the loss at"),
    ("20 steps lower the loss", "NotFinite", {}, "nan at step 4"),
    ("20 steps lower the loss", "NoLoss", {}, "no 'loss'.*nll"),
    ("20 steps lower the loss", "LossOfEach", {}, "'each' as a Tensor, which is not one number"),
    ("trains and saves", "UnsavableState", {}, "is a set; only tensors and plain values"),
    ("opens from a checkpoint", "ForgetsItsData", {}, "without the data.*'samples' differs"),
    ("resumes exactly", "ForgetsItsMoments", {}, "step 4 differs after a restart: 'plugin/"),
    ("repeats", "GlobalRandomness", {}, "the second time"),
    ("repeats", "AlwaysTheSame", {}, "another seed"),
    ("repeats", "RandomRender", FIELD, "the second time"),
    ("moves between devices", "LeavesATensorBehind", {}, "'scale' is a tensor that stays behind"),
    ("no network", "Telephones", {}, r"asked for example\.org"),
    ("no files elsewhere", "WritesElsewhere", {}, "written_by_a_broken_plugin"),
    ("no files elsewhere", "WritesIntoTheWorkingFolder", {}, r"working.weights\.pt"),
    ("capability sample", "ExtraAxis", {}, r"shape \(1, 1, 2\), expected \(1, 2\)"),
    ("capability sample", "Gradients", {}, "carries gradients"),
    ("capability sample", "OptionWithoutDefault", {}, "'temperature' has no default"),
    ("capability sample", "TooBright", PICTURES, r"pictures are in \[0, 1\]"),
    ("capability likelihood", "LikelihoodOfAll", {"capabilities": ("likelihood",)}, r"shape \(\), expected \(4,\)"),
    ("capability likelihood", "NoJacobian", {"capabilities": ("likelihood",)}, r"sums to 1\.6"),
    ("capability encode", "CodesOfPictures", {**PICTURES, "capabilities": ("encode",)}, r"expected \(4, d\)"),
    ("capability decode", "DecodesFlat", {**PICTURES, "capabilities": ("decode",)}, r"shape \(4, 3072\)"),
    ("capability reconstruct", "ReconstructsOne", {**PICTURES, "capabilities": ("reconstruct",)}, r"shape \(1, "),
    ("capability interpolate", "ShortWalk", {**PICTURES, "capabilities": ("interpolate",)}, r"shape \(4, "),
    ("capability invert", "InvertsToPictures", {**PICTURES, "capabilities": ("invert",)}, r"expected \(2, d\)"),
    ("capability caption", "OneCaption", {**PICTURES, "capabilities": ("caption",)}, "no list of 4 strings"),
    ("capability trajectory", "UnfinishedFilm", {**PICTURES, "capabilities": ("trajectory",)}, "the last frame"),
    ("capability edit", "EditsOneChannel", {**PICTURES, "capabilities": ("edit",)}, r"shape \(1, 1, 32, 32\)"),
    ("capability stream", "ForgetsThePrompt", {**TEXT, "capabilities": ("stream",)}, "not with the prompt"),
    ("capability attention", "Logits", {**TEXT, "capabilities": ("attention",)}, "sum to 1"),
    ("capability render", "Sideways", FIELD, r"shape \(24, 16, 3\), expected \(16, 24, 3\)"),
    ("capability render", "NoBackground", FIELD, "background does not show"),
    ("capability render", "NoOpacity", FIELD, "no 'opacity'"),
    ("capability export", "ExportsNothing", {**FIELD, "capabilities": ("export",)}, "leaves nothing"),
    ("capability density", "NegativeDensity", {**FIELD, "capabilities": ("density",)}, "at least 0|down to -"),
    ("capability inspect", "OtherSamples", {**FIELD, "capabilities": ("inspect",)}, "its pixel has an opacity"),
    ("opaque photos", "NeedsAlpha", FIELD, "photos without alpha"),
]
ELSEWHERE_TESTED = {"light import", "command line"}


@pytest.fixture(autouse=True)
def nothing_left() -> Any:
    yield
    broken_plugins.ELSEWHERE.unlink(missing_ok=True)


@pytest.mark.parametrize(("name", "target", "changes", "expected"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_a_mistake_is_found(name: str, target: str, changes: dict[str, Any], expected: str) -> None:
    report = check(spec(target, **changes))
    assert report[name].status == "fail", report[name]
    assert re.search(expected, f"{report[name].message} {report[name].fix}"), report[name]
    assert not report.passed
    with pytest.raises(AssertionError, match=re.escape(report[name].message)):
        report.require()


SOUND = [
    spec("GaussGenerator", capabilities=("likelihood",)),
    spec(
        "PixelGenerator",
        **PICTURES,
        capabilities=("encode", "decode", "reconstruct", "interpolate", "likelihood", "trajectory", "edit"),
    ),
    spec("ByteGenerator", **TEXT, capabilities=("likelihood", "stream")),
    spec("Fog", **FIELD, capabilities=("density", "inspect", "export")),
]


def test_sound_plugins_pass_and_every_check_has_its_mistake() -> None:
    made = set()
    for plugin in SOUND:
        report = check(plugin).require()
        made |= {result.name for result in report}
        assert {"20 steps lower the loss", "resumes exactly"} <= {r.name for r in report if r.status == "pass"}
    assert made <= {case[0] for case in CASES} | ELSEWHERE_TESTED


def test_what_was_found_is_plain_data() -> None:
    data = check(spec("NeverSteps")).to_dict()
    assert data["plugin"] == "made-up"
    assert data["passed"] is False
    assert data["data"] == "points"
    statuses = {entry["name"]: entry["status"] for entry in data["checks"]}
    assert statuses["20 steps lower the loss"] == "fail"
    assert statuses["resumes exactly"] == "pass"
    assert statuses["light import"] == "n/a"


def test_a_failure_keeps_others_from_being_blamed() -> None:
    report = check(spec("NoData"))
    assert [result.name for result in report.failures] == ["builds"]
    assert report["resumes exactly"].message == "'trains and saves' has to pass first."
    assert "not today" in report["builds"].message


def test_the_process_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    import random
    import tempfile

    import torch

    torch.manual_seed(3)
    random.seed(3)
    before = Path.cwd(), tempfile.gettempdir(), list(sys.path), torch.get_rng_state(), random.getstate()
    check(spec("GaussGenerator"))
    after = Path.cwd(), tempfile.gettempdir(), list(sys.path), torch.get_rng_state(), random.getstate()
    assert before[:3] == after[:3]
    assert torch.equal(before[3], after[3])
    assert before[4] == after[4]


def test_registered_plugins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A declaration that loads torch, options that clash with the engine's, and one that cannot be read."""
    (tmp_path / "heavy_declaration.py").write_text(
        "import torch\nfrom toy_specs import GAUSS\nfrom dataclasses import replace\n"
        "HEAVY = replace(GAUSS, name='heavy')\n"
        "CLASH = replace(GAUSS, name='clash', config='clashing_config:ClashingConfig')\n"
    )
    (tmp_path / "clashing_config.py").write_text(
        "from dataclasses import dataclass\nfrom studio.plugin import PluginConfig\n"
        "@dataclass\nclass ClashingConfig(PluginConfig):\n    lr: float = 0.05\n    seed: int = 3\n"
    )
    toys = str(Path(broken_plugins.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{toys}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(
        "STUDIO_PLUGINS",
        "heavy=heavy_declaration:HEAVY,clash=heavy_declaration:CLASH,gone=no_such_module:SPEC,toy-gauss=toy_specs:GAUSS",
    )
    heavy = check_plugin("heavy", device="cpu")
    assert heavy["light import"].status == "fail"
    assert "loads torch" in heavy["light import"].message
    assert [r.name for r in heavy.failures] == ["light import"]
    clash = check_plugin("clash", device="cpu")
    assert clash["command line"].status == "fail"
    assert "--seed" in clash["command line"].message
    gone = check_plugin("gone")
    assert [(r.name, r.status) for r in gone] == [("declaration", "fail")]
    assert "needs the package 'no_such_module'" in gone["declaration"].message
    assert "studio plugins why gone" in gone["declaration"].fix
    check_plugin("toy-gauss").require()
    with pytest.raises(StudioError, match="Did you mean 'heavy'"):
        check_plugin("heavi")


def test_bad_requests() -> None:
    with pytest.raises(StudioError, match="data: 'music' is not known"):
        check_plugin(SOUND[0], data="music")
    with pytest.raises(StudioError, match="does not run on cuda"):
        check_plugin(SOUND[0], device="cuda")
    refused = check_plugin(SOUND[0], data="text")
    assert "text: ValueError" in refused["builds"].message
