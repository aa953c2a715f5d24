"""The example plugins: short, written against public names only, and sound. `make examples` installs them as well."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from studio.testing import check_plugin


def read_toml(text: str) -> dict[str, Any]:
    """Skips where Python has no reader of TOML."""
    return pytest.importorskip("tomllib", reason="Python 3.10 has no tomllib").loads(text)  # type: ignore[no-any-return]


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PACKAGES = {"realnvp": "realnvp_plugin", "voxels": "voxel_plugin"}


@pytest.fixture(params=PACKAGES)
def example(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(EXAMPLES / request.param))
    return request.param


def test_each_is_short_and_uses_public_names_only(example: str) -> None:
    sources = sorted((EXAMPLES / example / PACKAGES[example]).glob("*.py"))
    lines = [line for source in sources for line in source.read_text().splitlines() if line.strip()]
    assert len(lines) < 150
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("studio"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert not alias.name.startswith("_")
                    assert alias.name in getattr(module, "__all__", [alias.name]), f"{node.module}.{alias.name}"
                assert (node.module or "").count(".") == 1, f"{node.module} is no public package"


def test_the_entry_point_is_the_declaration(example: str) -> None:
    project = read_toml((EXAMPLES / example / "pyproject.toml").read_text())["project"]
    assert project["entry-points"] == {"studio.plugins": {example: f"{PACKAGES[example]}:SPEC"}}
    assert importlib.import_module(PACKAGES[example]).SPEC.name == example


def test_each_passes_the_kit(example: str) -> None:
    spec = importlib.import_module(PACKAGES[example]).SPEC
    report = check_plugin(spec, device="cpu").require()
    if example == "realnvp":
        assert "the density sums to" in report["capability likelihood"].message
        check_plugin(spec, device="cpu", data="pictures").require()


def test_a_short_training_of_the_flow_beats_the_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two arcs, a normal distribution with their mean and covariance knows less than a flow."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "realnvp"))
    flow = importlib.import_module("realnvp_plugin.flow")
    package = importlib.import_module("realnvp_plugin")
    from studio.datasets import load_dataset
    from studio.plugin import DataInfo, SampleBatch, TrainingContext

    torch.manual_seed(0)
    data = load_dataset("toy:moons", samples=2000)
    x, _ = data.batch(range(2000))
    model = flow.RealNVP(package.FlowConfig(steps=200, width=32, couplings=6, lr=4e-3), DataInfo((2,)))
    model.initialize(data, torch.Generator())
    model.setup_training(TrainingContext(200))
    picks = torch.Generator().manual_seed(0)
    for step in range(200):
        model.training_step(SampleBatch(x[torch.randint(2000, (256,), generator=picks)]), step)
    held_out, _ = load_dataset("toy:moons", split="test", samples=2000).batch(range(200))
    gaussian = torch.distributions.MultivariateNormal(x.mean(dim=0), torch.cov(x.T))
    assert float(model.log_likelihood(held_out).detach().mean()) > float(gaussian.log_prob(held_out).mean()) + 0.5
