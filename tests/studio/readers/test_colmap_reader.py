from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.readers import load_scene
from studio.readers.colmap_model import read_cameras, read_images, read_points

PARAMS = {
    "SIMPLE_PINHOLE": [20.0, 8.5, 6.5],
    "PINHOLE": [20.0, 21.0, 8.5, 6.5],
    "SIMPLE_RADIAL": [20.0, 8.5, 6.5, 0.05],
    "RADIAL": [20.0, 8.5, 6.5, 0.05, -0.01],
    "OPENCV": [20.0, 21.0, 8.5, 6.5, 0.05, -0.01, 0.002, -0.003],
    "FULL_OPENCV": [20.0, 21.0, 8.5, 6.5, 0.05, -0.01, 0.002, -0.003, 0.004, 0.01, 0.02, 0.03],
    "SIMPLE_RADIAL_FISHEYE": [20.0, 8.5, 6.5, 0.05],
    "RADIAL_FISHEYE": [20.0, 8.5, 6.5, 0.05, -0.01],
    "OPENCV_FISHEYE": [20.0, 21.0, 8.5, 6.5, 0.05, -0.01, 0.002, -0.003],
    "SIMPLE_FISHEYE": [20.0, 8.5, 6.5],
    "FISHEYE": [20.0, 21.0, 8.5, 6.5],
    "EQUIRECTANGULAR": [16.0, 12.0],
}

IDENTITY = [1.0, 0.0, 0.0, 0.0]


def pinhole_model(names, camera_id=1):
    """One camera and a row of photos beside each other."""
    cameras = [(camera_id, "PINHOLE", 16, 12, PARAMS["PINHOLE"])]
    images = [(i + 1, IDENTITY, [-0.1 * i, 0.2, 0.3], camera_id, name) for i, name in enumerate(names)]
    points = [(5, [0.0, 0.5, 4.0], [255, 0, 51], 0.5), (9, [1.0, -0.5, 5.0], [0, 102, 0], 1.5)]
    return cameras, images, points


def colmap_scene(root, write_colmap, write_photo, names=("b.png", "a.png", "c.png"), folder="sparse/0", **options):
    write_colmap(root / folder, *pinhole_model(names), **options)
    for name in names:
        write_photo(root / "images" / name)
    return root


@pytest.mark.parametrize("binary", [True, False])
def test_poses_points_and_intrinsics(tmp_path, write_colmap, write_photo, binary):
    scene = load_scene(colmap_scene(tmp_path, write_colmap, write_photo, binary=binary), normalize="none", eval_every=0)
    assert scene.format == "colmap"
    assert [f.name for f in scene.frames] == ["images/a.png", "images/b.png", "images/c.png"]
    camera = scene.frames[2].camera
    assert [float(v) for v in (camera.fx, camera.fy, camera.cx, camera.cy)] == [20, 21, 8.5, 6.5]
    # world_to_camera is (R, t) as stored, so the centre is -t.
    torch.testing.assert_close(camera.camera_to_world[:3, 3], torch.tensor([0.2, -0.2, -0.3]))
    torch.testing.assert_close(scene.points.xyz, torch.tensor([[0.0, 0.5, 4], [1, -0.5, 5]]))
    torch.testing.assert_close(scene.points.rgb, torch.tensor([[1, 0, 0.2], [0, 0.4, 0]]))


@pytest.mark.parametrize("model", PARAMS)
def test_every_lens_projects_as_colmap_does(tmp_path, write_photo, model):
    pycolmap = pytest.importorskip("pycolmap")
    if model not in pycolmap.CameraModelId.__members__:
        pytest.skip(f"this pycolmap does not know {model}")
    camera = pycolmap.Camera(model=model, width=16, height=12, params=PARAMS[model], camera_id=1)
    quaternion = np.array([0.9, 0.1, -0.3, 0.2]) / np.linalg.norm([0.9, 0.1, -0.3, 0.2])
    write_photo(tmp_path / "images/a.png")
    (tmp_path / "sparse").mkdir()
    (tmp_path / "sparse/cameras.txt").write_text(f"1 {model} 16 12 {' '.join(map(str, PARAMS[model]))}\n")
    (tmp_path / "sparse/images.txt").write_text(f"1 {' '.join(map(str, quaternion))} 0.3 -0.2 0.1 1 a.png\n\n")
    ours = load_scene(tmp_path, normalize="none").frames[0].camera.to(dtype=torch.float64)

    rng = np.random.default_rng(0)
    local = np.stack([rng.uniform(-0.5, 0.5, 50), rng.uniform(-0.4, 0.4, 50), rng.uniform(1, 3, 50)], axis=1)
    rotation = pycolmap.Rotation3d(quaternion[[1, 2, 3, 0]]).matrix()
    world = (local - [0.3, -0.2, 0.1]) @ rotation
    pixels, depth = ours.project(torch.tensor(world))
    # Ours went through float32.
    np.testing.assert_allclose(pixels.numpy(), camera.img_from_cam(local), atol=2e-5)
    if model != "EQUIRECTANGULAR":
        np.testing.assert_allclose(depth.numpy(), local[:, 2], atol=1e-5)


