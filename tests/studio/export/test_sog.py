"""SOG: scenes written pixel by pixel in both versions, one that others wrote, and scenes that are not to be trusted."""

from __future__ import annotations

import io
import json
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from studio.errors import StudioError
from studio.export.sog import read_sog

COUNT = 5
STEPS = [[0, 65535, 32768], [1, 2, 3], [65535, 0, 0], [40000, 257, 65535], [9, 8, 7]]
"""Positions in 16 bits."""
CODEBOOK = [i / 10 - 10 for i in range(256)]


def webp(pixels: Any, width: int | None = None) -> bytes:
    """Rows of RGBA, or a table of them, as a lossless picture; 4 wide unless told."""
    table = np.asarray(pixels, np.uint8)
    if table.ndim == 2:
        width = width or 4
        padded = np.full((-(-len(table) // width) * width, 4), 255, np.uint8)
        padded[: len(table)] = table
        table = padded.reshape(-1, width, 4)
    stream = io.BytesIO()
    Image.fromarray(table, "RGBA").save(stream, "WEBP", lossless=True, exact=True)
    return stream.getvalue()


def scene(version: int = 2, degree: int = 1) -> tuple[dict[str, Any], dict[str, bytes]]:
    """meta.json and pictures of five Gaussians."""
    each = (0, 3, 8, 15)[degree]
    low = [[s & 255 for s in row] + [255] for row in STEPS]
    high = [[s >> 8 for s in row] + [255] for row in STEPS]
    quats = [[255, 128, 0, 252], [128, 128, 128, 253], [200, 100, 50, 254], [1, 2, 3, 255], [9, 9, 9, 7]]
    colors = [[0, 1, 2, 0], [100, 101, 102, 255], [5, 5, 5, 128], [6, 6, 6, 1], [255, 255, 255, 200]]
    labels = [[0, 0, 0, 255], [1, 0, 0, 255], [63, 0, 0, 255], [64, 0, 0, 255], [1, 0, 0, 255]]
    sets = np.arange(2 * 64 * max(each, 1) * 4).reshape(2, -1, 4) % 251
    sets[..., 3] = 255
    files = {
        "means_l.webp": webp(low), "means_u.webp": webp(high), "quats.webp": webp(quats), "sh0.webp": webp(colors),
        "scales.webp": webp([[10 * i, 20, 30, 255] for i in range(COUNT)]),
    }  # fmt: skip
    meta: dict[str, Any] = {
        "means": {"mins": [-1.0, 0.0, 2.0], "maxs": [1.0, 3.0, 2.5], "files": ["means_l.webp", "means_u.webp"]},
        "quats": {"files": ["quats.webp"]},
    }
    if version == 2:
        meta |= {"version": 2, "count": COUNT}
        meta |= {"scales": {"codebook": CODEBOOK, "files": ["scales.webp"]}}
        meta |= {"sh0": {"codebook": CODEBOOK, "files": ["sh0.webp"]}}
    else:
        meta["means"]["shape"] = [COUNT, 3]
        meta |= {"scales": {"mins": [-9, -8, -7], "maxs": [-1, -2, -3], "files": ["scales.webp"]}}
        meta |= {"sh0": {"mins": [-1, -1, -1, -6], "maxs": [1, 2, 3, 6], "files": ["sh0.webp"]}}
    if degree:
        files |= {"centroids.webp": webp(sets), "labels.webp": webp(labels)}
        meta["shN"] = {"files": ["centroids.webp", "labels.webp"]}
        meta["shN"] |= {"count": 65, "bands": degree, "codebook": CODEBOOK} if version == 2 else {"mins": -2, "maxs": 3}
    return meta, files


def write(folder: Path, meta: Any, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "meta.json").write_text(json.dumps(meta))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, meta: Any, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.json", json.dumps(meta))
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_a_scene_in_a_folder_of_its_zip(tmp_path: Path) -> None:
    meta, files = scene(2, 1)
    with zipfile.ZipFile(tmp_path / "x.sog", "w") as archive:
        archive.writestr("scene/meta.json", json.dumps(meta))
        for name, data in files.items():
            archive.writestr(f"scene/{name}", data)
    inside = read_sog(tmp_path / "x.sog")
    assert torch.equal(inside.means, read_sog(write(tmp_path / "scene", meta, files)).means)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_every_value_by_its_formula(tmp_path: Path, version: int, degree: int) -> None:
    meta, files = scene(version, degree)
    cloud = read_sog(write(tmp_path / "scene", meta, files))
    assert (len(cloud), cloud.sh_degree) == (COUNT, degree)
    for row, steps in enumerate(STEPS):
        for axis, step in enumerate(steps):
            low, high = meta["means"]["mins"][axis], meta["means"]["maxs"][axis]
            value = low + (high - low) * step / 65535
            expected = math.copysign(math.exp(abs(value)) - 1, value)
            assert float(cloud.means[row, axis]) == pytest.approx(expected, abs=1e-5)
    # 252 names w as the largest; the others are steps of the range from -sqrt(1/2) to sqrt(1/2).
    root = math.sqrt(0.5)
    x, y, z = root, root * (128 / 127.5 - 1), -root
    assert cloud.quats[0].tolist() == pytest.approx([0, x, y, z], abs=1e-6)
    near_zero = root * (128 / 127.5 - 1)
    assert cloud.quats[1].tolist() == pytest.approx([near_zero, 1, near_zero, near_zero], abs=3e-5)
    # A tag that names no component means no turn.
    assert cloud.quats[4].tolist() == [1, 0, 0, 0]
    if version == 2:
        assert cloud.log_scales[3].tolist() == pytest.approx([-7, -8, -7], abs=1e-6)
        assert cloud.sh[1, 0].tolist() == pytest.approx([0, 0.1, 0.2], abs=1e-6)
        opacities = [0.5 / 255, 254.5 / 255, 128 / 255, 1 / 255, 200 / 255]
        assert cloud.logit_opacities.sigmoid().tolist() == pytest.approx(opacities, abs=1e-6)
    else:
        expected_scales = [-9 + 8 * 30 / 255, -8 + 6 * 20 / 255, -7 + 4 * 30 / 255]
        assert cloud.log_scales[3].tolist() == pytest.approx(expected_scales, abs=1e-6)
        assert cloud.sh[1, 0].tolist() == pytest.approx(
            [-1 + 200 / 255, -1 + 3 * 101 / 255, -1 + 4 * 102 / 255], abs=1e-6
        )
        assert cloud.logit_opacities.tolist() == pytest.approx(
            [-6, 6, -6 + 12 * 128 / 255, -6 + 12 / 255, -6 + 2400 / 255]
        )
    if degree:
        each = (degree + 1) ** 2 - 1
        sets = np.asarray(Image.open(io.BytesIO(files["centroids.webp"])).convert("RGBA"))
        for row, label in ((0, 0), (1, 1), (2, 63), (3, 64)):
            first = (label % 64) * each
            steps_ = sets[label // 64, first : first + each, :3].astype(int)
            values = np.array(CODEBOOK)[steps_] if version == 2 else -2 + 5 * steps_ / 255
            np.testing.assert_allclose(cloud.sh[row, 1:].numpy(), values, atol=1e-5)


def test_folder_meta_and_zip_are_the_same(tmp_path: Path) -> None:
    meta, files = scene()
    folder = write(tmp_path / "scene", meta, files)
    first = read_sog(folder)
    for path in (folder / "meta.json", write_zip(tmp_path / "scene.sog", meta, files)):
        again = read_sog(path)
        assert torch.equal(first.means, again.means)
        assert torch.equal(first.sh, again.sh)


def test_a_codebook_without_its_first_value_is_completed(tmp_path: Path) -> None:
    meta, files = scene(degree=0)
    expected = read_sog(write(tmp_path / "whole", meta, files)).sh
    meta["sh0"]["codebook"] = [None, *CODEBOOK[1:]]
    got = read_sog(write(tmp_path / "hole", meta, files)).sh
    # The first value is used by the red of the first Gaussian alone.
    assert float(got[0, 0, 0]) == pytest.approx(CODEBOOK[1] - (CODEBOOK[255] - CODEBOOK[1]) / 255)
    assert torch.equal(got.flatten()[1:], expected.flatten()[1:])


def test_a_scene_that_others_wrote(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "splats" / "playbot_3_0"
    cloud = read_sog(folder)
    assert (len(cloud), cloud.sh_degree) == (31_000, 2)
    meta = json.loads((folder / "meta.json").read_text())
    logs = cloud.means.sign() * cloud.means.abs().log1p()
    torch.testing.assert_close(logs.min(dim=0).values, torch.tensor(meta["means"]["mins"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(logs.max(dim=0).values, torch.tensor(meta["means"]["maxs"]), atol=1e-5, rtol=0)
    assert float((cloud.quats.norm(dim=1) - 1).abs().max()) < 1e-5
    with zipfile.ZipFile(tmp_path / "x.sog", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    assert torch.equal(read_sog(tmp_path / "x.sog").sh, cloud.sh)


def put(meta: Any, keys: str, value: Any) -> None:
    *path, last = (int(key) if key.isdecimal() else key for key in keys.split("."))
    for key in path:
        meta = meta[key]
    if value is None:
        del meta[last]
    else:
        meta[last] = value


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        ("version", 3, "'version' is 3; versions 1 and 2"),
        ("count", None, "'count' is missing"),
        ("count", 0, "'count' must be a whole number above zero, is 0"),
        ("count", 2.5, "'count' must be a whole number"),
        ("count", True, "'count' must be a whole number"),
        ("count", 9, r"means_l\.webp: has 4 x 2 pixels, the scene has 9 Gaussians"),
        ("count", 10**12, "1,000,000,000,000 Gaussians of degree 3 need .* of memory"),
        ("means.mins", [0, 0], r"'means\.mins' must be 3 finite numbers"),
        ("means.maxs", [0, 0, "1"], r"'means\.maxs' must be 3 finite numbers"),
        ("means.maxs", [0, 0, math.nan], r"'means\.maxs' must be 3 finite numbers"),
        ("means.maxs", [0, 0, 10**400], r"'means\.maxs' must be 3 finite numbers"),
        ("means.maxs", [0, 0, 1e4], "'means' is not a finite number for 2 of 5 Gaussians"),
        ("scales.codebook", CODEBOOK[:255], r"'scales\.codebook' must be 256 finite numbers"),
        ("scales.codebook", [1e300] * 256, r"'scales\.codebook' must be 256 finite numbers of at most 1e\+15"),
        ("sh0.files", ["absent.webp"], r"absent\.webp: there is no such file"),
        ("sh0.files", [], r"'sh0\.files\.0' is missing"),
        ("sh0.files", ["../outside.webp"], r"'sh0\.files\.0' must be the plain name of a file .* '\.\./outside\.webp'"),
        ("sh0.files", ["/etc/passwd"], "must be the plain name"),
        ("sh0.files", ["a\\b.webp"], "must be the plain name"),
        ("sh0.files", [".."], "must be the plain name"),
        ("sh0.files", [7], "must be the plain name"),
        ("sh0.files", ["meta.json"], r"meta\.json: cannot be read as a picture"),
        ("shN.bands", 4, r"'shN\.bands' is 4; SOG knows 1 to 3"),
        ("shN.bands", 2, "picture of 192 x 2; 65 sets of degree 2 need 512 x 2"),
        ("shN.count", 200, "200 sets of degree 1 need 192 x 4"),
        ("shN.count", 64, "names a set 64 of coefficients; there are 64"),
    ],
)
def test_fields_that_cannot_be(tmp_path: Path, keys: str, value: Any, words: str) -> None:
    meta, files = scene()
    (tmp_path / "outside.webp").write_bytes(files["sh0.webp"])
    put(meta, keys, value)
    with pytest.raises(StudioError, match=words):
        read_sog(write(tmp_path / "scene", meta, files))
    with pytest.raises(StudioError):
        read_sog(write_zip(tmp_path / "scene.sog", meta, files))


def test_version_1_knows_its_degree_by_the_width(tmp_path: Path) -> None:
    meta, files = scene(1)
    files["centroids.webp"] = webp(np.zeros((2, 100, 4)))
    with pytest.raises(StudioError, match="picture 100 wide; coefficients of degree 1 to 3 have 192, 512, 960"):
        read_sog(write(tmp_path / "scene", meta, files))


@pytest.mark.parametrize("name", ["../evil.webp", "/etc/evil", "a/../../evil", "..\\evil", "C:evil"])
def test_archives_that_leave_their_folder_are_refused(tmp_path: Path, name: str) -> None:
    meta, files = scene()
    with pytest.raises(StudioError, match=r"scene\.sog: its entry '.*evil.*' leads out of the archive"):
        read_sog(write_zip(tmp_path / "scene.sog", meta, {**files, name: b"x"}))
    assert [path.name for path in tmp_path.iterdir()] == ["scene.sog"]


def test_archives_that_are_damaged(tmp_path: Path) -> None:
    meta, files = scene()
    path = write_zip(tmp_path / "scene.sog", meta, files)
    whole = path.read_bytes()

    def fails(words: str) -> None:
        with pytest.raises(StudioError, match=rf"scene\.sog.*{words}"):
            read_sog(path)

    for cut in (3, 100, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        fails("cannot be read as a zip archive")
    position = whole.index(files["sh0.webp"]) + 20
    path.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
    fails("is damaged .Bad CRC")
    write_zip(path, meta, {name: data for name, data in files.items() if name != "quats.webp"})
    fails(r"quats\.webp: is not in the archive")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no scene")
    fails(r"meta\.json: is not in the archive")


def test_bombs_are_refused_before_they_go_off(tmp_path: Path) -> None:
    meta, files = scene()
    stream = io.BytesIO()
    Image.new("RGBA", (4000, 4000)).save(stream, "WEBP", lossless=True)
    with pytest.raises(StudioError, match=r"sh0\.webp: has 4000 x 4000 pixels, far more than the scene's 5 Gaussians"):
        read_sog(write(tmp_path / "scene", meta, {**files, "sh0.webp": stream.getvalue()}))
    path = tmp_path / "scene.sog"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.json", b" " * (17 << 20))
    with pytest.raises(StudioError, match=r"meta\.json: (states|has) .*16,777,216"):
        read_sog(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "JSON syntax error"),
        (b"\xff\xfe\x00", "UTF-16"),
        (b"[" * 100_000, "nested deeper than"),
        (b"[1, 2]", "is not of a SOG scene"),
        (b'{"a": 1}', "is not of a SOG scene"),
        (b'{"means": 3}', r"'means\.shape\.0' is missing"),
        (b'{"version": "2", "means": {}}', "'version' is 2; versions"),
        (b'{"version": [], "means": {}}', "'version' is"),
        (struct.pack("<I", 7), "JSON syntax error"),
    ],
)
def test_other_json(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "meta.json").write_bytes(text)
    with pytest.raises(StudioError, match=rf"meta\.json: .*{words}"):
        read_sog(tmp_path)


def test_pictures_that_are_damaged(tmp_path: Path) -> None:
    meta, files = scene()
    damage: list[Callable[[bytes], bytes]] = [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:20] + bytes(20)]
    for spoil in damage:
        with pytest.raises(StudioError, match=r"quats\.webp: cannot be read as a picture"):
            read_sog(write(tmp_path / "scene", meta, {**files, "quats.webp": spoil(files["quats.webp"])}))
    with pytest.raises(StudioError, match=r"meta\.json: (there is no|cannot)"):
        read_sog(tmp_path)
