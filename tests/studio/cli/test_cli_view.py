"""`studio view`: what is opened, what is refused, and its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from tiny_scenes import write_ring_scene

from studio.cli.main import main
from studio.errors import StudioError
from studio.export.gaussians import GaussianCloud
from studio.export.splat_formats import write_gaussians
from studio.viewer.subject import Subject, open_subject


def few_gaussians() -> GaussianCloud:
    return GaussianCloud(
        means=torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]),
        quats=torch.tensor([[1.0, 0, 0, 0]] * 2),
        log_scales=torch.full((2, 3), -2.0),
        logit_opacities=torch.full((2,), 3.0),
        sh=torch.zeros(2, 1, 3),
    )


@pytest.mark.parametrize("format", ["ply", "spz", "splat"])
def test_splat_files(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"two.{format}"
    write_gaussians(path, few_gaussians(), format)
    subject = open_subject(path, device="cpu")
    assert isinstance(subject, Subject)
    assert subject.field is not None
    assert len(subject.gaussians()) == 2


def test_folders_of_photos(tmp_path: Path) -> None:
    subject = open_subject(write_ring_scene(tmp_path / "ring"))
    assert isinstance(subject, Subject)
    assert subject.field is None
    assert subject.photos is not None
    assert len(subject.photos) == 10


def test_what_cannot_be_viewed_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StudioError, match="does not exist"):
        open_subject(tmp_path / "gone")
    with pytest.raises(StudioError, match=r"neither a run .* nor a splat file, nor posed photos"):
        open_subject(tmp_path)
    broken = tmp_path / "broken.ply"
    broken.write_bytes(b"ply\nformat ascii 1.0\n")
    assert main(["view", str(broken)]) == 2
    assert str(broken) in capsys.readouterr().err
    assert main(["view", str(tmp_path), "--token", "short"]) == 2
    assert "--token" in capsys.readouterr().err


def test_it_serves_prints_its_address_and_ends_by_an_interrupt(tmp_path: Path) -> None:
    path = tmp_path / "two.ply"
    write_gaussians(path, few_gaussians(), "ply")
    command = [sys.executable, "-m", "studio", "view", str(path), "--port", "0", "--host", "127.0.0.1",
               "--token", "a-token-of-some-length"]  # fmt: skip
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        # Tests that a shell runs in the background inherit from it that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/a-token-of-some-length/", process.stdout.readline())
        assert address is not None
        with urllib.request.urlopen(address.group(), timeout=20) as answer:
            assert answer.status == 200
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(address.group().replace("a-token-of-some-length/", ""), timeout=20)
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_a_generator_is_not_watched_while_it_trains(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["train", "toy-gauss", "toy:moons", "--viewer", "--output", str(tmp_path)]) == 2
    assert "--viewer" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
