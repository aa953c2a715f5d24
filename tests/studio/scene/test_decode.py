from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from studio.errors import StudioError
from studio.scene.decode import decode_mask, decode_photo, has_alpha, photo_size


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("RGB", "png"),
        ("RGBA", "png"),
        ("RGB", "webp"),
        ("RGBA", "webp"),
        ("RGB", "tif"),
        ("RGBA", "tif"),
        ("RGB", "bmp"),
    ],
)
def test_lossless_formats_come_back_exactly(tmp_path, noise, mode, ending):
    pixels = noise[..., : len(mode)].copy()
    pixels[..., 3:] |= 1  # WebP forgets the colours of what is fully transparent
    path = tmp_path / f"a.{ending}"
    Image.fromarray(pixels).save(path, **({"lossless": True, "exact": True} if ending == "webp" else {}))
    assert np.array_equal(decode_photo(path), pixels)
    assert photo_size(path) == (9, 6)
    assert has_alpha(path) == (mode == "RGBA")


def test_grey_becomes_three_equal_channels(tmp_path, noise):
    Image.fromarray(noise[..., 0]).save(tmp_path / "a.png")
    assert np.array_equal(decode_photo(tmp_path / "a.png"), np.repeat(noise[..., :1], 3, axis=-1))


def test_grey_with_alpha(tmp_path, noise):
    Image.fromarray(noise[..., :2].copy(), "LA").save(tmp_path / "a.png")
    decoded = decode_photo(tmp_path / "a.png")
    assert np.array_equal(decoded, noise[..., [0, 0, 0, 1]])
    assert has_alpha(tmp_path / "a.png")


def test_sixteen_bit_grey_is_rounded_to_eight(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert decode_photo(tmp_path / "a.png")[0, :, 0].tolist() == np.round(values[0] / 257).astype(int).tolist()


def test_sixteen_bit_colour(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (5, 4, 3), dtype=np.uint16)

    # Pillow writes no such files: this is a PNG of 16-bit RGB made by hand.
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 4, 5, 16, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    decoded = decode_photo(path).astype(int)
    assert np.abs(decoded - values / 257).max() <= 1


def test_palette_with_and_without_transparency(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putdata([0, 1])
    picture.save(tmp_path / "plain.png")
    assert decode_photo(tmp_path / "plain.png").tolist() == [[[255, 0, 0], [0, 0, 255]]]
    picture.save(tmp_path / "clear.png", transparency=1)
    assert decode_photo(tmp_path / "clear.png").tolist() == [[[255, 0, 0, 255], [0, 0, 255, 0]]]
    assert has_alpha(tmp_path / "clear.png")


def test_cmyk(tmp_path):
    Image.new("CMYK", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=95)
    red, green, blue = decode_photo(tmp_path / "a.jpg")[4, 4]
    assert red < 10 < 200 < min(green, blue)


def test_exif_orientation_is_not_applied(tmp_path, noise):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(noise[..., :3]).save(tmp_path / "a.png", exif=exif)
    assert photo_size(tmp_path / "a.png") == (9, 6)
    assert np.array_equal(decode_photo(tmp_path / "a.png"), noise[..., :3])


def test_masks(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], dtype=np.uint8)).save(tmp_path / "m.png")
    assert decode_mask(tmp_path / "m.png").tolist() == [[False, False, True, True]]
    Image.new("1", (2, 1), 1).save(tmp_path / "m.png")
    assert decode_mask(tmp_path / "m.png").tolist() == [[True, True]]
    Image.fromarray(np.array([[[255, 255, 255, 0], [255, 255, 255, 255]]], dtype=np.uint8)).save(tmp_path / "m.png")
    assert decode_mask(tmp_path / "m.png").tolist() == [[False, True]]


def _outcome(path):
    """The pixels, or the text of the error."""
    try:
        return decode_photo(path)
    except StudioError as error:
        return str(error)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif"])
def test_truncation_at_any_byte_is_one_clear_error(tmp_path, noise, ending):
    path = tmp_path / f"a.{ending}"
    Image.fromarray(noise[..., :3]).resize((40, 40)).save(path)
    whole, complete = path.read_bytes(), decode_photo(path)
    refused = 0
    lengths = [0, 1, 5, 20, *range(30, len(whole) - 16, max(1, len(whole) // 40))]
    for length in lengths:
        path.write_bytes(whole[:length])
        found = _outcome(path)
        if isinstance(found, str):
            refused += 1
            assert found.startswith(f"{path}: cannot be read as a picture (")
            assert "\n" not in found
        else:
            # Metadata may follow the pixels: then the picture is whole before the file is.
            assert np.array_equal(found, complete)
    assert refused > 0.9 * len(lengths)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(StudioError, match="there is no such file"):
        photo_size(tmp_path / "nope.png")
    (tmp_path / "a.png").write_text("not a picture")
    for function in (photo_size, has_alpha, decode_photo, decode_mask):
        with pytest.raises(StudioError, match=r"a\.png: cannot be .* picture \(not a picture in a known format\)"):
            function(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(StudioError, match="empty file"):
        photo_size(tmp_path / "a.png")


def test_floating_point_pictures_are_refused_beyond_one(tmp_path):
    Image.fromarray(np.array([[0, 0.5], [1, 0.2]], dtype=np.float32)).save(tmp_path / "a.tif")
    assert decode_photo(tmp_path / "a.tif")[..., 0].tolist() == [[0, 128], [255, 51]]
    for value in (1.01, -0.01, np.nan, 128):
        Image.fromarray(np.full((2, 2), value, dtype=np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(StudioError, match="floating-point values"):
            decode_photo(tmp_path / "a.tif")
    for value in (70000, 100):
        Image.fromarray(np.full((2, 2), value, dtype=np.int32)).save(tmp_path / "a.tif")
        with pytest.raises(StudioError, match="32-bit integers"):
            decode_photo(tmp_path / "a.tif")
    Image.fromarray(np.full((2, 2), 70000, dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(StudioError, match="32-bit integers"):
        decode_photo(tmp_path / "a.tif")
