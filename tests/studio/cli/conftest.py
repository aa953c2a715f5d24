"""Plugins and trained runs for the tests of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_scenes import write_ring_scene

from studio.cli.main import main

HERE = Path(__file__).parent
PLUGINS = (
    "toy-rays=toy_specs:RAYS,toy-gauss=toy_specs:GAUSS,toy-pixels=toy_specs:PIXELS,toy-bytes=toy_specs:BYTES,"
    "toy-nearest=toy_specs:NEAREST,ball=cli_plugins:BALL,clash=cli_plugins:CLASH"
)


@pytest.fixture(scope="session")
def plugin_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What makes the test plugins known to this process and its children."""
    folders = f"{HERE}:{HERE.parents[1] / 'toy_plugins'}"
    cache = tmp_path_factory.mktemp("cli_cache")
    return {"PYTHONPATH": folders, "XDG_CACHE_HOME": str(cache), "STUDIO_PLUGINS": PLUGINS}


@pytest.fixture(scope="session", autouse=True)
def plugins(plugin_environment: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in plugin_environment.items():
            patch.setenv(name, value)
        patch.syspath_prepend(str(HERE))
        yield


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self):  # type: ignore[no-untyped-def]
        """The whole of standard output as strict JSON."""

        def refuse(name: str) -> None:
            raise AssertionError(f"{name} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


Studio = Callable[..., Outcome]


@pytest.fixture
def studio(capsys: pytest.CaptureFixture[str]) -> Studio:
    """Runs a command in this process."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory, plugins: None) -> Path:
    """Ten 24x16 photos on a ring of radius 2 around the origin; photos 0 and 8 are held out."""
    return write_ring_scene(tmp_path_factory.mktemp("scenes") / "ring")


@pytest.fixture(scope="session")
def ball_run(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ball of radius 0.25, in a scene of half the input's size."""
    from studio.training.start import TrainOptions, train

    options = TrainOptions(output=tmp_path_factory.mktemp("ball_runs"), tensorboard=False)
    return train("ball", scene_folder, options=options, radius=0.25).path


@pytest.fixture(scope="session")
def gauss_run(tmp_path_factory: pytest.TempPathFactory, plugins: None) -> Path:
    """A trained generator."""
    from studio.training.start import TrainOptions, train

    options = TrainOptions(output=tmp_path_factory.mktemp("gauss_runs"), tensorboard=False)
    return train("toy-gauss", "toy:moons", options=options, steps=5).path
