"""Backend probing: results, reasons, and that a probe can neither hang nor crash the process."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from studio.errors import StudioError
from studio_splat import backends


@pytest.fixture(autouse=True)
def _forget_probes() -> Iterator[None]:
    backends.backend_status.cache_clear()
    yield
    backends.backend_status.cache_clear()


def test_import_probes_nothing_and_loads_no_torch() -> None:
    code = "import sys, studio_splat.backends; assert 'torch' not in sys.modules and 'gsplat' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_backends_are_listed_with_one_line_reasons() -> None:
    statuses = backends.available_backends()
    assert [s.name for s in statuses] == ["reference", "cpu", "cuda"]
    assert statuses[0].available
    assert statuses[1].available
    assert all(s.reason and "\n" not in s.reason for s in statuses)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests what is said without a GPU")
def test_without_a_gpu_the_reason_says_what_to_do() -> None:
    status = backends.backend_status("cuda")
    assert not status.available
    assert "pytorch.org" in status.reason or "CUDA_VISIBLE_DEVICES" in status.reason
    with pytest.raises(StudioError, match="'cuda' cannot be used") as caught:
        backends.require_backend("cuda")
    assert status.reason in caught.value.message


def test_default_backend_follows_the_device() -> None:
    assert backends.default_backend("cpu") == "cpu"
    assert backends.default_backend("cuda") == "cuda"
    with pytest.raises(StudioError, match=r"'mps'.*\.cpu\(\)"):
        backends.default_backend("mps")


def _pretend_gpu(monkeypatch: pytest.MonkeyPatch, installed: set[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: object() if name in installed else None)


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for installed, missing in ((set(), "gsplat"), ({"gsplat"}, "packaging")):
        backends.backend_status.cache_clear()
        _pretend_gpu(monkeypatch, installed)
        status = backends.backend_status("cuda")
        assert not status.available
        assert f"'{missing}' is not installed" in status.reason
        assert "neural-studio[cuda]" in status.reason


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise ImportError('no kernel image')", "does not work here: ImportError: no kernel image"),
        ("import os; os.abort()", "crashed with signal 6"),
        ("import sys; sys.exit(3)", "exit status 3"),
        ("import time; time.sleep(60)", "was not ready within 1 s"),
    ],
)
def test_a_failed_probe_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, code: str, expected: str) -> None:
    _pretend_gpu(monkeypatch, {"gsplat", "packaging"})
    monkeypatch.setattr(backends, "_PROBE", code)
    monkeypatch.setattr(backends, "PROBE_SECONDS", 1.0)
    status = backends.backend_status("cuda")
    assert not status.available
    assert expected in status.reason
    assert "\n" not in status.reason


def test_a_probe_that_succeeds_is_not_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _pretend_gpu(monkeypatch, {"gsplat", "packaging"})
    log = tmp_path / "runs"
    monkeypatch.setattr(backends, "_PROBE", f"open({str(log)!r}, 'a').write('x')")
    assert backends.backend_status("cuda") == backends.BackendStatus("cuda", True, "gsplat on a GPU")
    backends.require_backend("cuda")
    assert log.read_text() == "x"


@pytest.mark.skipif(sys.platform == "win32", reason="process groups are a POSIX matter")
def test_a_probe_that_is_ended_takes_its_compilers_with_it(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    # A shell is there at once, where another Python might not be within the time on a busy machine.
    child = f"while :; do printf x >> {shlex.quote(str(beat))}; sleep 0.05; done"
    code = f"import subprocess, time; subprocess.Popen(['/bin/sh', '-c', {child!r}]); time.sleep(60)"
    reason = backends._run_probe(code, 4.0)
    assert reason is not None
    assert "was not ready" in reason
    size = beat.stat().st_size
    assert size > 0
    time.sleep(0.3)
    assert beat.stat().st_size == size


def test_the_probe_is_the_real_one() -> None:
    """Without a GPU the smoke test must fail, and fail loudly; with one it must pass."""
    failure = backends._run_probe(backends._PROBE, 120.0)
    assert (failure is None) == backends.backend_status("cuda").available
    if not torch.cuda.is_available():
        assert failure is not None
        assert "gsplat" in failure
