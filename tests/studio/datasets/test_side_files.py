"""What lies beside pictures and is not used is counted, and captions may hold any character."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studio.datasets import TextDataset, load_dataset
from studio.errors import StudioError


def pictures(folder: Path, count: int = 6) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"n{i}.png")
    return folder


def rows(count: int = 6, name: str = "n{}.png", text: str = "caption {}") -> str:
    return "".join(
        json.dumps({"file_name": name.format(i), "text": text.format(i)}, ensure_ascii=False) + "\n"
        for i in range(count)
    )


def notes(folder: Path) -> str:
    return "; ".join(load_dataset(folder).notes)


def test_captions_with_separators_of_lines_and_paragraphs(tmp_path: Path) -> None:
    for character in ("\u2028", "\u2029", "\x85", "\x0b", "\x1c"):
        (pictures(tmp_path / "a") / "metadata.jsonl").write_text(rows(text=f"two{character}words {{}}"), "utf-8")
        data = load_dataset(tmp_path / "a")
        assert len(data) == 5
        assert all(caption.startswith("two words") for caption in data.captions), repr(character)


def test_files_that_are_not_used_are_counted(tmp_path: Path) -> None:
    assert notes(pictures(tmp_path / "plain")) == ""
    folder = pictures(tmp_path / "formats")
    for name in ("a.jfif", "b.JFIF", "c.avif", "d.heic"):
        (folder / name).write_bytes(b"x")
    assert "4 pictures of formats that are not read left out (1 .avif, 1 .heic, 2 .jfif)" in notes(folder)
    folder = pictures(tmp_path / "capitals")
    (folder / "METADATA.JSONL").write_text(rows())
    assert "METADATA.JSONL is not used" in notes(folder)
    folder = pictures(tmp_path / "parquet")
    (folder / "metadata.parquet").write_bytes(b"PAR1")
    assert "metadata.parquet is not used" in notes(folder)
    folder = pictures(tmp_path / "texts")
    for i in range(6):
        (folder / f"n{i}.txt").write_text("a caption")
    (folder / "README.txt").write_text("about")
    assert "6 text files named as pictures are not used (first: n0.txt)" in notes(folder)


def test_rows_that_are_not_used_are_counted(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "absent")
    (folder / "metadata.jsonl").write_text(rows(8))
    assert "metadata.jsonl: 2 rows name files that are not there (first: n6.png)" in notes(folder)
    folder = pictures(tmp_path / "twice")
    (folder / "metadata.jsonl").write_text(rows() + rows(2, text="second {}"))
    assert "2 pictures are named again" in notes(folder)
    assert "second 0" in load_dataset(folder).captions or "second 1" in load_dataset(folder).captions
    folder = pictures(tmp_path / "columns")
    (folder / "metadata.csv").write_text("file_name;text\n" + "".join(f"n{i}.png;x\n" for i in range(6)))
    assert "metadata.csv: not used, as its rows have none of the fields text, caption" in notes(folder)


def test_csv_that_cannot_be_read(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a")
    (folder / "metadata.csv").write_text('file_name,text\nn0.png,"' + "x" * 200_000 + '"\n')
    with pytest.raises(StudioError, match=r"metadata\.csv: is not readable as CSV \(field larger"):
        load_dataset(folder)


def test_wide_pictures_that_do_not_say_what_white_is(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a")
    Image.fromarray(np.full((8, 8), 100, np.int32)).save(folder / "int.tif")
    Image.fromarray(np.full((8, 8), 128, np.float32)).save(folder / "float.tif")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(folder / "unit.tif")
    found = [load_dataset(folder, split=split) for split in ("train", "test")]
    assert sum(map(len, found)) == 7
    said = "; ".join(note for data in found for note in data.notes)
    assert "32-bit integers" in said or "floating-point values from 0 to 128" in said
    only = tmp_path / "only"
    only.mkdir()
    for i in range(3):
        Image.fromarray(np.full((8, 8), i, np.int32)).save(only / f"{i}.tif")
    with pytest.raises(StudioError, match=r"2 unreadable pictures \(first: .* holds 32-bit integers"):
        load_dataset(only)


def test_pipes_and_devices_among_the_pictures(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "a")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    found = [load_dataset(folder, split=split) for split in ("train", "test")]
    assert sum(map(len, found)) == 6
    with pytest.raises(StudioError, match="pipe, not a file"):
        load_dataset(folder / "pipe.png")


def test_arrays(tmp_path: Path) -> None:
    path, x = tmp_path / "a.npz", np.zeros((20, 3), np.float32)
    y = np.arange(20)
    np.savez(path, x=x, y=y, extra=y)
    data = load_dataset(path)
    assert data.notes == ("arrays that are not used: extra",)
    for label in (1 << 28, 1 << 16, 1 << 62):
        y[3] = label
        np.savez(path, x=x, y=y)
        with pytest.raises(StudioError, match=r"y holds the label .*; labels reach from 0 to 65,535"):
            load_dataset(path)
    np.savez(path, x=np.full((20, 3), 1e300))
    with pytest.raises(StudioError, match="x holds NaN or infinite values"):
        load_dataset(path)


def test_a_packed_text_of_any_line_ends(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\r\ntwo\rthree\n" * 9))
    data = load_dataset(tmp_path / "a.txt.gz", lines=False)
    assert isinstance(data, TextDataset)
    assert set("".join(data.texts)) == set("onetwhr\n")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"x" * (65 << 20)))
    with pytest.raises(StudioError, match="too many to be packed text"):
        load_dataset(tmp_path / "b.txt.gz")
