"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

# As the command line does: threads that wait for others by spinning keep them from running on a busy machine.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

# Jobs in the background of a shell, or under nohup, begin with these ignored; tests send them.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def _give_a_cache() -> None:
    """Where the home folder cannot be written to, one folder of the checkout holds the compiled kernels.

    Without it each process of the tests would compile them again, as the studio does for whoever has no such folder.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return
    except (OSError, RuntimeError):
        os.environ["XDG_CACHE_HOME"] = str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "studio")


_give_a_cache()

sys.path.insert(0, str(Path(__file__).parent / "toy_plugins"))


def _find_data() -> Path | None:
    named = os.environ.get("STUDIO_DATA")
    candidates = [Path(named)] if named else [Path(__file__).resolve().parents[2] / "shared" / "data"]
    return next((c for c in candidates if c.is_dir()), None)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real test data (photos, splats, digits), or a skip that says how to name it."""
    found = _find_data()
    if found is None:
        pytest.skip("real data not found: set STUDIO_DATA to its folder")
    return found


@pytest.fixture
def toy_plugins(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Registers `toy-rays` (a field) and `toy-gauss` (a generator) in this process and its children."""
    folder = str(Path(__file__).parent / "toy_plugins")
    monkeypatch.setenv("PYTHONPATH", folder, prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("STUDIO_PLUGINS", "toy-rays=toy_specs:RAYS,toy-gauss=toy_specs:GAUSS")


@pytest.fixture
def tiny_scene(tmp_path: Path) -> Path:
    """A folder of ten 24x16 photos of a coloured gradient seen from a ring of cameras, as transforms.json."""
    from tiny_scenes import write_ring_scene

    return write_ring_scene(tmp_path / "ring")
