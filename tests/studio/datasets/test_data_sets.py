"""Opening data sets of all formats, their held-out parts, and what is wrong with bad ones."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from studio.datasets import TextDataset, describe_dataset, holds_samples, load_dataset
from studio.datasets.draws import keys_of, mix, uniforms
from studio.datasets.held_out import split_rows
from studio.datasets.idx import read_idx
from studio.datasets.pictures import PictureDataset, read_picture
from studio.errors import StudioError


def put_picture(path: Path, color: object = (10, 20, 30), size: tuple[int, int] = (8, 6), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)  # type: ignore[arg-type]
    return path


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


# ---- held-out parts ------------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=50)
@given(st.integers(2, 3000))
def test_splits_are_disjoint_cover_all_and_hold_out_a_tenth(n: int) -> None:
    train, test = split_rows(n, "train", "x"), split_rows(n, "test", "x")
    assert sorted([*train, *test]) == list(range(n))
    assert len(test) == max(n // 10, 1)


def test_the_permutation_is_fixed_for_ever() -> None:
    assert split_rows(30, "test", "x").tolist() == [10, 18, 21]
    # SplitMix64 from seed 0 (the reference implementation's first output).
    assert int(mix(np.array([0]))[0]) == 0xE220A8397B1DCDAF
    with pytest.raises(StudioError, match="too few"):
        split_rows(1, "test", "x")


def test_draws_are_uniform_and_depend_on_the_key_alone() -> None:
    keys = keys_of(5, 0, np.arange(2000))
    drawn = uniforms(keys, 0, 8)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(drawn, rowvar=False) - np.eye(8)).max() < 0.1
    np.testing.assert_array_equal(uniforms(keys[7:8], 3, 2), drawn[7:8, 3:5])


# ---- idx -----------------------------------------------------------------------------------------------------------
def test_idx_pictures_and_labels(tmp_path: Path) -> None:
    pixels = np.arange(20 * 2 * 3).reshape(20, 2, 3) % 256
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(pixels)))
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(20) % 4))
    for path in (tmp_path, tmp_path / "t10k-images-idx3-ubyte.gz"):
        data = load_dataset(path)
        assert (len(data), data.sample_shape, data.num_classes) == (18, (1, 2, 3), 4)
        rows = split_rows(20, "train", "x")
        x, y = data.batch([0, 17])
        np.testing.assert_allclose(x.numpy()[:, 0] * 255, pixels[rows[[0, 17]]], atol=1e-4)
        assert y.tolist() == [rows[0] % 4, rows[17] % 4]
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(pixels[:5]))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(5)))
    assert (len(load_dataset(tmp_path)), len(load_dataset(tmp_path, split="test"))) == (5, 20)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (idx_bytes(np.zeros((4, 3, 3)))[:-5], "cut off"),
        (idx_bytes(np.zeros((4, 3, 3))) + b"x", "goes on"),
        (struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 2**31, 2**31), "more than its"),
        (struct.pack(">BBBBI", 0, 0, 8, 3, 5), "within its header"),
        (struct.pack(">BBBBI", 0, 0, 13, 1, 1) + b"0000", "type 0x0d"),
        (b"hello", "not an idx file"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, data: bytes, message: str, packed: bool) -> None:
    path = tmp_path / ("images-idx3-ubyte" + (".gz" if packed else ""))
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(StudioError, match=message):
        read_idx(path)


def test_a_gzip_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.random.default_rng(0).integers(0, 256, (9, 8, 8))))[:300])
    with pytest.raises(StudioError, match="is cut off"):
        read_idx(path)


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "images-idx3-ubyte").write_bytes(idx_bytes(np.zeros((4, 3, 3))))
    (tmp_path / "labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(5)))
    with pytest.raises(StudioError, match="5 labels for 4 pictures"):
        load_dataset(tmp_path)


# ---- pictures ------------------------------------------------------------------------------------------------------
@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two classes of ten pictures each."""
    for number, name in enumerate(("cat", "dog")):
        for i in range(10):
            put_picture(tmp_path / "pets" / name / f"{i}.png", (100 * number, i, 0))
    return tmp_path / "pets"


