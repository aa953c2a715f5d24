"""A short share of the fuzz job: every reader refuses damaged files in one line, or reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fuzz_readers.py"


def fuzz(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore:Duplicate name", str(SCRIPT), *options],
        capture_output=True, text=True, errors="replace", env=environment,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the address space")
def test_no_reader_fails_on_damaged_files(tmp_path: Path) -> None:
    done = fuzz("--together", "--inputs", "120", "--seconds", "60", "--seed", "tests", "--keep", str(tmp_path / "kept"))
    rows = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 21, done.stderr[-2000:]
    assert not (tmp_path / "kept").exists(), done.stdout[-4000:]
    assert done.returncode == 0
    for row in rows:
        read, refused = (int(cell.replace(",", "")) for cell in row[3:5])
        assert read + refused == 120
        assert refused > 0, f"{row[1]}: nothing was damaged"


def test_equal_seeds_make_equal_inputs_and_counts_add_up(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    options = ("--together", "--only", "text", "--inputs", "50", "--seconds", "60", "--add", str(table))
    first, again = (fuzz(*options, "--seed", "1").stdout for _ in range(2))
    assert first.splitlines()[-4:] == again.splitlines()[-4:]
    fuzz(*options, "--seed", "2")
    known = json.loads(table.read_text(encoding="utf-8"))
    assert set(known) >= {"text", "text.gz"}
    assert set(known["text"]) == {"1", "2"}
    assert known["text"]["1"]["inputs"] == 50


@pytest.mark.skipif(sys.platform != "linux", reason="bounds the address space")
def test_the_job_finds_what_it_looks_for(tmp_path: Path) -> None:
    """A reader with every kind of fault is caught at all of them."""
    code = f"""
import sys, pathlib
sys.path.insert(0, {str(SCRIPT.parent)!r})
from fuzzing import worker
from fuzzing.targets import Target
from studio.errors import StudioError
worker.SECONDS = 0.2
def read(folder, name):
    kind = (folder / name).read_bytes()[0] % 6
    if kind == 0: raise KeyError("a")
    if kind == 1: bytearray(worker.ROOM + (1 << 28))
    if kind == 2:
        while True: pass
    if kind == 3: raise StudioError(f"{{folder}}: bad.")
    if kind == 4: raise StudioError("bad.", fix="x")
    raise StudioError(f"{{folder}}: bad.", fix="x")
def damage(data, rng): return bytes([rng.randrange(256)])
worker.damage_for = lambda name: damage
target = Target("x", lambda: {{"a": b"\\x05"}}, read)
tally = worker.run(target, pathlib.Path({str(tmp_path)!r}), "0", inputs=60, seconds=60, keep=None)
print(sorted(key.split()[0] for key in tally.findings))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["['KeyError', 'memory', 'slow', 'words']"], done.stderr[-2000:]