@pytest.mark.parametrize("model", ["FOV", "THIN_PRISM_FISHEYE"])
def test_other_lenses_are_refused_with_the_fix(tmp_path, write_photo, model):
    write_photo(tmp_path / "images/a.png")
    (tmp_path / "sparse").mkdir()
    (tmp_path / "sparse/cameras.txt").write_text(
        f"3 {model} 16 12 {' '.join(['0.1'] * (5 if model == 'FOV' else 12))}\n"
    )
    (tmp_path / "sparse/images.txt").write_text("1 1 0 0 0 0 0 0 3 a.png\n\n")
    with pytest.raises(StudioError, match=rf"cameras\.txt: camera 3 \({model}\).*colmap image_undistorter"):
        load_scene(tmp_path)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_binary_and_text_models_parse_alike(tmp_path, write_colmap, data):
    number = st.floats(-1e6, 1e6)
    models = data.draw(st.lists(st.sampled_from(["SIMPLE_PINHOLE", "PINHOLE", "OPENCV", "FULL_OPENCV"]), max_size=3))
    cameras = [
        (
            i + 1,
            m,
            data.draw(st.integers(1, 9999)),
            7,
            data.draw(st.lists(number, min_size=len(PARAMS[m]), max_size=len(PARAMS[m]))),
        )
        for i, m in enumerate(models)
    ]
    word = st.text("abc /_é.", min_size=1).filter(lambda s: s == s.strip())
    names = data.draw(st.lists(word, max_size=4, unique=True))
    vector = st.lists(number, min_size=3, max_size=3)
    images = [
        (i, data.draw(st.lists(number, min_size=4, max_size=4)), data.draw(vector), data.draw(st.integers(0, 9)), name)
        for i, name in enumerate(names)
    ]
    color = st.lists(st.integers(0, 255), min_size=3, max_size=3)
    points = [(i, data.draw(vector), data.draw(color), data.draw(number)) for i in range(data.draw(st.integers(0, 3)))]
    for binary in (True, False):
        folder = write_colmap(tmp_path / str(binary), cameras, images, points, binary=binary)
        suffix = "bin" if binary else "txt"
        parsed = read_cameras(folder / f"cameras.{suffix}")
        assert [(c.id, c.model, c.width, c.height, list(c.params)) for c in parsed.values()] == cameras
        found = {
            i.id: (i.id, list(i.quaternion), list(i.translation), i.camera_id, i.name)
            for i in read_images(folder / f"images.{suffix}")
        }
        assert [found[i] for i in range(len(images))] == images
        cloud = read_points(folder / f"points3D.{suffix}")
        assert cloud.xyz.tolist() == [p[1] for p in points]
        assert cloud.rgb.tolist() == [p[2] for p in points]
        assert cloud.error.tolist() == [p[3] for p in points]