def test_sub_folders_are_classes(classes: Path) -> None:
    train, test = load_dataset(classes), load_dataset(classes, split="test")
    assert (len(train), len(test), train.sample_shape) == (18, 2, (3, 6, 8))
    assert train.class_names == test.class_names == ("cat", "dog")
    for data in (train, test):
        x, y = data.batch(range(len(data)))
        np.testing.assert_allclose(x[:, 0, 0, 0].numpy() * 255, 100.0 * y.numpy(), atol=1e-3)


def test_split_folders_and_a_wrapping_folder(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        for name in ("a", "b"):
            for i in range(count):
                put_picture(tmp_path / "set" / split / name / f"{i}.png", (i, 0, 0))
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in (tmp_path / "set").rglob("*.png"):
            file.write(path, path.relative_to(tmp_path).as_posix())
    for place in (tmp_path / "set", archive):
        train, test = load_dataset(place), load_dataset(place, split="test")
        assert (len(train), len(test), train.class_names) == (8, 4, ("a", "b"))
        assert test.batch([0, 3])[1].tolist() == [0, 1]
    # Nothing was unpacked.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["set", "set.zip"]


def test_captions_of_a_metadata_file(tmp_path: Path) -> None:
    rows = []
    for i in range(12):
        put_picture(tmp_path / "images" / f"{i:02d}.png", (i, 0, 0))
        rows.append({"file_name": f"images/{i:02d}.png", "text": f"picture  number {i}"})
    lines = [json.dumps(row) for row in rows]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    data = load_dataset(tmp_path)
    assert (data.has_captions, data.num_classes, len(data)) == (True, None, 11)
    x, captions = data.batch([0, 4])
    assert captions == [f"picture number {round(float(p[0, 0, 0]) * 255)}" for p in x]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines[:9]) + "\n")
    data = load_dataset(tmp_path)
    assert len(data) == 8
    assert "3 pictures have no caption (first: images/09.png): left out" in data.notes
    with pytest.raises(StudioError, match="no caption"):
        load_dataset(tmp_path, strict=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: JSON syntax error"),
        ("[1]", "line 1 must be an object"),
        ('{"text": "x"}', "line 1: has no 'file_name'"),
        ('{"file_name": "../../x.png", "text": "x"}', "leads out"),
        ('{"file_name": "/etc/x.png", "text": "x"}', "leads out"),
        ('{"file_name": "a.png", "text": 5}', "must be a string"),
        ('{"file_name": "b.png", "text": "x"}', "no picture has a caption"),
    ],
)
def test_bad_metadata(tmp_path: Path, line: str, message: str) -> None:
    put_picture(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(StudioError, match=message):
        load_dataset(tmp_path)


def test_damaged_pictures_are_skipped_and_counted(classes: Path) -> None:
    (classes / "cat" / "0.png").write_bytes(b"no picture")
    whole = (classes / "cat" / "1.png").read_bytes()
    (classes / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    (classes / "dog" / "2.png").write_bytes(b"")
    found = [load_dataset(classes, split=split) for split in ("train", "test")]
    assert sum(map(len, found)) == 17
    notes = " ".join(note for data in found for note in data.notes)
    assert sum(int(word) for word in notes.split() if word.isdecimal()) == 3
    with pytest.raises(StudioError, match="unreadable picture"):
        load_dataset(classes, strict=True)


def test_damage_behind_a_sound_header(classes: Path, caplog: pytest.LogCaptureFixture) -> None:
    for path in sorted(classes.rglob("*.png")):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    sound = load_dataset(classes)
    assert isinstance(sound, PictureDataset)
    row = 3
    name = sound.files[row]
    # A BMP has no end marker by which one could see that half of it is missing.
    (classes / name).write_bytes((classes / name).read_bytes()[:100])
    loaded = load_dataset(classes)
    assert isinstance(loaded, PictureDataset)
    assert loaded.files[row] == name
    x, y = loaded.batch([row])
    following = loaded.batch([row + 1])
    torch.testing.assert_close(x, following[0])
    assert y.tolist() == following[1].tolist()
    assert loaded.damaged == {row}
    assert f"{name} cannot be read" in caplog.text
    with pytest.raises(StudioError, match=f"{name} cannot be read"):
        load_dataset(classes, strict=True).batch([row])


def test_empty_classes(classes: Path) -> None:
    (classes / "bird").mkdir()
    data = load_dataset(classes)
    assert data.class_names == ("cat", "dog")
    assert any("bird" in note for note in data.notes)
    with pytest.raises(StudioError, match="bird"):
        load_dataset(classes, strict=True)


def test_mixed_channels_and_sizes(tmp_path: Path) -> None:
    put_picture(tmp_path / "a.png", 100, mode="L")
    put_picture(tmp_path / "b.png", (10, 20, 30))
    put_picture(tmp_path / "c.png", (0, 0, 0, 0), mode="RGBA")
    put_picture(tmp_path / "d.png", 30000, mode="I;16")
    data = load_dataset(tmp_path)
    assert data.sample_shape[0] == 3
    assert sum("grey" in note or "white" in note for note in data.notes) >= 1
    assert load_dataset(tmp_path, color="grey").sample_shape[0] == 1
    put_picture(tmp_path / "e.png", size=(30, 20))
    with pytest.raises(StudioError, match="--image-size"):
        load_dataset(tmp_path)
    assert load_dataset(tmp_path, image_size=5).sample_shape == (3, 5, 5)
    grey = tmp_path / "grey"
    for i in range(3):
        put_picture(grey / f"{i}.png", i, mode="L")
    assert load_dataset(grey).sample_shape == (1, 6, 8)


def test_transparent_and_wide_pictures_become_plain(tmp_path: Path) -> None:
    clear = put_picture(tmp_path / "clear.png", (0, 0, 0, 0), mode="RGBA")
    assert read_picture(clear, (3, 6, 8)).min() == 1.0
    wide = put_picture(tmp_path / "wide.png", 32768, mode="I;16")
    assert float(read_picture(wide, (1, 6, 8)).mean()) == pytest.approx(0.5, abs=0.005)
    with pytest.raises(StudioError, match="there is no such file"):
        read_picture(tmp_path / "none.png", (3, 6, 8))


def test_pictures_are_cropped_to_the_middle_and_averaged(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = np.where((np.indices((40, 40)).sum(0) % 2)[..., None], 255, 0)
    Image.fromarray(pixels).save(tmp_path / "board.png")
    small = read_picture(tmp_path / "board.png", (3, 4, 4))
    # A checkerboard averages to grey (at its border the filter is cut off); the black sides are gone.
    torch.testing.assert_close(small, torch.full_like(small, 0.5), atol=0.05, rtol=0)


@pytest.mark.parametrize("name", ["../out.png", "/etc/out.png", "a/../../out.png", "C:\\out.png", "..\\out.png"])
def test_zip_entries_that_lead_out(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, b"x")
    with pytest.raises(StudioError, match="leads out"):
        load_dataset(path)


def test_damaged_and_lying_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"PK no zip")
    with pytest.raises(StudioError, match="zip archive"):
        load_dataset(path)
    for i in range(3):
        put_picture(tmp_path / f"{i}.png", (i, 0, 0))
    with zipfile.ZipFile(path, "w") as file:
        for i in range(3):
            file.write(tmp_path / f"{i}.png", f"{i}.png")
    data = bytearray(path.read_bytes())
    # A changed byte of the first picture's pixels: its checksum no longer fits.
    data[data.index(b"IDAT") + 10] ^= 0xFF
    path.write_bytes(bytes(data))
    assert sum(len(load_dataset(path, split=split)) for split in ("train", "test")) == 2


# ---- text, arrays, names -------------------------------------------------------------------------------------------
def test_one_document(tmp_path: Path) -> None:
    text = "".join(f"line {i}\n\n" for i in range(100))
    (tmp_path / "book.txt").write_text(text)
    train, test = load_dataset(tmp_path / "book.txt"), load_dataset(tmp_path / "book.txt", split="test")
    assert isinstance(train, TextDataset)
    assert isinstance(test, TextDataset)
    assert train.texts[0] + test.texts[0] == text
    assert abs(len(test.texts[0]) - len(text) / 10) <= 1
    assert not train.lines
    assert "--lines yes" in train.notes[0]
    assert "one document" in describe_dataset(train)
    with pytest.raises(StudioError, match="is text"):
        train.batch([0])


def test_one_sample_a_line(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "rows.en.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"row {i} ü\r\n" for i in range(30))
    train, test = (load_dataset(tmp_path / "rows.en.gz", split=split) for split in ("train", "test"))
    assert isinstance(train, TextDataset)
    assert isinstance(test, TextDataset)
    assert train.lines
    assert sorted([*train.texts, *test.texts]) == sorted(f"row {i} ü" for i in range(30))
    assert len(test) == 3
    whole = load_dataset(tmp_path / "rows.en.gz", lines=False)
    assert isinstance(whole, TextDataset)
    assert not whole.lines


@pytest.mark.parametrize(("data", "message"), [(b"\xff\xfe\x00", "UTF-8"), (b"  \n", "empty"), (b"a\0b", "zero bytes")])
def test_bad_texts(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(StudioError, match=message):
        load_dataset(tmp_path / "a.txt")


def test_archives_of_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=np.arange(20.0).reshape(10, 2), y=np.arange(10) % 2)
    train, test = load_dataset(path), load_dataset(path, split="test")
    assert (len(train), len(test), train.class_names) == (9, 1, ("0", "1"))
    np.savez(path, x=np.zeros((10, 4, 5), np.uint8), captions=np.array([f"c{i}" for i in range(10)]))
    train = load_dataset(path)
    assert (train.sample_shape, train.has_captions) == ((1, 4, 5), True)
    assert train.batch([3])[1] == [train.captions[3]]
    np.savez(path, x=np.zeros((4, 2)), x_test=np.ones((3, 2)))
    assert (len(load_dataset(path)), len(load_dataset(path, split="test"))) == (4, 3)
    np.savez(path, x=np.zeros((4, 2)), x_test=np.ones((3, 5)))
    with pytest.raises(StudioError, match="x_test"):
        load_dataset(path)


def test_toy_sets_and_their_sizes() -> None:
    train, test = (load_dataset("toy:gaussians", split=split) for split in ("train", "test"))
    assert (len(train), len(test), train.num_classes) == (9000, 1000, 8)
    assert abs(len(load_dataset("toy:moons", samples=900)) - 900) <= 1


def test_options_that_do_not_fit_and_unknown_data(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text")
    with pytest.raises(StudioError, match="--image-size does not fit"):
        load_dataset(tmp_path / "a.txt", image_size=3)
    with pytest.raises(StudioError, match="--lines does not fit"):
        load_dataset("toy:moons", lines=True)
    (tmp_path / "a.xyz").write_text("x")
    for path in (tmp_path / "a.xyz", tmp_path / "none"):
        with pytest.raises(StudioError):
            load_dataset(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StudioError, match="holds no pictures"):
        load_dataset(tmp_path / "empty")
    assert not holds_samples(tmp_path / "empty")
    with pytest.raises(ValueError, match="split"):
        load_dataset("toy:moons", split="val")  # type: ignore[arg-type]


# ---- real data -----------------------------------------------------------------------------------------------------
def test_mnist(data_dir: Path) -> None:
    train, test = (load_dataset(data_dir / "mnist", split=split) for split in ("train", "test"))
    assert (len(train), len(test), train.sample_shape, train.num_classes) == (9000, 1000, (1, 28, 28), 10)
    labels = torch.cat([data.batch(range(len(data)))[1] for data in (train, test)])
    # The published counts of the test set's digits.
    assert torch.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_cifar_from_inside_its_zip(data_dir: Path) -> None:
    train, test = (load_dataset(data_dir / "cifar10_subset.zip", split=split) for split in ("train", "test"))
    assert (len(train), len(test), train.sample_shape, train.num_classes) == (5000, 2000, (3, 32, 32), 10)
    x, y = train.batch([0, 4999, 2500])
    assert y.tolist() == [0, 9, 5]
    assert 0.2 < float(x.mean()) < 0.8


def test_real_texts(data_dir: Path) -> None:
    play = load_dataset(data_dir / "tinyshakespeare" / "input.txt")
    captions = load_dataset(data_dir / "multi30k_captions" / "data" / "task1" / "raw" / "train.en.gz")
    assert isinstance(play, TextDataset)
    assert isinstance(captions, TextDataset)
    assert (play.lines, play.characters) == (False, 1_003_855)
    assert (captions.lines, len(captions)) == (True, 26_100)
