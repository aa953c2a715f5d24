from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.errors import StudioError
from studio.readers import load_scene


def load(path: Path, **options):
    return load_scene(path, normalize="none", **options)


def test_poses_become_opencv_and_project_as_opengl_says(transforms_scene, pose):
    scene = load(transforms_scene(3, top={"cx": 7.0, "cy": 5.0, "fl_y": 25.0}))
    camera = scene.frames[1].camera
    m = np.array(pose(0.5))
    # A point given in OpenGL camera axes: 0.3 right, 0.2 up, 2 ahead.
    world = m[:3, :3] @ np.array([0.3, 0.2, -2.0]) + m[:3, 3]
    pixel, depth = camera.project(torch.tensor(world, dtype=torch.float32))
    torch.testing.assert_close(pixel, torch.tensor([7 + 20 * 0.15, 5 - 25 * 0.1]), atol=1e-5, rtol=0)
    assert float(depth) == pytest.approx(2.0, abs=1e-5)
    assert torch.equal(scene.scene_from_input, torch.eye(4, dtype=torch.float64))


def test_intrinsics_of_a_frame_go_before_those_of_the_file(transforms_scene):
    def each(i):
        return {"fl_x": 40.0, "cx": 3.0, "k1": 0.1} if i == 1 else {}

    frames = load(transforms_scene(3, top={"k1": 0.0, "cx": 8.5}, each=each), eval_every=0).frames
    assert [float(f.camera.fx) for f in frames] == [20, 40, 20]
    assert [float(f.camera.cx) for f in frames] == [8.5, 3.0, 8.5]
    assert [f.camera.model for f in frames] == ["pinhole", "opencv", "pinhole"]
    assert float(frames[1].camera.distortion[0]) == pytest.approx(0.1)


def test_field_of_view_instead_of_focal_length(transforms_scene):
    top = {"fl_x": None, "camera_angle_x": math.radians(90), "camera_angle_y": math.radians(60)}
    camera = load(transforms_scene(2, top=top)).frames[0].camera
    assert float(camera.fx) == pytest.approx(8.0)
    assert float(camera.fy) == pytest.approx(6 / math.tan(math.radians(30)))
    assert (float(camera.cx), float(camera.cy)) == (8.0, 6.0)


def test_distortion_is_put_into_opencv_order(transforms_scene):
    top = {"camera_model": "OPENCV", "k1": 0.1, "k2": 0.2, "k3": 0.3, "p1": 0.01, "p2": 0.02}
    camera = load(transforms_scene(2, top=top)).frames[0].camera
    torch.testing.assert_close(camera.distortion, torch.tensor([0.1, 0.2, 0.01, 0.02, 0.3, 0, 0, 0]))


def test_distortion_params_list(transforms_scene):
    top = {"distortion_params": [0.1, 0.2, 0.3, 0.0, 0.01, 0.02]}
    camera = load(transforms_scene(2, top=top)).frames[0].camera
    torch.testing.assert_close(camera.distortion, torch.tensor([0.1, 0.2, 0.01, 0.02, 0.3, 0, 0, 0]))
    with pytest.raises(StudioError, match=r"distortion_params must have 6 numbers, got 2"):
        load(transforms_scene(2, top={"distortion_params": [0.1, 0.2]}))
    with pytest.raises(StudioError, match=r"distortion_params\[1\] must be a number"):
        load(transforms_scene(2, top={"distortion_params": [0.1, "x", 0, 0, 0, 0]}))


