"""Readers, exporters, camera paths and metrics of other packages: found, used, and harmless when broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from installed_plugins import install_extensions

from studio import extensions, probing
from studio.cameras import orbit_of
from studio.cameras.path_maker import PathMaker
from studio.cli.main import main
from studio.cli.render_path import MOTIONS, SPLITS
from studio.errors import StudioError
from studio.export.exporter import Exporter
from studio.export.geometry import GEOMETRY_FORMATS
from studio.export.splat_formats import SPLAT_FORMATS
from studio.extensions import POINTS, built_in_readers, extension_names, list_extensions, load_extension
from studio.metrics import PhotoMetric
from studio.probing import import_target
from studio.readers import Reader
from studio.registry import list_plugins
from studio.training.start import TrainOptions, train

MODULE = """
class Halfway:
    name = "half-orbit"
    summary = "the first half of an orbit"
    def cameras(self, photos, n, *, lens):
        from studio.cameras import orbit_of
        return orbit_of(photos, 2 * n, lens=lens)[:n]

class TooShort(Halfway):
    name = "too-short"
    def cameras(self, photos, n, *, lens):
        return super().cameras(photos, n, lens=lens)[:-1]

class Worst:
    name = "worst"
    summary = "largest error of a pixel, 0 to 1, lower is better"
    def measure(self, render, photo, mask):
        error = (render - photo).abs().amax(dim=-1)
        return float((error if mask is None else error[mask]).max())

class Centers:
    name = "centers"
    summary = "centres of the cameras, one a line"
    ending = "xyz"
    def export(self, run, path):
        to_input = run.scene.input_from_scene.double()
        origins = run.cameras("train").origins.double() @ to_input[:3, :3].mT + to_input[:3, 3]
        path.write_text("".join("%.6f %.6f %.6f\\n" % tuple(p) for p in origins.tolist()))

