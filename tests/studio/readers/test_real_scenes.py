"""The readers on real data: conventions are proved by reprojecting what others measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from studio.errors import StudioError
from studio.readers import load_scene
from studio.readers.colmap import READER as COLMAP
from studio.readers.colmap_model import read_cameras, read_images, read_points
from studio.readers.registry import ReadOptions
from studio.scene import PhotoStore

pytestmark = pytest.mark.real_data


def _observations(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Photo name -> (pixels, point ids) from images.txt, for observations with a point."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = {}
    for head, row in zip(lines[::2], lines[1::2], strict=True):
        table = np.array(row.split(), dtype=np.float64).reshape(-1, 3)
        table = table[table[:, 2] >= 0]
        found[head.split()[9]] = (table[:, :2], table[:, 2].astype(int))
    return found


def _sample(image: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Bilinear colours (n, 3) at pixel coordinates (n, 2) of a picture (h, w, 3)."""
    size = torch.tensor([image.shape[1], image.shape[0]])
    grid = (2 * pixels / size - 1)[None, None]
    return torch.nn.functional.grid_sample(image.permute(2, 0, 1)[None], grid, align_corners=False)[0, :, 0].T


def test_lund_door_reprojects_within_the_reported_error(data_dir):
    root = data_dir / "lund_door"
    scene = COLMAP.read(root, ReadOptions())
    assert len(scene.frames) == 12
    lines = [line.split() for line in (root / "colmap_ground_truth/points3D.txt").read_text().splitlines()]
    points = {int(w[0]): ([float(v) for v in w[1:4]], float(w[7])) for w in lines if w[0] != "#"}
    errors: dict[int, list[float]] = {i: [] for i in points}
    observations = _observations(root / "colmap_ground_truth/images.txt")
    for frame in scene.frames:
        pixels, ids = observations[Path(frame.name).name]
        world = torch.tensor([points[i][0] for i in ids], dtype=torch.float64)
        projected, depth = frame.camera.project(world)
        assert bool((depth > 0).all())
        for i, error in zip(ids, np.linalg.norm(projected.numpy() - pixels, axis=1), strict=True):
            errors[int(i)].append(error)
    ours = np.array([np.mean(errors[i]) for i in points])
    reported = np.array([points[i][1] for i in points])
    # The file's error of a point is the mean over its observations; pixels are printed with 6 digits.
    np.testing.assert_allclose(ours, reported, atol=2e-2)
    assert abs(ours.mean() - reported.mean()) < 1e-3


def test_lund_door_agrees_with_pycolmap(data_dir):
    pycolmap = pytest.importorskip("pycolmap")
    folder = data_dir / "lund_door/colmap_ground_truth"
    theirs = pycolmap.Reconstruction(str(folder))
    cameras = read_cameras(folder / "cameras.txt")
    for i, camera in theirs.cameras.items():
        assert (cameras[i].width, cameras[i].height) == (camera.width, camera.height)
        assert cameras[i].model == camera.model.name
        np.testing.assert_allclose(cameras[i].params, camera.params)
    scene = COLMAP.read(data_dir / "lund_door", ReadOptions())
    frames = {Path(f.name).name: f.camera for f in scene.frames}
    xyz = np.array([p.xyz for p in theirs.points3D.values()])
    for image in theirs.images.values():
        local = image.cam_from_world() * xyz
        expected = theirs.cameras[image.camera_id].img_from_cam(local)
        pixels, depth = frames[image.name].project(torch.tensor(xyz))
        ahead = local[:, 2] > 0
        np.testing.assert_allclose(depth.numpy(), local[:, 2], rtol=1e-6, atol=1e-5)
        # The printed quaternions are of unit length to 5e-7 only; pycolmap does not make them exactly so.
        np.testing.assert_allclose(pixels.numpy()[ahead], expected[ahead], atol=2e-3)
    points = read_points(folder / "points3D.txt")
    assert sorted(map(tuple, points.xyz.tolist())) == sorted(tuple(p.xyz) for p in theirs.points3D.values())
    assert len(scene.points) == 11384