@pytest.mark.parametrize("stated", [{"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}])
def test_fisheye(transforms_scene, stated):
    camera = load(transforms_scene(2, top={**stated, "k1": 0.1, "k4": 0.4, "p1": 9.0})).frames[0].camera
    assert camera.model == "fisheye"
    torch.testing.assert_close(camera.distortion, torch.tensor([0.1, 0, 0, 0.4, 0, 0, 0, 0]))


def test_equirectangular_needs_no_focal_length(transforms_scene):
    top = {"camera_model": "EQUIRECTANGULAR", "fl_x": None}
    camera = load(transforms_scene(2, top=top, size=(16, 8))).frames[0].camera
    assert camera.model == "equirectangular"
    assert [float(v) for v in (camera.fx, camera.fy, camera.cx, camera.cy)] == [8, 8, 8, 4]


def test_unknown_camera_model_is_refused(transforms_scene):
    with pytest.raises(StudioError, match="camera_model is 'VR180_L'"):
        load(transforms_scene(2, top={"camera_model": "VR180_L"}))


def test_intrinsics_follow_photos_of_another_size(transforms_scene, write_photo):
    root = transforms_scene(4, top={"w": 64, "h": 48, "cx": 30.0, "fl_x": 80.0})
    camera = load(root).frames[0].camera
    assert camera.size == (16, 12)
    assert [float(v) for v in (camera.fx, camera.fy, camera.cx, camera.cy)] == [20, 20, 7.5, 6]


def test_images_option_and_missing_images_folder(transforms_scene, write_photo):
    root = transforms_scene(4, top={"cx": 9.0})
    for i in range(4):
        write_photo(root / f"images_2/{i:03d}.png", (8, 6))
    scene = load(root, images="images_2")
    assert {f.camera.size for f in scene.frames} == {(8, 6)}
    assert float(scene.frames[0].camera.cx) == 4.5
    for path in (root / "images").iterdir():
        path.unlink()
    (root / "images").rmdir()
    scene = load(root)
    assert scene.frames[0].name == "images_2/000.png"
    assert "photos are read from images_2 instead of images" in scene.notes
    with pytest.raises(StudioError, match=r"images_3: there is no such folder of photos\. Folders there: images_2"):
        load(root, images="images_3")


def test_pixel_intrinsics_without_size_cannot_follow_a_smaller_folder(transforms_scene, write_photo):
    root = transforms_scene(2, top={"w": None, "h": None})
    for i in range(2):
        write_photo(root / f"images_2/{i:03d}.png", (8, 6))
    with pytest.raises(StudioError, match=r"frames\[0\]\.w is missing"):
        load(root, images="images_2")


def test_names_without_ending_and_backslashes(transforms_scene):
    names = ["./images/000", "images\\001", "images/../images/002.png"]
    scene = load(transforms_scene(3, each=lambda i: {"file_path": names[i]}))
    assert [f.name for f in scene.frames] == ["images/000.png", "images/001.png", "images/002.png"]


def test_photos_beside_the_scene_folder(transforms_scene, write_photo, tmp_path):
    write_photo(tmp_path / "photos/a.png")
    inner = tmp_path / "scene"
    inner.mkdir()
    root = transforms_scene(1, each=lambda i: {"file_path": "../photos/a.png"})
    (root / "transforms.json").rename(inner / "transforms.json")
    scene = load(inner)
    assert scene.frames[0].name == "../photos/a.png"
    assert scene.frames[0].image_path.is_file()


def test_absent_photos_are_left_out_with_a_note(transforms_scene):
    scene = load(transforms_scene(6, present=lambda i: i != 2))
    assert len(scene.frames) == 5
    assert "transforms.json: 1 of 6 photos is absent and left out (first: images/002.png)" in scene.notes


def test_no_photo_at_all(transforms_scene):
    with pytest.raises(StudioError, match=r"none of its 6 photos exist \(first: images/000\.png"):
        load(transforms_scene(6, present=lambda i: False))
    with pytest.raises(StudioError, match="lists no photos"):
        load(transforms_scene(0))


def test_masks(transforms_scene, write_photo, tmp_path):
    write_photo(tmp_path / "masks/000.png", mode="L")
    scene = load(transforms_scene(2, each=lambda i: {"mask_path": "masks/000.png"} if i == 0 else {}))
    assert [f.mask_path for f in scene.frames] == [tmp_path / "masks/000.png", None]
    with pytest.raises(StudioError, match=r"frames\[1\]\.mask_path: there is no .*masks.nope\.png"):
        load(transforms_scene(2, each=lambda i: {"mask_path": "masks/nope.png"} if i == 1 else {}))


def test_file_name_lists_make_the_splits(transforms_scene):
    names = [f"images/{i:03d}.png" for i in range(6)]
    top = {"train_filenames": names[:3], "val_filenames": names[3:4], "test_filenames": ["./" + names[4]]}
    scene = load(transforms_scene(6, top=top))
    assert [len(scene.split(s)) for s in ("train", "val", "test")] == [3, 1, 1]
    assert scene.split("test")[0].name == names[4]
    assert "1 photos are in none of the lists of file names and left out" in scene.notes


def test_only_a_test_list_leaves_the_rest_for_training(transforms_scene):
    scene = load(transforms_scene(6, top={"test_filenames": ["images/001.png"]}))
    assert [f.name for f in scene.split("test")] == ["images/001.png"]
    assert len(scene.split("train")) == 5


def test_a_photo_in_train_and_test_is_only_tested_on(transforms_scene):
    names = [f"images/{i:03d}.png" for i in range(4)]
    scene = load(transforms_scene(4, top={"train_filenames": names, "test_filenames": names[1:2]}))
    assert [f.name for f in scene.split("test")] == names[1:2]
    assert names[1] not in [f.name for f in scene.split("train")]
    assert len(scene.frames) == 4
    assert any(note.startswith("1 photos are named by more than one split") for note in scene.notes)


def test_test_list_that_names_absent_photos(transforms_scene):
    top = {"test_filenames": ["images/001.png", "images/005.png"]}
    with pytest.raises(
        StudioError, match=r"test_filenames: the test split names absent photos \(1 of 2, first: images/005"
    ):
        load(transforms_scene(6, top=top, present=lambda i: i != 5))


def test_instant_ngp_split_files(transforms_scene):
    transforms_scene(6, name="transforms_train.json", folder="train")
    transforms_scene(2, name="transforms_val.json", folder="val")
    root = transforms_scene(3, name="transforms_test.json", folder="test")
    scene = load(root)
    assert scene.format == "transforms"
    assert [len(scene.split(s)) for s in ("train", "val", "test")] == [6, 2, 3]


def test_aabb_scale_gives_the_unit_cube_as_bounds(transforms_scene):
    scene = load(transforms_scene(2, top={"aabb_scale": 16}))
    torch.testing.assert_close(scene.bounds, torch.tensor([[-1.0] * 3, [1.0] * 3]) * 0.5 / 0.33)
    assert any("aabb_scale 16" in note for note in scene.notes)
    scene = load(transforms_scene(2, top={"aabb_scale": 1, "scale": 0.5, "offset": [0.5, 0.0, 1.0]}))
    torch.testing.assert_close(scene.bounds, torch.tensor([[-1.0, 0.0, -2.0], [1.0, 2.0, 0.0]]))


def test_points_of_a_ply_file(transforms_scene, tmp_path):
    header = "ply\nformat ascii 1.0\nelement vertex 2\n" + "".join(f"property float {a}\n" for a in "xyz")
    header += "".join(f"property uchar {c}\n" for c in ("red", "green", "blue")) + "end_header\n"
    (tmp_path / "points.ply").write_text(header + "0 1 2 255 0 51\n3 4 5 0 102 0\n")
    scene = load(transforms_scene(2, top={"ply_file_path": "points.ply"}))
    assert scene.points is not None
    torch.testing.assert_close(scene.points.xyz, torch.tensor([[0.0, 1, 2], [3, 4, 5]]))
    torch.testing.assert_close(scene.points.rgb, torch.tensor([[1, 0, 0.2], [0, 0.4, 0]]))
    scene = load(transforms_scene(2, top={"ply_file_path": "nope.ply"}))
    assert scene.points is None
    assert "nope.ply (ply_file_path) is absent: no points" in scene.notes


def test_scale_in_the_rotation_is_taken_out(transforms_scene, pose):
    scaled = np.array(pose(0.3))
    scaled[:3, :3] *= 2.5
    scene = load(transforms_scene(2, each=lambda i: {"transform_matrix": scaled.tolist()} if i == 1 else {}))
    camera = scene.frames[1].camera
    rotation = camera.camera_to_world[:3, :3]
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(3))
    torch.testing.assert_close(camera.camera_to_world[:3, 3], torch.tensor(scaled[:3, 3], dtype=torch.float32))


def _with(matrix, row, column, value):
    changed = [list(r) for r in matrix]
    changed[row][column] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: _with(m, 0, 1, math.nan), r"frames\[1\]\.transform_matrix has nan in row 0, column 1"),
        (lambda m: _with(m, 2, 3, math.inf), r"frames\[1\]\.transform_matrix has inf in row 2, column 3"),
        (lambda m: _with(m, 0, 0, 0.5), r"frames\[1\]\.transform_matrix is not a rotation"),
        (lambda m: [[-v for v in m[0]], *m[1:]], r"frames\[1\]\.transform_matrix mirrors the scene"),
        (lambda m: [*m[:3], [0, 0, 1, 1]], r"transform_matrix must end in the row 0 0 0 1, got 0 0 1 1"),
        (lambda m: m[:2], r"transform_matrix must be 4 rows of 4 numbers, got shape \(2, 4\)"),
        (lambda m: [m[0][:3], *m[1:]], r"transform_matrix must be 4 rows of 4 numbers"),
        (lambda m: "no", r"transform_matrix must be 4 rows of 4 numbers"),
        (lambda m: [[0] * 4] * 3 + [[0, 0, 0, 1]], r"transform_matrix is not a rotation"),
        (lambda m: None, r"frames\[1\]\.transform_matrix is missing"),
    ],
)
def test_bad_poses_are_named(transforms_scene, pose, change, message):
    with pytest.raises(StudioError, match=message):
        load(transforms_scene(3, each=lambda i: {"transform_matrix": change(pose(0.0))} if i == 1 else {}))


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ({"fl_x": -20.0}, r"transforms\.json: fl_x is -20, but a focal length must be above zero"),
        ({"fl_x": 0}, "fl_x is 0"),
        ({"fl_x": "big"}, "fl_x must be a number, got a string"),
        ({"fl_x": math.nan}, "fl_x is nan"),
        ({"fl_x": None}, r"frames\[0\]\.fl_x is missing: neither the frame nor the file states a focal length"),
        ({"fl_x": None, "camera_angle_x": 4.0}, "camera_angle_x .4 radians. does not define"),
        ({"w": -1}, "w is -1"),
        ({"w": 16.5}, "w is 16.5; it must be a whole number"),
        ({"cx": True}, "cx must be a number, got true/false"),
        ({"k1": math.inf}, "k1 is inf"),
        ({"w": 12, "h": 16}, r"the photo is 16x12, but .*frames\[0\] states 12x16.* EXIF orientation is not applied"),
        ({"w": 40, "h": 20}, "the photo is 16x12, but .* states 40x20"),
        ({"aabb_scale": 0}, "aabb_scale is 0"),
        ({"aabb_scale": 1, "offset": [0.5]}, "offset must be 3 numbers, got 1"),
    ],
)
def test_bad_fields_are_named(transforms_scene, top, message):
    with pytest.raises(StudioError, match=message):
        load(transforms_scene(2, top=top))