def test_a_model_written_by_colmap(tmp_path, write_photo):
    pycolmap = pytest.importorskip("pycolmap")
    if not hasattr(pycolmap, "synthesize_dataset"):
        pytest.skip("this pycolmap cannot synthesize a model")
    options = pycolmap.SyntheticDatasetOptions()
    options.num_points3D = 20
    model = pycolmap.synthesize_dataset(options)
    (tmp_path / "sparse/0").mkdir(parents=True)
    model.write_binary(str(tmp_path / "sparse/0"))
    camera = next(iter(model.cameras.values()))
    for image in model.images.values():
        write_photo(tmp_path / "images" / image.name, (camera.width, camera.height))
    scene = load_scene(tmp_path, normalize="none", eval_every=0)
    assert len(scene.frames) == len(model.images)
    assert sorted(map(tuple, scene.points.xyz.numpy().round(4).tolist())) == sorted(
        tuple(np.float32(p.xyz).round(4).tolist()) for p in model.points3D.values()
    )
    by_name = {f.name: f.camera for f in scene.frames}
    for image in model.images.values():
        ours = by_name[f"images/{image.name}"].to(dtype=torch.float64)
        observed = [(p.xy, model.points3D[p.point3D_id].xyz) for p in image.points2D if p.has_point3D()]
        assert observed
        pixels, _ = ours.project(torch.tensor(np.array([xyz for _, xyz in observed])))
        # Synthetic observations are exact; the tolerance is float32's at about 1000 pixels.
        np.testing.assert_allclose(pixels.numpy(), np.array([xy for xy, _ in observed]), atol=5e-3)


def test_largest_submodel_is_used(tmp_path, write_colmap, write_photo):
    names = [f"{i}.png" for i in range(5)]
    write_colmap(tmp_path / "sparse/0", *pinhole_model(names[:2]))
    write_colmap(tmp_path / "sparse/1", *pinhole_model(names), binary=False)
    write_colmap(tmp_path / "sparse/10", *pinhole_model(names[:3]))
    for name in names:
        write_photo(tmp_path / "images" / name)
    scene = load_scene(tmp_path)
    assert len(scene.frames) == 5
    assert any(
        "3 submodels" in n and "sparse/0 (2), sparse/1 (5), sparse/10 (3)" in n and "sparse/1, is used" in n
        for n in scene.notes
    )
    assert len(load_scene(tmp_path, model="sparse/10").frames) == 3
    with pytest.raises(StudioError, match=r"sparse/7: not a COLMAP model.*--colmap-model"):
        load_scene(tmp_path, model="sparse/7")


@pytest.mark.parametrize("folder", ["sparse", "colmap/sparse/0", ".", "truth"])
def test_model_in_other_places(tmp_path, write_colmap, write_photo, folder):
    assert len(load_scene(colmap_scene(tmp_path, write_colmap, write_photo, folder=folder)).frames) == 3


def test_photos_in_numbered_folders_and_other_endings(tmp_path, write_colmap, write_photo):
    write_colmap(tmp_path / "sparse/0", *pinhole_model(["x/a.JPG", "x/b.JPG"]))
    for name in ("images_4/x/a.png", "images_4/x/b.png", "images_2/x/a.jpg", "images_2/x/b.jpg"):
        write_photo(tmp_path / name, (8, 6) if "_2" in name else (4, 3))
    scene = load_scene(tmp_path)
    assert scene.frames[0].name == "images_2/x/a.jpg"
    assert float(scene.frames[0].camera.fx) == 10
    assert "photos are read from images_2, as there is no folder images" in scene.notes
    scene = load_scene(tmp_path, images="images_4")
    assert [float(v) for v in (scene.frames[0].camera.fx, scene.frames[0].camera.cx)] == [5, 8.5 / 4]


def test_photos_named_relative_to_the_scene_folder(tmp_path, write_colmap, write_photo):
    write_colmap(tmp_path / "sparse/0", *pinhole_model(["left/a.png", "right/a.png"]))
    write_photo(tmp_path / "left/a.png")
    write_photo(tmp_path / "right/a.png")
    assert [f.name for f in load_scene(tmp_path).frames] == ["left/a.png", "right/a.png"]


def test_masks_folder(tmp_path, write_colmap, write_photo):
    root = colmap_scene(tmp_path, write_colmap, write_photo)
    write_photo(root / "masks/a.png.png", mode="L")
    write_photo(root / "masks/b.png", mode="L")
    scene = load_scene(root, eval_every=0)
    assert [f.mask_path and f.mask_path.name for f in scene.frames] == ["a.png.png", "b.png", None]
    assert "2 of 3 photos have a mask" in scene.notes
    with pytest.raises(StudioError, match="other: there is no such folder of masks"):
        load_scene(root, masks="other")


