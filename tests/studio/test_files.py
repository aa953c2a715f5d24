"""Atomic writing: whole files or none, with the disk's troubles told in one line."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from studio.errors import StudioError
from studio.files import atomic_path, atomic_write, remove_leftovers


def test_writes_bytes_and_text_and_makes_folders(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a" / "b" / "x.bin") as file:
        file.write(b"\x00\x01\r\n")
    with atomic_write(tmp_path / "x.txt", "w") as file:
        file.write("grüß\n")
    assert (tmp_path / "a" / "b" / "x.bin").read_bytes() == b"\x00\x01\r\n"
    assert (tmp_path / "x.txt").read_bytes() == "grüß\n".encode()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "x.txt"]


def test_target_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    with atomic_write(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    with pytest.raises(type(error)), atomic_write(target) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'),
    ],
)
def test_full_disk_is_one_line_with_the_free_space(tmp_path: Path, error: Exception) -> None:
    target = tmp_path / "x.bin"
    with pytest.raises(StudioError, match=r"x\.bin.*disk is full.*MiB free") as caught, atomic_write(target):
        raise error
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_torch_save_on_a_really_full_device(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match="disk is full"), atomic_path(tmp_path / "x.pt") as temporary:  # noqa: PT012
        temporary.write_bytes(b"")
        with open("/dev/full", "wb", buffering=0) as full:
            torch.save({"x": torch.zeros(100_000)}, full)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_block_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic_write(tmp_path / "x"):
        (tmp_path / "elsewhere").read_bytes()


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StudioError, match="cannot be written"), atomic_write(tmp_path / "file" / "x"):
        pass
    with pytest.raises(StudioError, match="a folder has this name"), atomic_write(tmp_path / "folder"):
        pass
    with pytest.raises(ValueError, match="mode"), atomic_write(tmp_path / "x", "rb"):  # type: ignore[arg-type]
        pass


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions and links")
def test_keeps_permissions_and_follows_links(tmp_path: Path) -> None:
    real = tmp_path / "real.txt"
    real.write_text("old")
    real.chmod(0o640)
    link = tmp_path / "link.txt"
    link.symlink_to(real)
    with atomic_write(link, "w") as file:
        file.write("new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert real.stat().st_mode & 0o777 == 0o640
    fresh = tmp_path / "fresh.txt"
    with atomic_write(fresh, "w") as file:
        file.write("x")
    umask = os.umask(0)
    os.umask(umask)
    assert fresh.stat().st_mode & 0o777 == 0o666 & ~umask


def test_atomic_path_keeps_the_suffix_and_wants_a_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        assert temporary.parent == tmp_path.resolve()
        temporary.write_bytes(b"1")
    assert (tmp_path / "x.mp4").read_bytes() == b"1"
    with pytest.raises(RuntimeError, match="nothing was written"), atomic_path(tmp_path / "y.mp4"):
        pass


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_kill_leaves_the_old_file_and_a_removable_leftover(tmp_path: Path) -> None:
    target = tmp_path / "last.safetensors"
    target.write_bytes(b"old")
    code = (
        "import os, signal, sys\nfrom studio.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as f:\n"
        "    f.write(b'half'); f.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    (tmp_path / ".hidden.partial").write_text("a user's file")
    removed = remove_leftovers(tmp_path)
    assert len(removed) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden.partial", "last.safetensors"]
