"""Where compiled kernels live, when the user is told of a compilation, and how many threads run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

from studio.kernels import cache, compile_time


def test_hash_follows_every_source(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "b.py").write_text("y = 1\n")
    first = cache.source_hash(tmp_path)
    assert cache.source_hash(tmp_path) == first
    (tmp_path / "b.py").write_text("y = 2\n")
    edited = cache.source_hash(tmp_path)
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    assert len({first, edited, cache.source_hash(tmp_path)}) == 3


_MODULE = """
from pathlib import Path
import numba
import numpy as np
from studio.kernels import cache, compile_time
messages = []
cache.set_compile_callback(messages.append)

@cache.kernel("void(f8[::1])")
def double(a):
    for i in range(a.shape[0]):
        a[i] *= 2.0

assert not messages, "compiled before the first call"
a = np.ones(3)
double(a)
assert (a == 2.0).all()
place = cache.cache_dir(Path(__file__).resolve().parent)
print(len(messages), place, repr(numba.config.CACHE_DIR), compile_time.seconds_since(0.0), sep="|")
"""


def _child(folder: Path, cache_home: Path) -> list[str]:
    script = folder / "script.py"
    script.write_text(_MODULE)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA")}
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**environment, "XDG_CACHE_HOME": str(cache_home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().split("|")


def test_second_process_loads_without_a_message(tmp_path: Path) -> None:
    home = tmp_path / "cache"
    told, folder, numba_dir, compiling = _child(tmp_path, home)
    assert told == "1"
    assert float(compiling) > 0
    assert Path(folder).parent == home / "neural-studio" / "kernels"
    assert numba_dir == "''", "the user's own Numba cache setting was changed"
    assert list(Path(folder).rglob("*.nbc"))
    told, _, _, compiling = _child(tmp_path, home)
    assert (told, float(compiling)) == ("0", 0), "loading from the cache is no compiling"


def test_unwritable_cache_falls_back_to_a_private_folder(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    told, folder, _, _ = _child(tmp_path, blocked)
    assert told == "1"
    assert blocked not in Path(folder).parents
    assert Path(folder).stat().st_mode & 0o077 == 0
    for path in sorted(Path(folder).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    Path(folder).rmdir()


def test_compile_time_counts_what_lies_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_time, "_spells", [])
    compile_time.record(1.0, 3.0)
    compile_time.record(10.0, 14.0)
    assert [compile_time.seconds_since(moment) for moment in (0.0, 2.0, 5.0, 11.0, 20.0)] == [6.0, 5.0, 4.0, 3.0, 0.0]


def test_set_threads() -> None:
    before = cache.get_threads()
    try:
        assert cache.set_threads(3) == cache.get_threads() == 3
        assert cache.set_threads(None) == min(cache.physical_cores(), numba.config.NUMBA_NUM_THREADS)
        with pytest.raises(ValueError, match="count"):
            cache.set_threads(0)
    finally:
        cache.set_threads(before)


@cache.kernel("void(i8[::1])", parallel=True)
def _pool_size(out: np.ndarray) -> None:
    for i in numba.prange(out.shape[0]):
        out[i] = numba.get_num_threads()


def test_launch_borrows_the_thread_count() -> None:
    before = cache.get_threads()
    mask = numba.get_num_threads()
    out = np.zeros(4, np.int64)
    try:
        cache.set_threads(1)
        _pool_size(out)
    finally:
        cache.set_threads(before)
    assert (out == 1).all()
    assert numba.get_num_threads() == mask
