"""Probing packages that hang, crash, lie or lack something; and the report made of it."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from studio.cli.doctor import doctor, main
from studio.devices import report as report_module
from studio.devices.backends import OPTIONAL, Backend, BackendStatus, probe_backend, probe_backends
from studio.devices.probe import explain
from studio.devices.report import DoctorReport, Finding, examine

INSTALL = "pip install it"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Makes importable packages out of source text, here and in subprocesses."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, source: str) -> Backend:
        (tmp_path / f"{name}.py").write_text(source)
        return Backend(name, "tests", INSTALL, name)

    return make


def test_working_package_is_available_with_its_version(package) -> None:
    noisy = "print('{\"note\": 1}'); __version__ = '1.2.3'\nimport atexit; atexit.register(print, 'bye')"
    assert probe_backend(package("works_fine", noisy)) == BackendStatus("works_fine", True, "1.2.3")


def test_absent_package_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", None)
    status = probe_backend(Backend("absent_package_xyz", "tests", INSTALL, "absent_package_xyz"))
    assert status == BackendStatus("absent_package_xyz", False, reason="not installed", fix=INSTALL)


@pytest.mark.parametrize(
    ("source", "reason", "fix"),
    [
        (
            "raise ImportError('libusb-1.0.so.0: cannot open shared object file: No such file or directory')",
            "the system library libusb-1.0.so.0 is missing",
            "apt-get install libusb-1.0-0",
        ),
        ("import absent_dependency_xyz", "it needs the package 'absent_dependency_xyz'", "pip install absent_dep"),
        ("raise RuntimeError('driver mismatch\\nmore')", "RuntimeError: driver mismatch", "--force-reinstall"),
        ("raise SystemExit(4)", "SystemExit: 4", "--force-reinstall"),
        ("import os; os._exit(7)", "ended the process with status 7", f"{INSTALL} --force-reinstall"),
    ],
)
def test_broken_package_gives_reason_and_fix(package, source: str, reason: str, fix: str) -> None:
    status = probe_backend(package("broken_package", source))
    assert not status.available
    assert reason in status.reason
    assert "\n" not in status.reason
    assert fix in status.fix


@pytest.mark.skipif(os.name != "posix", reason="ends by a signal")
def test_crash_names_the_signal(package) -> None:
    source = "import os, sys; sys.stderr.write('stack smashed\\n'); sys.stderr.flush(); os.kill(os.getpid(), 11)"
    assert probe_backend(package("crashes", source)).reason == "importing it crashed with SIGSEGV (stack smashed)"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_hanging_package_is_ended_with_all_it_started(package, tmp_path: Path) -> None:
    source = (
        "import pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\n"
        "time.sleep(600)\n"
    )
    status = probe_backend(package("hangs", source), seconds=3)
    assert "did not finish within 3 s" in status.reason
    stat = Path(f"/proc/{(tmp_path / 'child').read_text()}/stat")
    for _ in range(200):
        # Gone, or a zombie that its new parent has not collected yet.
        if not stat.exists() or stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.05)
    pytest.fail("the package's own child still runs")


def test_probes_answer_in_order(package) -> None:
    backends = [package("first_one", "import time; time.sleep(0.3)"), package("second_one", "__version__ = '2'")]
    assert [s.name for s in probe_backends(backends)] == ["first_one", "second_one"]
    assert probe_backends([]) == []


def test_explain_unknown_library() -> None:
    error = ImportError("libfoo.so.3: cannot open shared object file: No such file or directory")
    assert explain("bar", error) == (
        "the system library libfoo.so.3 is missing",
        "Install the system package that contains libfoo.so.",
    )


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> DoctorReport:
    return examine(tmp_path_factory.mktemp("doctor") / "not" / "there" / "yet", seconds=120)


def test_report_is_a_stable_list_of_plain_objects(examined: DoctorReport) -> None:
    rows = json.loads(json.dumps(examined.to_json()))
    keys = {"group", "name", "status", "summary", "fix", "details"}
    assert all(set(row) == keys for row in rows)
    assert all(row["group"] in ("system", "device", "storage", "backend") for row in rows)
    assert all(row["status"] in ("ok", "unavailable", "warning", "error") for row in rows)
    names = [(row["group"], row["name"]) for row in rows]
    assert len(set(names)) == len(names)
    assert {n for g, n in names if g == "system"} == {
        *("studio", "python", "platform", "torch", "cpu", "threads", "memory", "numba", "ffmpeg")
    }
    assert ("device", "cpu") in names
    assert [n for g, n in names if g == "backend"] == [b.name for b in OPTIONAL]
    assert [n for g, n in names if g == "storage"] == ["runs", "cache", "kernel cache"]
    assert all("\n" not in row["summary"] for row in rows)


def test_whatever_is_not_ok_says_what_helps(examined: DoctorReport) -> None:
    assert all(finding.fix for finding in examined.findings if finding.status != "ok")


def test_report_agrees_with_this_process(examined: DoctorReport) -> None:
    import torch

    found = {(f.group, f.name): f for f in examined.findings}
    assert found["system", "torch"].details["version"] == torch.__version__
    assert found["system", "torch"].details["cuda"] == torch.version.cuda
    assert ("device", "cuda:0") in found or not torch.cuda.is_available()
    assert found["storage", "runs"].details["exists"] is False
    assert found["storage", "runs"].details["free_bytes"] > 0
    assert examined.healthy


def test_unwritable_and_full_folders_are_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    finding = report_module._folder("runs", blocked / "runs")
    assert (finding.status, "cannot be written" in finding.summary) == ("warning", True)
    monkeypatch.setattr(report_module, "LOW_DISK", 2**80)
    assert report_module._folder("runs", tmp_path).status == "warning"


def test_bad_thread_variable_is_an_error_in_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_THREADS", "many")
    finding = report_module._threads()
    assert finding.status == "error"
    assert "STUDIO_THREADS" in finding.summary


def test_printed_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    findings = (
        Finding("system", "torch", "ok", "2.13.0 [CPU]"),
        Finding("backend", "open3d", "unavailable", "not installed", "pip install 'neural-studio[mesh]'"),
    )
    monkeypatch.setattr("studio.devices.report.examine", lambda runs: DoctorReport(findings))
    doctor()
    text = capsys.readouterr().out
    assert "2.13.0 [CPU]" in text
    assert "pip install 'neural-studio[mesh]'" in text
    doctor(json=True)
    assert json.loads(capsys.readouterr().out)[1]["fix"] == "pip install 'neural-studio[mesh]'"


def test_error_finding_sets_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = DoctorReport((Finding("system", "torch", "error", "not installed", "pip install torch"),))
    monkeypatch.setattr("studio.devices.report.examine", lambda runs: broken)
    assert main(["--json"], started=0.0) == 1
    assert json.loads(capsys.readouterr().out)[0]["status"] == "error"
