"""Numbers, names and files that no scene can have: one line that names the file and the field, and exit code 2."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio.cli.main import main
from studio.errors import StudioError
from studio.readers import load_scene
from studio.readers.colmap_model import read_cameras, read_images, read_points
from studio.readers.point_files import read_ply
from studio.scene.record import load_saved_scene, save_scene

HUGE = 10**400


def change(root: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    path = root / "transforms.json"
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.update(fl_x=HUGE), "fl_x is inf"),
        (lambda t: t.update(fl_x=1e300), "fl_x is 1e+300, beyond all measure"),
        (lambda t: t.update(w=2**63, h=2**63), "w is 9.22337e+18; it must be a whole number from 1 to 1,048,576"),
        (lambda t: t.update(cx=HUGE), "cx is inf"),
        (lambda t: t.update(k1=1e308), "k1 is 1e+308, beyond all measure"),
        (lambda t: (t.pop("fl_x"), t.update(camera_angle_x=1e-320)), "camera_angle_x is 9.99"),
        (lambda t: t.update(aabb_scale=HUGE), "aabb_scale is inf"),
        (lambda t: t.update(aabb_scale=4, offset=[0, 0, 1e300]), "offset[2] is 1e+300"),
        (lambda t: t.update(camera_model="a\nb\x1b[31m"), r"camera_model is 'a\nb\x1b[31m'"),
        (lambda t: t["frames"][1]["transform_matrix"][0].__setitem__(3, HUGE), "frames[1].transform_matrix has inf"),
        (
            lambda t: t["frames"][1]["transform_matrix"][0].__setitem__(3, 1e308),
            "frames[1].transform_matrix has 1e+308",
        ),
        (lambda t: t["frames"][1].update(transform_matrix="x"), "frames[1].transform_matrix must be 4 rows"),
        (lambda t: t["frames"][1].update(mask_path="x" * 5000), "frames[1].mask_path: there is no"),
        (lambda t: t.update(test_filenames=["y" * 5000]), "test_filenames: the test split names absent photos"),
        (lambda t: t.update(ply_file_path="/dev/zero", w="x"), "w must be a number, got a string"),
    ],
)
def test_transforms(
    transforms_scene: Callable[..., Path], edit: Callable[[dict[str, Any]], object], words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = change(transforms_scene(3), edit)
    assert main(["data", "info", str(path.parent)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {path}: ")
    assert words in line


def test_names_of_photos_that_no_file_can_have(transforms_scene: Callable[..., Path]) -> None:
    for name in ("x" * 5000, "a\0b", "/", "..", "/dev/zero", "images", "🐶" * 100):
        path = change(transforms_scene(4), lambda t, name=name: t["frames"][1].update(file_path=name))  # type: ignore[misc]
        assert any("1 of 4 photos is absent" in note for note in load_scene(path.parent).notes), name


def test_pipes_and_devices_instead_of_photos(transforms_scene: Callable[..., Path]) -> None:
    root = transforms_scene(4)
    (root / "images/001.png").unlink()
    os.mkfifo(root / "images/001.png")
    (root / "images/002.png").unlink()
    (root / "images/002.png").symlink_to("/dev/zero")
    assert any("2 of 4 photos are absent" in note for note in load_scene(root).notes)
    (root / "transforms.json").unlink()
    os.mkfifo(root / "transforms.json")
    with pytest.raises(StudioError):
        load_scene(root)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_colmap_counts_and_ends(tmp_path: Path, name: str) -> None:
    read = {"cameras": read_cameras, "images": read_images, "points3D": read_points}[name]
    path = tmp_path / f"{name}.bin"
    for data in (b"", b"\1", struct.pack("<Q", 2**64 - 1), struct.pack("<Q", 1) + b"\xff" * 30):
        path.write_bytes(data)
        with pytest.raises(StudioError, match=rf"{name}\.bin: "):
            read(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(StudioError, match="is a pipe"):
        read(path)


def test_colmap_values(tmp_path: Path) -> None:
    cameras, images, points = (tmp_path / f"{name}.txt" for name in ("cameras", "images", "points3D"))
    cameras.write_text("1 PINHOLE 16 12 20 20 8 6\n1 PINHOLE 16 12 21 20 8 6\n")
    with pytest.raises(StudioError, match="there are two cameras 1"):
        read_cameras(cameras)
    line = "{} 1 0 0 0 0 0 0 1 {}\n\n"
    images.write_text(line.format(1, "a.png") + line.format(2, "a.png"))
    with pytest.raises(StudioError, match=r"two images named a\.png"):
        read_images(images)
    images.write_text(line.format(1, "a\u2028b.png") + line.format(2, "c.png"), encoding="utf-8")
    assert [image.name for image in read_images(images)] == ["a\u2028b.png", "c.png"]
    for color in ("256", "-1", "nan", "1e300"):
        points.write_text(f"1 0 0 0 {color} 0 0 0.5 1 0\n")
        with pytest.raises(StudioError, match="a colour outside of 0 to 255"):
            read_points(points)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t["frames"][0].update(size=[1e300, 5]), r"frames\[0\]\.size must be two whole numbers"),
        (lambda t: t["frames"][0].update(intrinsics=[0, 1, 1, 1]), r"frames\[0\]\.intrinsics are no focal lengths"),
        (lambda t: t["frames"][0].update(camera_to_world=[[1]]), r"frames\[0\]\.camera_to_world must be 4 x 4 numbers"),
        (lambda t: t["frames"][0].update(model="x"), r"frames\[0\]\.model must be one of pinhole"),
        (lambda t: t["frames"][0].update(split=[]), r"frames\[0\]\.split must be one of train"),
        (lambda t: t["frames"][0].pop("name"), r"frames\[0\]\.name must be a string"),
        (lambda t: t.update(frames={}), "frames must be a list"),
        (lambda t: t.update(bounds=[[0, 0, HUGE], [1, 1, 1]]), r"bounds\[0\]\[2\] is inf"),
        (lambda t: t.pop("scene_from_input"), "scene_from_input must be 4 x 4 numbers"),
    ],
)
def test_saved_scenes(
    transforms_scene: Callable[..., Path], edit: Callable[[dict[str, Any]], object], words: str
) -> None:
    root = transforms_scene(3)
    path = root / "scene.json"
    save_scene(load_scene(root), path)
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    with pytest.raises(StudioError, match=rf"scene\.json: {words}"):
        load_saved_scene(path)


def ply(header: str, body: bytes = b"") -> bytes:
    return f"ply\nformat binary_little_endian 1.0\n{header}end_header\n".encode() + body


POINT = "property float x\nproperty float y\nproperty float z\n"


def test_points_of_ply_files(tmp_path: Path) -> None:
    path = tmp_path / "points.ply"
    colors = "".join(f"property {{}} {name}\n" for name in ("red", "green", "blue"))
    for type_, layout, values in (
        ("uchar", "BBB", (255, 51, 0)),
        ("ushort", "HHH", (65535, 13107, 0)),
        ("float", "fff", (1, 0.2, 0)),
    ):
        body = struct.pack("<fff" + layout, 1, 2, 3, *values) + struct.pack("<fff" + layout, np.nan, 2, 3, *values)
        path.write_bytes(ply(f"element vertex 2\n{POINT}" + colors.format(type_, type_, type_), body))
        found = read_ply(path)
        assert found.xyz.tolist() == [[1, 2, 3]]
        np.testing.assert_allclose(found.rgb.numpy(), [[1, 0.2, 0]], atol=1e-6)
    for data, words in (
        (ply("element vertex 2\nproperty float x\n", bytes(8)), "no property 'y'"),
        (ply(f"element vertex 99999999999\n{POINT}", bytes(12)), "truncated"),
        (ply("element vertex " + "9" * 5000 + "\n"), "is not understood|has no end"),
        (ply(f"element vertex 1\n{POINT}", struct.pack("<fff", 1e30, 0, 0)), "holds no points"),
        (b"ply\nformat ascii 1.0\nelement vertex 3\n" + POINT.encode() + b"end_header\n1\n2\n3\n", "has not 3 numbers"),
    ):
        path.write_bytes(data)
        with pytest.raises(StudioError, match=words):
            read_ply(path)


def test_a_long_header_of_a_ply_file_is_refused_early(tmp_path: Path) -> None:
    path = tmp_path / "points.ply"
    path.write_bytes(ply("element vertex 1\n" + "".join(f"property char p{i}\n" for i in range(60_000))))
    with pytest.raises(StudioError, match="more than 4,096 properties"):
        read_ply(path)
