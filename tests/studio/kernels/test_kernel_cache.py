"""Kernels that are compiled in one process and used in another, and files that are not what they should be."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from pathlib import Path

import numba
import numpy as np
import pytest
import same_names

from studio.errors import StudioError
from studio.kernels import building, cache, compile_time, folder, sources, target
from studio.kernels.image import KernelImage, Unusable

TOYS = Path(same_names.__file__).parent


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    monkeypatch.setattr(folder, "spare_root", lambda: tmp_path / "spare" / "kernels")
    folder._find.cache_clear()
    folder._told.clear()
    yield
    folder._find.cache_clear()


def _python(code: str, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(TOYS), "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


_USE = """
import numpy as np, same_names
for factor, power in {variants}:
    a = np.empty(40)
    same_names.scaled(factor, power)(a)
    np.testing.assert_array_equal(a, factor * np.arange(40.0) ** power)
for number in {numbers}:
    assert same_names.numbered(number)(5) == 5 + number
"""


def test_variants_of_several_processes_are_right_together(tmp_path: Path) -> None:
    variants, numbers = [(1, 1), (2, 3), (7, 2)], [100, 200]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _USE.format(variants=v, numbers=n)],
            env={**os.environ, "PYTHONPATH": str(TOYS), "OMP_NUM_THREADS": "1"},
        )
        for v, n in [([variants[0]], []), ([variants[1]], [100]), ([variants[2]], [200])]
    ]
    assert [each.wait() for each in processes] == [0, 0, 0]
    files = list((tmp_path / "cache").rglob("*.kernel"))
    assert len(files) == 5
    before = {path: path.stat().st_mtime_ns for path in files}
    for order in itertools.islice(itertools.permutations(variants), 0, None, 2):
        _python(_USE.format(variants=list(order), numbers=numbers[::-1]))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.kernel")} == before


def _defined(code: bytes, folder: Path) -> set[str]:
    path = folder / "kernel.o"
    path.write_bytes(code)
    done = subprocess.run(
        ["nm", "--extern-only", "--defined-only", str(path)], capture_output=True, text=True, check=True
    )
    return {line.split()[-1] for line in done.stdout.splitlines()}


@pytest.mark.skipif(sys.platform != "linux", reason="reads symbols with nm")
def test_symbols_of_two_variants_are_disjoint(tmp_path: Path) -> None:
    names = []
    for variant in ((3, 1), (3, 2)):
        kernel = same_names.scaled(*variant)
        kernel.compile()
        image = folder.read_kernel(kernel.name, kernel.sources.key)
        assert image is not None
        names.append(_defined(image.code, tmp_path))
        assert names[-1]
        assert all(kernel.sources.key in name for name in names[-1])
    assert not names[0] & names[1]


def test_key_is_the_same_in_every_process_and_follows_closures() -> None:
    code = "import same_names; print(same_names.scaled(2, 3).sources.key)"
    keys = {_python(code, PYTHONHASHSEED=str(seed)) for seed in range(4)}
    assert keys == {same_names.scaled(2, 3).sources.key}
    assert len({same_names.scaled(f, p).sources.key for f in (1, 2) for p in (1, 2)}) == 4


def test_key_follows_functions_files_and_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import numba\nN = {n}\n@numba.njit\ndef inner(x):\n    return x + N\ndef outer(x):\n    return inner(x)\n"

    def key(n: int) -> str:
        scope: dict = {"__name__": "made"}
        exec(compile(text.format(n=n), "<made>", "exec"), scope)
        return sources.sources_of(scope["outer"], "i8(i8)", False).key

    assert key(1) == key(1) != key(2)


def _compiled_once() -> tuple[cache.Kernel, Path]:
    kernel = cache.Kernel(same_names.scaled(5, 1).function, "void(f8[::1])", True)
    kernel.compile()
    (path,) = folder.kernel_folders().read[0].glob(f"*{kernel.sources.key}.kernel")
    return kernel, path


@pytest.mark.parametrize("harm", ["empty", "cut", "flipped", "foreign", "old"])
def test_harmed_file_means_compiling_anew(harm: str, caplog: pytest.LogCaptureFixture) -> None:
    kernel, path = _compiled_once()
    whole = path.read_bytes()
    middle = len(whole) // 2
    changed = {
        "empty": b"",
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "foreign": KernelImage("0" * 32, "x", "y", (), (), False, b"").encode(),
        "old": b"\x80\x04 some pickle",
    }[harm]
    path.write_bytes(changed)
    with pytest.raises(Unusable):
        KernelImage.decode(changed, kernel.sources.key)
    again = cache.Kernel(kernel.function, kernel.signature, True)
    a = np.empty(8)
    again(a)
    np.testing.assert_array_equal(a, 5 * np.arange(8.0))
    assert str(path) in caplog.text
    assert KernelImage.decode(path.read_bytes(), kernel.sources.key).entry.endswith(kernel.sources.key)


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_file_that_others_may_write_is_not_loaded(caplog: pytest.LogCaptureFixture) -> None:
    kernel, path = _compiled_once()
    path.chmod(0o666)
    assert folder.read_kernel(kernel.name, kernel.sources.key) is None
    assert "other users may write" in caplog.text
    path.chmod(0o644)
    assert folder.read_kernel(kernel.name, kernel.sources.key) is not None
    os.chmod(path.parent.parent.parent.parent, 0o777)
    folder._find.cache_clear()
    assert not folder.kernel_folders().read or path.parent not in folder.kernel_folders().read


def test_unwritable_cache_uses_one_spare_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    first = folder.kernel_folders()
    folder._find.cache_clear()
    assert folder.kernel_folders() == first
    assert first.write == tmp_path / "spare" / "kernels" / target.target_key()
    assert first.write.stat().st_mode & 0o077 == 0
    assert "cannot be written" in first.problems[0]


def test_read_only_cache_is_used_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, path = _compiled_once()
    make = folder._make
    monkeypatch.setattr(
        folder, "_make", lambda place, **more: "Read-only" if "spare" not in str(place) else make(place, **more)
    )
    folder._find.cache_clear()
    found = folder.kernel_folders()
    assert found.read[0] == path.parent
    assert found.write is not None
    assert "spare" in str(found.write)
    assert folder.read_kernel(kernel.name, kernel.sources.key) is not None


def test_full_disk_keeps_nothing_and_goes_on(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("studio.files.os.replace", full)
    kernel = cache.Kernel(same_names.scaled(6, 1).function, "void(f8[::1])", True)
    a = np.empty(4)
    kernel(a)
    np.testing.assert_array_equal(a, 6 * np.arange(4.0))
    assert "was not kept" in caplog.text
    assert not list(folder.kernel_folders().read[0].glob("*.kernel*"))


def test_unused_kernels_go_and_used_ones_stay() -> None:
    _, path = _compiled_once()
    root = path.parent.parent
    for name in ("0123456789abcdef", "not-a-target"):
        (root / name).mkdir()
        (root / name / "old.nbc").write_bytes(b"x")
        os.utime(root / name / "old.nbc", (1, 1))
    stale = path.with_name("stale.kernel")
    stale.write_bytes(b"")
    os.utime(stale, (1, 1))
    assert set(folder.remove_unused(root)) == {root / "0123456789abcdef", stale}
    assert path.is_file()
    assert (root / "not-a-target").is_dir(), "not ours"


def test_clear_deletes_all_kernels() -> None:
    _, path = _compiled_once()
    (state,) = folder.cache_states()
    assert (state.kernels, state.others, state.damaged) == (1, 0, ())
    assert folder.clear()[0] == 1
    assert not path.exists()


def test_unknown_processor_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    target.check_processor.cache_clear()
    monkeypatch.setattr(target.numba_config, "CPU_NAME", "pentium-of-mine")
    with pytest.raises(StudioError, match="pentium-of-mine"):
        target.check_processor()
    monkeypatch.setattr(target.numba_config, "CPU_NAME", "x86-64-v3")
    target.check_processor.cache_clear()
    if "x86" in target.binding.get_process_triple():
        target.check_processor()
    target.check_processor.cache_clear()


def test_processes_build_ahead_and_end() -> None:
    from studio.kernels import ahead

    kernels = [same_names.scaled(8, 1), same_names.scaled(8, 2)]
    seen: list[cache.Compiling] = []
    with cache.compile_listener(seen.append):
        assert cache.compile_ahead(kernels, processes=2) == 2
        a = np.empty(6)
        for power, kernel in enumerate(kernels, 1):
            kernel(a)
            np.testing.assert_array_equal(a, 8 * np.arange(6.0) ** power)
        for thread in threading.enumerate():
            if thread.name == "kernel-builder":
                thread.join(30)
    assert not ahead._processes
    assert seen[0] == cache.Compiling(0, 2)
    assert seen[-1] == cache.Compiling(2, 2), "compiled here, not there"
    assert all(kernel.ready for kernel in kernels)


def test_without_processes_kernels_are_compiled_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    kernels = [same_names.scaled(9, 1), same_names.scaled(9, 2)]
    cache.compile_ahead(kernels)
    a = np.empty(6)
    kernels[1](a)
    np.testing.assert_array_equal(a, 9 * np.arange(6.0) ** 2)


def test_messages_count() -> None:
    assert str(cache.Compiling(2, 11)) == "compiling kernels 3/11 for this processor, once"
    assert building.Compiling(11, 11).finished


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