def test_model_without_photos(tmp_path, write_colmap, write_photo):
    root = write_colmap(tmp_path / "sparse/0", *pinhole_model(["a.png", "b.png"])).parents[1]
    with pytest.raises(StudioError, match="there is no folder 'images' or 'images_N' with the photos"):
        load_scene(root)
    write_photo(root / "images/other.png")
    with pytest.raises(StudioError, match=r"images: holds none of the 2 photos of the model .*first: a\.png"):
        load_scene(root)
    write_photo(root / "images/b.png")
    assert "images.bin: 1 of 2 photos is absent and left out (first: a.png)" in load_scene(root).notes


def test_incomplete_model_is_named(tmp_path, write_colmap, write_photo):
    root = colmap_scene(tmp_path, write_colmap, write_photo)
    (root / "sparse/0/images.bin").unlink()
    with pytest.raises(StudioError, match=r"sparse/0 is a COLMAP model without images\.bin or images\.txt"):
        load_scene(root)
    with pytest.raises(StudioError, match=r"no COLMAP model with cameras and images"):
        load_scene(root, format="colmap")


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_truncated_binary_files(tmp_path, write_colmap, write_photo, name):
    root = colmap_scene(tmp_path, write_colmap, write_photo)
    path = root / f"sparse/0/{name}.bin"
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(StudioError, match=rf"{name}\.bin"):
            load_scene(root, format="colmap")


def test_unknown_model_number(tmp_path, write_colmap, write_photo):
    root = colmap_scene(tmp_path, write_colmap, write_photo)
    path = root / "sparse/0/cameras.bin"
    data = bytearray(path.read_bytes())
    data[12] = 99
    path.write_bytes(bytes(data))
    with pytest.raises(StudioError, match="camera 1 has the unknown model number 99"):
        load_scene(root)


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        (
            "cameras.txt",
            "1 PINHOLE 16",
            r"cameras\.txt: line 2 is not 'CAMERA_ID MODEL WIDTH HEIGHT PARAMS': 1 PINHOLE 16",
        ),
        ("cameras.txt", "1 PINHOLE 16 12 20 20 8", "line 2: PINHOLE has 4 parameters, got 3"),
        ("cameras.txt", "1 PINHOLE 16 12 -20 20 8 6", r"camera 1 \(PINHOLE\): the focal length -20 must be above zero"),
        ("cameras.txt", "1 PINHOLE 16 12 20 20 nan 6", "has a parameter that is NaN"),
        ("cameras.txt", "1 PINHOLE 0 12 20 20 8 6", "the size 0x12 must be 1 to"),
        ("cameras.txt", "2 PINHOLE 16 12 20 20 8 6", r"image 1 \(a\.png\): there is no camera 1 in cameras\.txt"),
        ("images.txt", "1 1 0 0 0 0 0 x 1 a.png", "images.txt: line 2 is not 'IMAGE_ID QW"),
        ("images.txt", "1 1 0 0 0 0 0 1 a.png", "images.txt: line 2 is not 'IMAGE_ID QW"),
        ("images.txt", "1 1 1 0 0 0 0 0 1 a.png", r"image 1 \(a\.png\): its quaternion has length 1\.41"),
        ("images.txt", "1 nan 0 0 0 0 0 0 1 a.png", "its quaternion has length nan"),
        ("images.txt", "1 1 0 0 0 0 nan 0 1 a.png", r"image 1 \(a\.png\) has nan in row 1, column 3"),
        ("images.txt", "", r"images\.txt: the model has no registered photos"),
        ("points3D.txt", "1 0 0 0 0 0 0", "points3D.txt: line 2 is not 'POINT3D_ID"),
    ],
)
def test_malformed_text_files(tmp_path, write_colmap, write_photo, file, line, message):
    root = colmap_scene(tmp_path, write_colmap, write_photo, names=("a.png",), binary=False)
    (root / "sparse/0" / file).write_text(f"# comment\n{line}\n\n")
    with pytest.raises(StudioError, match=message):
        load_scene(root)


def test_photo_turned_by_exif(tmp_path, write_colmap, write_photo):
    root = colmap_scene(tmp_path, write_colmap, write_photo)
    write_photo(root / "images/b.png", (12, 16))
    with pytest.raises(StudioError, match=r"b\.png: the photo is 12x16, but cameras\.bin states 16x12.*EXIF"):
        load_scene(root)


def test_cameras_pass_their_own_check(tmp_path, write_colmap, write_photo):
    scene = load_scene(colmap_scene(tmp_path, write_colmap, write_photo))
    Cameras.stack([f.camera for f in scene.frames]).check(source="test")