def test_bad_frames(transforms_scene, tmp_path):
    with pytest.raises(StudioError, match=r"frames\[1\]\.file_path must be a string, got a number"):
        load(transforms_scene(2, each=lambda i: {"file_path": 5} if i == 1 else {}))
    with pytest.raises(
        StudioError, match=r"frames\[1\]\.file_path names images/000\.png, which another frame names too"
    ):
        load(transforms_scene(2, each=lambda i: {"file_path": "images/000.png"}))
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": [3]}))
    with pytest.raises(StudioError, match=r"frames\[0\] must be an object"):
        load(tmp_path)
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": {}}))
    with pytest.raises(StudioError, match="frames must be a list, got an object"):
        load(tmp_path)
    (tmp_path / "transforms.json").write_text("{}")
    with pytest.raises(StudioError, match="has no field 'frames'"):
        load(tmp_path)


def test_syntax_error_shows_line_and_column(tmp_path):
    (tmp_path / "transforms.json").write_text('{\n  "fl_x": 20,\n  "w": 16,,\n}')
    with pytest.raises(
        StudioError, match=r'transforms\.json: JSON syntax error at line 3, column \d+ \(.*\): "w": 16,,'
    ):
        load(tmp_path)
    (tmp_path / "transforms.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudioError, match="is text in UTF-16"):
        load(tmp_path)
    (tmp_path / "transforms.json").write_text("[1]")
    with pytest.raises(StudioError, match="the top level must be an object, got a list"):
        load(tmp_path)


def test_a_json_file_can_be_named_itself(transforms_scene):
    root = transforms_scene(3, name="other.json")
    assert len(load(root / "other.json").frames) == 3
