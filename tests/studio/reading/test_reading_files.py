"""Opening files: what is no file is refused at once, whatever it is, and never waited for."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from studio.errors import StudioError, one_line
from studio.reading.files import decode_text, is_file, is_folder, open_regular, read_bytes, read_text, reason_of
from studio.reading.gzip_bytes import read_gzip


def fails(path: Path | str, words: str) -> None:
    with pytest.raises(StudioError, match=words) as caught:
        read_bytes(path)
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_pipes_devices_sockets_and_folders_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        fails(tmp_path / "s", "is a socket, not a file")
    fails(tmp_path / "pipe", "is a pipe, not a file")
    (tmp_path / "link").symlink_to("/dev/zero")
    fails(tmp_path / "link", "is a device, not a file")
    fails(tmp_path, "is a folder, not a file")
    assert not is_file(tmp_path / "pipe")
    assert not is_file(tmp_path / "link")


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    for name in ("x" * 5000, "a\0b", "\ud800"):
        assert not is_file(tmp_path / name)
        assert not is_folder(tmp_path / name)
        with pytest.raises(StudioError, match=r"cannot be read|there is no such file"):
            open_regular(str(tmp_path / name))
    (tmp_path / "loop").symlink_to("loop")
    fails(tmp_path / "loop", "cannot be read")
    fails(tmp_path / "absent", "there is no such file")


def test_files_that_are_too_long_are_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StudioError, match=r"has 1,099,511,627,776 bytes; at most 100 are read"):
        read_bytes(tmp_path / "sparse", 100)


def test_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_text(tmp_path / "a") == "a\r\nb"
    for data, words in ((b"ab\xff", "not text in UTF-8 .byte 2."), ("a".encode("utf-16"), "is text in UTF-16")):
        with pytest.raises(StudioError, match=words):
            decode_text(data, "x")


def test_messages_are_one_line() -> None:
    text = one_line("a\nb\u2028c\x1b[31m\u202e 猫 👨‍👩‍👧 \udc80")
    assert text == r"a\nb\u2028c\x1b[31m\u202e 猫 👨‍👩‍👧 \udc80"
    error = StudioError("x\ny: is bad\r.", fix="Do\nit.")
    assert str(error) == r"x\ny: is bad\r. Do\nit."
    assert reason_of(StudioError("x\\ny: is bad."), "x\ny") == "is bad"


def test_gzip_of_several_members_and_padding(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"one ") + gzip.compress(b"two") + b"\0" * 700)
    assert read_gzip(path, 100) == b"one two"
    for length in (100_000, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 3 << 18):
        data = os.urandom(length // 2) + bytes(length - length // 2)
        path.write_bytes(gzip.compress(data))
        assert read_gzip(path, length) == data
        with pytest.raises(StudioError, match="holds more than"):
            read_gzip(path, length - 1)


def test_damaged_gzip(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.gz", gzip.compress(os.urandom(1000))
    for data, words in (
        (b"", "is empty"), (whole[:50], "is cut off"), (whole[:5], "is cut off"), (b"hello", "is damaged"),
        (whole[:40] + b"\xff" * 9 + whole[49:], "is damaged"), (whole + b"junk", "is damaged"),
    ):  # fmt: skip
        path.write_bytes(data)
        with pytest.raises(StudioError, match=words):
            read_gzip(path, 10_000)


@pytest.mark.skipif(sys.platform != "linux", reason="asks for a limit of address space")
def test_a_small_packed_text_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "small.txt.gz"
    path.write_bytes(gzip.compress(b"hello world\n\nand more\n" * 20))
    code = (
        "import resource, sys; from pathlib import Path; from studio.reading.gzip_bytes import read_gzip\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages + (16 << 20),) * 2)\n"
        f"print(len(read_gzip({str(path)!r}, 1 << 32)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "440", done.stderr
