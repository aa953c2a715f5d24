from __future__ import annotations

import numpy as np
import pytest
import torch

from studio.errors import StudioError
from studio.readers import load_scene


@pytest.fixture
def llff_scene(tmp_path, write_photo):
    def make(count=9, size=(16, 12), full=(64, 48), focal=80.0, change=None, folder="images_4"):
        rows = []
        for i in range(count):
            write_photo(tmp_path / f"{folder}/{i:03d}.png", size)
            # Looking along +z: columns are down, right, backward; here x right, y down.
            matrix = np.zeros((3, 5))
            matrix[:, 0], matrix[:, 1], matrix[:, 2] = [0, 1, 0], [1, 0, 0], [0, 0, -1]
            matrix[:, 3] = [0.1 * i, 0, 0]
            matrix[:, 4] = [full[1], full[0], focal]
            rows.append([*matrix.ravel(), 2.0, 8.0 + i])
        table = np.array(rows)
        if change is not None:
            table = change(table)
        np.save(tmp_path / "poses_bounds.npy", table)
        return tmp_path

    return make


def test_poses_intrinsics_and_depths(llff_scene):
    scene = load_scene(llff_scene(), normalize="none")
    assert scene.format == "llff"
    camera = scene.frames[3].camera
    assert camera.size == (16, 12)
    assert [float(v) for v in (camera.fx, camera.fy, camera.cx, camera.cy)] == [20, 20, 8, 6]
    expected = torch.eye(4)
    expected[0, 3] = 0.3
    torch.testing.assert_close(camera.camera_to_world, expected)
    assert scene.frames[3].depth_range == (2.0, 11.0)
    assert [f.name for f in scene.split("test")] == ["images_4/000.png", "images_4/008.png"]
    # No points: the box of what the cameras see from depth 2 to 16; half the width at depth 16 is 16 * 8 / 20.
    torch.testing.assert_close(scene.bounds, torch.tensor([[0.8 - 6.4, -4.8, 2.0], [0.8 + 6.4, 4.8, 16.0]]))


def test_normalising_scales_the_depths(llff_scene):
    scene = load_scene(llff_scene())
    scale = 1 / 0.4  # nine cameras over 0.8, about their mean
    assert scene.frames[0].depth_range == pytest.approx((2 * scale, 8 * scale))


def test_full_size_photos_are_preferred(llff_scene, write_photo):
    root = llff_scene()
    for i in range(9):
        write_photo(root / f"images/{i:03d}.png", (64, 48))
    assert load_scene(root).frames[0].camera.size == (64, 48)
    assert load_scene(root, images="images_4").frames[0].camera.size == (16, 12)


def colmap_beside(root, write_colmap, params):
    camera = (1, "SIMPLE_RADIAL", 64, 48, params)
    folder = write_colmap(root / "sparse/0", [camera], [], [(1, [1.0, 2.0, 3.0], [255, 0, 0], 0.1)])
    (folder / "images.bin").unlink()
    return root


def test_points_and_lens_of_colmap_beside_it(llff_scene, write_colmap):
    root = colmap_beside(llff_scene(), write_colmap, [80.0, 33.0, 24.0, 0.05])
    scene = load_scene(root, normalize="none")
    assert scene.points.xyz.tolist() == [[1, 2, 3]]
    camera = scene.frames[0].camera
    assert camera.model == "opencv"
    assert [float(v) for v in (camera.fx, camera.cx, camera.distortion[0])] == pytest.approx([20, 8.25, 0.05])
    assert any(note.startswith("the lens distortion (0.05) is taken from 0/cameras.bin") for note in scene.notes)
    assert load_scene(root, ignore_distortion=True).frames[0].camera.model == "pinhole"


def test_the_lens_of_another_camera_is_not_taken(llff_scene, write_colmap):
    root = colmap_beside(llff_scene(), write_colmap, [82.0, 32.0, 24.0, 0.05])
    assert load_scene(root).frames[0].camera.model == "pinhole"


def _set(row, column, value):
    def change(table):
        table[row, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(2, 3, np.nan), r"poses_bounds\.npy: row 2 has NaN"),
        (_set(2, 0, 0.7), r"poses_bounds\.npy: row 2 is not a rotation"),
        (_set(1, 14, -80.0), "row 1 states height 48, width 64 and focal length -80; all must be above zero"),
        (_set(1, 15, 9.5), "row 1 has depth bounds 9.5 to 9"),
        (_set(1, 15, -1), "row 1 has depth bounds -1"),
        (lambda t: t[:5], "has 5 poses, but .*images_4 has 9 photos"),
        (lambda t: t[:, :15], r"must have 17 numbers a photo .*got \(9, 15\)"),
        (lambda t: t[:0], "lists no photos"),
    ],
)
def test_bad_tables(llff_scene, change, message):
    with pytest.raises(StudioError, match=message):
        load_scene(llff_scene(change=change))


def test_unreadable_tables(llff_scene):
    root = llff_scene()
    whole = (root / "poses_bounds.npy").read_bytes()
    for data in (b"", b"junk", whole[:200]):
        (root / "poses_bounds.npy").write_bytes(data)
        damage = r"poses_bounds\.npy: (is not a NumPy array|the header .* damaged or cut off|states .* bytes are there)"
        with pytest.raises(StudioError, match=damage):
            load_scene(root)
    np.save(root / "poses_bounds.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(StudioError, match="holds Python objects, which would have to be unpickled"):
        load_scene(root)


def test_no_photos(llff_scene):
    root = llff_scene()
    for path in (root / "images_4").iterdir():
        path.unlink()
    with pytest.raises(StudioError, match="images_4: there are no photos"):
        load_scene(root)


def test_numbers_that_no_camera_can_have(llff_scene):
    root = llff_scene()
    table = np.load(root / "poses_bounds.npy")
    for row, column, value in ((0, 14, 0.0), (0, 4, 1e9), (1, 3, 1e300), (0, 9, 0.0)):
        spoiled = table.copy()
        spoiled[row, column] = value
        np.save(root / "poses_bounds.npy", spoiled)
        with pytest.raises(StudioError, match=rf"poses_bounds\.npy: row {row} "):
            load_scene(root)