def test_lund_door_binary_and_text_agree(data_dir, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    folder = data_dir / "lund_door/colmap_ground_truth"
    pycolmap.Reconstruction(str(folder)).write_binary(str(tmp_path))
    text, binary = read_images(folder / "images.txt"), read_images(tmp_path / "images.bin")
    assert [i.name for i in text] == [i.name for i in binary]
    for a, b in zip(text, binary, strict=True):
        np.testing.assert_allclose(a.quaternion, b.quaternion, atol=1e-5)
        np.testing.assert_allclose(a.translation, b.translation, atol=1e-12)


def test_lund_door_normalised_and_undistorted(data_dir):
    scene = load_scene(data_dir / "lund_door")
    assert [Path(f.name).name for f in scene.split("test")] == ["DSC_0001.JPG", "DSC_0009.JPG"]
    centres = torch.stack([f.camera.camera_to_world[:3, 3] for f in scene.frames])
    assert float(centres.norm(dim=-1).max()) == pytest.approx(1, abs=1e-5)
    # The portal is what the cameras look at: the points lie about the origin.
    assert float(scene.points.xyz.median(dim=0).values.norm()) < 0.2
    photo = PhotoStore(scene.frames[:1], 8, undistort=True)[0]
    assert photo.camera.model == "pinhole"
    assert photo.camera.size == photo.size == (162, 242)
    # With barrel distortion and the same focal length the pinhole picture lies within the photo.
    assert bool(photo.mask.all())


def test_lund_door_undistorted_photo_fits_its_pinhole_camera(data_dir):
    scene = load_scene(data_dir / "lund_door")
    frames = scene.frames[2:3]
    original, straight = PhotoStore(frames, 2)[0], PhotoStore(frames, 2, undistort=True)[0]
    seen = straight.camera.sees(scene.points.xyz) & original.camera.sees(scene.points.xyz)
    points = scene.points.xyz[seen]

    def difference(photo, camera):
        return float(
            (_sample(photo.rgb, camera.project(points)[0]) - _sample(original.rgb, original.camera.project(points)[0]))
            .abs()
            .mean()
        )

    # The same points have the same colours in both pictures, if each is looked up with its own camera.
    own, other = difference(straight, straight.camera), difference(straight, original.camera)
    assert own < 0.01
    assert other > 3 * own


def test_fern_poses_intrinsics_and_points(data_dir):
    root = data_dir / "fern"
    scene = load_scene(root, normalize="none", eval_every=0)
    table = np.load(root / "poses_bounds.npy")
    assert [f.name for f in scene.frames] == [f"images_8/image{i:03d}.png" for i in range(20)]
    stated = read_cameras(root / "sparse/0/cameras.bin")[1]
    assert scene.points is not None
    for frame, row in zip(scene.frames, table, strict=True):
        camera, matrix = frame.camera, row[:15].reshape(3, 5)
        assert camera.size == (504, 378)
        assert camera.model == "opencv"
        assert float(camera.distortion[0]) == pytest.approx(stated.params[3])
        assert [float(v) for v in (camera.fx, camera.fy)] == pytest.approx([stated.params[0] / 8] * 2)
        assert [float(v) for v in (camera.cx, camera.cy)] == [252, 189]
        pose = camera.camera_to_world.numpy()
        for ours, theirs in ((0, matrix[:, 1]), (1, matrix[:, 0]), (2, -matrix[:, 2]), (3, matrix[:, 3])):
            np.testing.assert_allclose(pose[:3, ours], theirs, atol=1e-5)
        _, depth = camera.project(scene.points.xyz)
        seen = camera.sees(scene.points.xyz)
        # LLFF's bounds are the 0.1 and 99.9 % quantiles of the depths of the points that a photo observes.
        assert float((depth > 0).float().mean()) > 0.999
        assert float(seen.float().mean()) > 0.5
        assert float(depth[seen].quantile(0.001)) == pytest.approx(row[15], rel=0.25)
        assert float(depth[seen].quantile(0.999)) == pytest.approx(row[16], rel=0.25)


def test_fern_faces_forward(data_dir):
    scene = load_scene(data_dir / "fern")
    centres = torch.stack([f.camera.camera_to_world[:3, 3] for f in scene.frames])
    torch.testing.assert_close(centres.mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)
    assert [len(scene.split(s)) for s in ("train", "test")] == [17, 3]


def test_fern_points_have_the_colour_of_their_pixels(data_dir):
    scene = load_scene(data_dir / "fern")
    pinhole = load_scene(data_dir / "fern", ignore_distortion=True)
    expected = scene.points.rgb

    def correlation(frame, flip=False):
        photo = PhotoStore([frame])[0]
        seen = photo.camera.sees(scene.points.xyz)
        pixels, _ = photo.camera.project(scene.points.xyz[seen])
        grey = _sample(photo.rgb.flip(1) if flip else photo.rgb, pixels).mean(dim=-1)
        return float(torch.corrcoef(torch.stack([grey, expected[seen].mean(dim=-1)]))[0, 1])

    for i in (0, 7, 10, 19):
        found = correlation(scene.frames[i])
        assert found > 0.6
        assert correlation(scene.frames[i], flip=True) < 0.3
        # The photos are distorted as COLMAP says: without it the points miss their pixels by up to two.
        assert correlation(pinhole.frames[i]) < found - 0.03


def test_lego_explains_its_incomplete_test_split(data_dir):
    with pytest.raises(StudioError) as caught:
        load_scene(data_dir / "lego")
    message = str(caught.value)
    assert "transforms_test.json: the test split names absent photos (175 of 200" in message
    assert "--test-file transforms_test25.json" in message
    assert "\n" not in message


def test_lego_with_its_complete_test_file(data_dir):
    scene = load_scene(data_dir / "lego", test_file="transforms_test25.json")
    assert [len(scene.split(s)) for s in ("train", "val", "test")] == [100, 0, 25]
    assert "transforms_val.json: 100 of 100 photos are absent and left out (first: ./val/r_0)" in scene.notes
    assert [f.name for f in scene.split("test")][:3] == ["test/r_0.png", "test/r_8.png", "test/r_16.png"]
    document = json.loads((data_dir / "lego/transforms_train.json").read_text())
    for frame, stated in zip(scene.split("train"), document["frames"], strict=True):
        camera = frame.camera
        assert float(camera.fx) == pytest.approx(400 / np.tan(0.5 * document["camera_angle_x"]), rel=1e-6)
        # All of NeRF-synthetic's cameras look at the origin: it is in the middle of the picture, four units away.
        pixel, depth = camera.project(torch.zeros(3))
        torch.testing.assert_close(pixel, torch.full((2,), 400.0), atol=0.01, rtol=0)
        assert float(depth) == pytest.approx(4.031, abs=1e-3)
        # The picture's up is the world's: OpenCV's y axis points down.
        assert float(camera.camera_to_world[2, 1]) <= 1e-6
        np.testing.assert_allclose(
            camera.camera_to_world[:3, 3], np.array(stated["transform_matrix"])[:3, 3], atol=1e-5
        )


def test_lego_alpha_lies_within_the_bounds(data_dir):
    scene = load_scene(data_dir / "lego", test_file="transforms_test25.json")
    photo = PhotoStore(scene.split("test"), 8)[3]
    corners = torch.cartesian_prod(*scene.bounds.T)
    pixels, _ = photo.camera.project(corners)
    row, column = torch.nonzero(photo.alpha > 0.5, as_tuple=True)
    assert len(row) > 500
    assert pixels[:, 0].min() < column.min()
    assert column.max() < pixels[:, 0].max()
    assert pixels[:, 1].min() < row.min()
    assert row.max() < pixels[:, 1].max()