HALFWAY, SHORT, WORST, CENTERS = Halfway(), TooShort(), Worst(), Centers()
CLASS = Worst
"""

GOOD = {
    "studio.camera_paths": {"half-orbit": "more_things:HALFWAY", "too-short": "more_things:SHORT"},
    "studio.metrics": {"worst": "more_things:WORST"},
    "studio.exporters": {"centers": "more_things:CENTERS"},
}
BAD = {
    "studio.metrics": {
        "hangs": "it_hangs:X",
        "raises": "it_raises:X",
        "lacks": "a_package_that_nobody_has:X",
        "classy": "more_things:CLASS",
        "renamed": "more_things:WORST",
        "unfit": "more_things:CENTERS",
        "psnr": "more_things:WORST",
    }
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed distributions that this process and its children see, with the good ones."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    # Whatever changes in site-packages makes everything be read again.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.syspath_prepend(str(folder))
    (folder / "more_things.py").write_text(MODULE)
    return install_extensions(folder, "more-things", GOOD)


def test_names_of_the_studio_are_kept_free() -> None:
    from studio.readers import detect

    assert {*GEOMETRY_FORMATS, *SPLAT_FORMATS} <= set(POINTS["exporter"].built_in)
    assert {*MOTIONS, *SPLITS} == set(POINTS["camera path"].built_in)
    assert tuple(detect.READERS) == POINTS["reader"].built_in
    for entry in built_in_readers():
        assert isinstance(import_target(entry.value), Reader)


@pytest.mark.parametrize(
    ("kind", "protocol"),
    [("reader", Reader), ("exporter", Exporter), ("camera path", PathMaker), ("metric", PhotoMetric)],
)
def test_what_is_asked_of_each_is_what_its_protocol_says(kind: str, protocol: type) -> None:
    members = {name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")}
    assert set(POINTS[kind].members) == members


def test_broken_ones_are_listed_with_the_reason(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extensions, "PROBE_SECONDS", 6.0)
    install_extensions(site, "bad-things", BAD)
    (site / "it_hangs.py").write_text("import time; time.sleep(600)")
    (site / "it_raises.py").write_text("raise KeyError('where')")
    list_plugins()
    found = {entry.name: entry for entry in list_extensions("metric")}
    reasons = {
        "hangs": "did not finish within",
        "raises": "KeyError: 'where'",
        "lacks": "needs the package 'a_package_that_nobody_has'",
        "classy": "is a class; register an object of it",
        "renamed": "is registered as 'renamed' but its name is 'worst'",
        "unfit": "has no 'measure'",
        "psnr": "the studio has one of this name itself",
    }
    assert {name: entry.status for name, entry in found.items()} == {"worst": "ok"} | dict.fromkeys(reasons, "broken")
    for name, reason in reasons.items():
        assert reason in found[name].reason
        with pytest.raises(StudioError, match=f"The metric '{name}' .bad-things. cannot be used"):
            load_extension("metric", name)
    assert extension_names("metric") == ("worst",)
    # The rest goes on, and only what may work by now is read again.
    list_extensions()
    again: list[str] = []
    probe = probing.probe
    monkeypatch.setattr(probing, "probe", lambda rs, *how: again.extend(r.name for r in rs) or probe(rs, *how))
    assert extension_names("camera path") == ("half-orbit", "too-short")
    assert main(["plugins", "--json"]) == 0
    listed = {(entry["kind"], entry["name"]): entry["status"] for entry in json.loads(capsys.readouterr().out)}
    assert set(again) == {"raises"}
    assert listed["metric", "hangs"] == "broken"
    assert listed["exporter", "centers"] == "ok"
    assert listed["field", "splat"] == "ok"
    assert listed["reader", "colmap"] == "ok"
    assert main(["plugins", "why", "raises"]) == 1
    assert "KeyError: 'where'" in capsys.readouterr().out


def test_two_packages_with_one_name(site: Path) -> None:
    install_extensions(site, "same-things", {"studio.metrics": {"worst": "more_things:WORST"}})
    with pytest.raises(StudioError, match=r"two packages offer a metric 'worst': more-things .* and same-things"):
        load_extension("metric", "worst")


def test_unknown_names_suggest_the_nearest(site: Path) -> None:
    with pytest.raises(StudioError, match="Did you mean 'worst'"):
        load_extension("metric", "wurst")


def test_what_raises_only_when_it_is_used_is_named(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert extension_names("metric") == ("worst",)

    def fail(value: str) -> Any:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(extensions, "import_target", fail)
    with pytest.raises(StudioError, match=r"cannot be loaded from more_things:WORST .RuntimeError: out of luck"):
        load_extension("metric", "worst")


def test_commands_use_them(
    site: Path, toy_plugins: None, tiny_scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = TrainOptions(output=tmp_path / "runs", tensorboard=False)
    run = train("toy-rays", tiny_scene, options=options, preset="tiny", steps=5)
    where = str(run.path)
    # A metric: the largest difference in what is saved as the render, by hand.
    assert main(["eval", where, "--metrics", "worst", "--no-pictures", "--lpips", "no", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    scores: list[float] = []
    run.evaluate(
        on_photo=lambda photo, rgb, _: scores.append(
            float(((rgb.clamp(0, 1) * 255 + 0.5).floor() / 255 - photo.composited(torch.zeros(3))).abs().max())
        )
    )
    assert [photo["further"]["worst"] for photo in report["photos"]] == pytest.approx(scores, abs=1e-5)
    assert report["mean"]["further"]["worst"] == pytest.approx(sum(scores) / len(scores), abs=1e-5)
    assert report["protocol"]["metrics"] == {"worst": "more-things 1.0"}
    assert main(["eval", where, "--metrics", "wurst"]) == 2
    # A camera path: three pictures of it.
    assert main(["render", where, "--path", "half-orbit", "--frames", "3", "--output", str(tmp_path / "views")]) == 0
    assert len(list((tmp_path / "views").glob("*.png"))) == 3
    assert main(["render", where, "--path", "too-short", "--frames", "3"]) == 2
    assert "'too-short' gives (2,) of" in capsys.readouterr().err
    assert main(["render", where, "--path", "sideways"]) == 2
    assert "half-orbit" in capsys.readouterr().err
    # An exporter: camera centres in the frame of the files.
    assert main(["export", where, "--format", "centers"]) == 0
    (file,) = (run.path / "exports").glob("*.xyz")
    centers = torch.tensor([[float(x) for x in line.split()] for line in file.read_text().splitlines()])
    frames = json.loads((tiny_scene / "transforms.json").read_text())["frames"]
    places = torch.tensor([frame["transform_matrix"] for frame in frames])[:, :3, 3]
    assert bool((torch.cdist(centers, places).min(dim=1).values < 1e-4).all())
    assert main(["export", where, "--format", "list"]) == 0
    assert "centres of the cameras" in capsys.readouterr().out


def test_the_path_is_half_an_orbit(site: Path) -> None:
    from studio.cameras import Cameras, look_at

    angles = torch.arange(6) * (2 * torch.pi / 6)
    eyes = torch.stack([3 * angles.cos(), 3 * angles.sin(), torch.ones(6)], dim=-1)
    photos = Cameras.make(look_at(eyes, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])), width=8, height=8, fx=8.0)
    made = load_extension("camera path", "half-orbit").cameras(photos, 4, lens=photos[0])
    torch.testing.assert_close(made.origins, orbit_of(photos, 8, lens=photos[0]).origins[:4])
    assert made.size == (8, 8)
