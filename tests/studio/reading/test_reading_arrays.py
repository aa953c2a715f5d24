"""Arrays, archives and pictures: sound ones as others write them, and what a header may not make a reader do."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studio.errors import StudioError
from studio.reading.archives import Archive
from studio.reading.arrays import ArrayArchive, parse_npy, read_npy
from studio.reading.files import decoding
from studio.reading.limits import DEFLATE_EXPANSION, HEADER_ROOM
from studio.reading.pictures import opened_picture


def npy(array: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(array), **options)
    return out.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def with_header(text: str, data: bytes = b"") -> bytes:
    raw = text.encode("latin-1")
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(raw)) + raw + data


# ---- .npy ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "|b1", "<U5", "|S3", "<c8", "<f2", ">u8"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (0, 5), (2, 1, 3)])
def test_arrays_are_read_as_numpy_reads_them(dtype: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    array = np.arange(int(np.prod(shape))).reshape(shape).astype(dtype)
    for order, version in (("C", (1, 0)), ("F", (2, 0)), ("C", (3, 0))):
        data = npy(np.asarray(array, order=order), version=version)  # type: ignore[call-overload]
        found = parse_npy(data, "x")
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, np.load(io.BytesIO(data)))
    np.savez_compressed(tmp_path / "a.npz", first=array, second=array[..., None])
    with ArrayArchive(tmp_path / "a.npz") as archive:
        assert list(archive) == ["first", "second"]
        np.testing.assert_array_equal(archive["first"], array)


PLAIN = "'descr': '<f4', 'fortran_order': False, 'shape': (2,)"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not a NumPy array"),
        (b"\x93NUMPY\x01\0", "is not a NumPy array"),
        (b"\x93NUMPY\x09\0\0\0\0\0", "unknown version 9"),
        (b"\x93NUMPY\x02\0\xff\xff\xff\xff", "header .* damaged or cut off"),
        (with_header("{" + PLAIN + "}", bytes(7)), "states 2 values of 4 bytes each, but 7 bytes are there"),
        (with_header("{" + PLAIN + "}", bytes(9)), "but 9 bytes are there"),
        (with_header("{" + PLAIN + ", 'x': 1}", bytes(8)), "header .* damaged"),
        (with_header("{" + PLAIN.replace("(2,)", "(-2,)") + "}"), "header .* damaged"),
        (with_header("{" + PLAIN.replace("(2,)", "(2.0,)") + "}"), "header .* damaged"),
        (with_header("{" + PLAIN.replace("(2,)", "(True,)") + "}"), "header .* damaged"),
        (with_header("{" + PLAIN.replace("(2,)", "(0, 99999999999999)") + "}"), "header .* damaged"),
        (with_header("{" + PLAIN.replace("(2,)", "(" * 90 + ")" * 90) + "}"), "header .* damaged"),
        (with_header("{" + PLAIN.replace("(2,)", "(" + "9" * 5000 + ",)") + "}"), "header .* damaged"),
        (with_header("{" + PLAIN.replace("(2,)", "(99999999999,)") + "}"), "states 99999999999 values"),
        (with_header("{" + PLAIN.replace("<f4", "|O") + "}", bytes(16)), "Python objects, which would have to be"),
        (with_header("{" + PLAIN.replace("<f4", "<M8[ns]") + "}", bytes(16)), "values of type datetime64"),
        (with_header("{" + PLAIN.replace("'<f4'", "[('a', '<f4')]") + "}", bytes(8)), "holds records"),
        (with_header("{" + PLAIN.replace("<f4", "f4,f4") + "}", bytes(16)), "header .* damaged"),
        (with_header("{" + PLAIN.replace("<f4", "") + "}", bytes(16)), "header .* damaged"),
        (with_header("__import__('os').system('echo')", b""), "header .* damaged"),
        (with_header("-" * 9000, b""), "header .* damaged"),
    ],
)
def test_headers_that_are_refused(data: bytes, words: str) -> None:
    with pytest.raises(StudioError, match=words) as caught:
        parse_npy(data, "poses.npy")
    assert str(caught.value).startswith("poses.npy: ")
    assert caught.value.fix


def test_an_archive_is_not_an_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(StudioError, match="an archive of arrays"):
        read_npy(tmp_path / "a.npz")


# ---- .zip ------------------------------------------------------------------------------------------------------------
def archive_of(tmp_path: Path, data: bytes) -> Archive:
    (tmp_path / "a.zip").write_bytes(data)
    return Archive(tmp_path / "a.zip")


def edited(data: bytes, offset: int, new: bytes) -> bytes:
    """The first entry of the central directory changed."""
    at = data.index(b"PK\x01\x02") + offset
    return data[:at] + new + data[at + len(new) :]


def test_entries_are_read_whole(tmp_path: Path) -> None:
    with archive_of(tmp_path, zipped({"a/b": b"xyz" * 999, "c\\d": b""})) as archive:
        assert [name for name, _ in archive.entries()] == ["a/b", "c/d"]
        assert archive.read("a/b", 5000) == b"xyz" * 999
        with pytest.raises(StudioError, match=r"a/b: states 2,997 bytes, more than the 100"):
            archive.read("a/b", 100)
        with pytest.raises(KeyError):
            archive.read("e", 100)


def test_archives_that_are_refused(tmp_path: Path) -> None:
    plain = zipped({"a": b"hello" * 9})
    for data, words in (
        (plain[:40], "cannot be read as a zip archive"),
        (b"hello", "cannot be read as a zip archive"),
        (zipped({"../a": b"x"}), "leads out of the archive"),
        (zipped({"C:a": b"x"}), "leads out of the archive"),
        (zipped({"a" * 5000: b"x"}), "name has 5,000 characters"),
        (zipped({"a": b"x" * 99}, zipfile.ZIP_BZIP2), "packed by method 12"),
        (edited(plain, 8, b"\1\0"), "is encrypted"),
        (edited(plain, 6, b"\xff"), "cannot be read as a zip archive"),
        (edited(plain, 20, struct.pack("<I", 1 << 20)), "share their bytes"),
    ):
        with pytest.raises(StudioError, match=words):
            archive_of(tmp_path, data)


def test_entries_that_are_damaged(tmp_path: Path) -> None:
    plain = zipped({"a": b"hello" * 99})
    for data, words in (
        (edited(plain, 16, b"\0\0\0\0"), "is damaged .Bad CRC"),
        (edited(plain, 24, struct.pack("<I", 100)), "is damaged|states"),
        (edited(plain, 24, struct.pack("<I", 1000)), "of the 1,000 bytes that it states"),
        (edited(plain, 24, struct.pack("<I", 1 << 31)), "states 2,147,483,648 bytes, more than"),
        (plain.replace(b"PK\x03\x04", b"PK\x03\x05"), "is damaged"),
    ):
        with archive_of(tmp_path, data) as archive, pytest.raises(StudioError, match=words):
            archive.read("a", 1 << 40)


# ---- pictures --------------------------------------------------------------------------------------------------------
def png(width: int, height: int, pixels: bytes | None = None, length: int | None = None) -> bytes:
    def chunk(kind: bytes, content: bytes, length: int | None = None) -> bytes:
        size = len(content) if length is None else length
        return struct.pack(">I", size) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes((3 * width + 1) * height) if pixels is None else pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data, length) + chunk(b"IEND", b"")


def most_memory(call: Any) -> int:
    tracemalloc.start()
    try:
        with contextlib.suppress(StudioError):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def load(data: bytes) -> np.ndarray:
    with opened_picture(data, "a.png") as picture:
        return np.array(picture)


def test_a_header_alone_claims_no_memory(tmp_path: Path) -> None:
    for width, height in ((10_000, 10_000), (1 << 20, 100), ((1 << 31) - 1, 1)):
        with pytest.raises(StudioError, match=r"more than its .* bytes can hold|exceeds limit"):
            load(png(width, height, b""))
    # As large as a file of its length can be: a white page that is packed as well as deflate can.
    assert load(png(5000, 5000)).shape == (5000, 5000, 3)


def test_the_length_of_a_chunk_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(8, 8, length=(1 << 31) - 1))

    def read() -> None:
        with opened_picture(tmp_path / "a.png") as picture:
            picture.getexif()

    assert most_memory(read) < 4 << 20


def test_formats_that_start_programs_are_not_read() -> None:
    out = io.BytesIO()
    Image.new("RGB", (9, 9)).save(out, "EPS")
    with pytest.raises(StudioError, match="not a picture in a known format"):
        load(out.getvalue())


def test_pictures_as_links_to_devices(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("/dev/zero")
    with pytest.raises(StudioError, match="is a device"), opened_picture(tmp_path / "a.png"):
        pass


# ---- the bounds ------------------------------------------------------------------------------------------------------
def test_the_bound_of_a_stated_size() -> None:
    assert HEADER_ROOM == 64 << 20
    packed = zlib.compress(bytes(10 << 20), 9)
    assert len(packed) * DEFLATE_EXPANSION > 10 << 20, "deflate packs no tighter than it can by its format"


def test_running_out_of_memory_is_not_called_damage() -> None:
    with pytest.raises(MemoryError), decoding("x", "is damaged"):
        raise MemoryError
    with (
        pytest.raises(StudioError, match=r"x: is damaged \(KeyError\)|x: is damaged \('k'\)"),
        decoding("x", "is damaged"),
    ):
        raise KeyError("k")
