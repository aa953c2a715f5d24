"""The batched camera: projecting, rays, resizing, batches, and judging bad values."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from studio.cameras import CAMERA_MODELS, CameraModel, Cameras, Similarity, pixel_centres
from studio.cameras.poses import se3_exp, so3_exp, transform_points
from studio.errors import StudioError

BATCHES = [(), (1,), (3,), (2, 3), (0,)]

# Real lenses: mild, strong barrel, rational with tangential, fish eyes from calibrations of wide lenses.
LENSES: dict[CameraModel, list[list[float] | None]] = {
    "pinhole": [None],
    "opencv": [
        None,
        [0.12, -0.03, 0.001, -0.002],
        [-0.28, 0.09, 5e-4, 1e-3, -0.012],
        [0.3, 0.05, 1e-3, 2e-3, 0.01, 0.25, 0.04, 0.002],
    ],
    "fisheye": [None, [0.05, -0.01, 0.003, -0.0006], [-0.04, 0.012, -0.008, 0.0015]],
    "equirectangular": [None],
    "orthographic": [None],
}


def make_cameras(
    model: CameraModel,
    batch: tuple[int, ...] = (),
    *,
    distortion: list[float] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Cameras:
    """Cameras of 64x48 pixels (equirectangular 96x48) somewhere within a few units of the origin."""
    generator = torch.Generator().manual_seed(seed)
    poses = se3_exp(torch.randn(*batch, 6, generator=generator, dtype=torch.float64)).to(dtype)
    if model == "equirectangular":
        return Cameras.make(poses, width=96, height=48, fx=48.0, fy=48.0, model=model)
    fx, fy = (12.0, 11.0) if model == "orthographic" else (52.0, 50.0)
    return Cameras.make(poses, width=64, height=48, fx=fx, fy=fy, cx=33.2, cy=22.7, model=model, distortion=distortion)


lenses = st.sampled_from([(m, k) for m, rows in LENSES.items() for k in rows])
batches = st.sampled_from([(), (1,), (3,), (2, 3)])
seeds = st.integers(0, 2**31)


def random_pixels(cameras: Cameras, extra: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(*cameras.shape, *extra, 2, generator=generator, dtype=torch.float64)
    return (unit * torch.tensor(cameras.size)).to(cameras.dtype)


@given(lens=lenses, batch=batches, extra=st.sampled_from([(), (7,), (2, 5)]), seed=seeds)
@settings(deadline=None, max_examples=60)
def test_project_undoes_unproject(lens, batch, extra, seed) -> None:
    model, distortion = lens
    cameras = make_cameras(model, batch, distortion=distortion, seed=seed)
    pixels = random_pixels(cameras, extra, seed)
    depth = 0.2 + 9 * torch.rand((*batch, *extra), dtype=torch.float64)
    points = cameras.unproject(pixels, depth)
    again, depth_again = cameras.project(points)
    assert points.shape == (*batch, *extra, 3)
    torch.testing.assert_close(again, pixels, atol=1e-9, rtol=0)
    torch.testing.assert_close(depth_again, depth, atol=1e-11, rtol=1e-11)
    assert bool(cameras.sees(points).all())


@given(lens=lenses, batch=batches, seed=seeds)
@settings(deadline=None, max_examples=40)
def test_unproject_undoes_project(lens, batch, seed) -> None:
    """For points that the camera sees, wherever they lie."""
    model, distortion = lens
    cameras = make_cameras(model, batch, distortion=distortion, seed=seed)
    points = 4 * torch.randn(*batch, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    seen = cameras.sees(points)
    pixels, depth = cameras.project(points)
    away = depth.abs() > 1e-3  # z-depth says nothing about a fisheye's rays at 90 degrees
    back = cameras.unproject(pixels, depth)
    torch.testing.assert_close(back[seen & away], points[seen & away], atol=1e-7, rtol=1e-7)


@given(lens=lenses, batch=batches, seed=seeds)
@settings(deadline=None, max_examples=20)
def test_rays_hit_what_they_project(lens, batch, seed) -> None:
    model, distortion = lens
    cameras = make_cameras(model, batch, distortion=distortion, seed=seed)
    rays = cameras.rays()
    width, height = cameras.size
    assert rays.shape == (*batch, height, width)
    torch.testing.assert_close(rays.directions.norm(dim=-1), torch.ones(rays.shape, dtype=torch.float64))
    for distance in (0.3, 40.0):
        pixels, depth = cameras.project(rays.at(torch.full(rays.shape, distance, dtype=torch.float64)))
        expected = pixel_centres(width, height, dtype=torch.float64).expand_as(pixels)
        torch.testing.assert_close(pixels, expected, atol=1e-8, rtol=0)
        torch.testing.assert_close(depth, distance * rays.depth_scale, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("model", CAMERA_MODELS)
@pytest.mark.parametrize("batch", BATCHES)
def test_float32_loses_less_than_a_thousandth_of_a_pixel(model, batch) -> None:
    cameras = make_cameras(model, batch, distortion=LENSES[model][-1], dtype=torch.float32)
    if 0 in batch:
        pixels = torch.zeros(*batch, 5, 2)
    else:
        pixels = random_pixels(cameras, (5,), 3)
    points = cameras.unproject(pixels, torch.full(pixels.shape[:-1], 3.0))
    again, depth = cameras.project(points)
    assert again.dtype == depth.dtype == torch.float32
    torch.testing.assert_close(again, pixels, atol=1e-3, rtol=0)


@given(lens=lenses, batch=batches, seed=seeds, width=st.integers(1, 200), height=st.integers(1, 200))
@settings(deadline=None, max_examples=40)
def test_rescaling_commutes_with_projecting(lens, batch, seed, width, height) -> None:
    model, distortion = lens
    cameras = make_cameras(model, batch, distortion=distortion, seed=seed)
    points = 3 * torch.randn(*batch, 9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    pixels, depth = cameras.project(points)
    old = torch.tensor(cameras.size, dtype=torch.float64)
    scaled = cameras.rescale((width, height))
    again, depth_again = scaled.project(points)
    torch.testing.assert_close(again, pixels * torch.tensor([width, height]) / old, atol=1e-9, rtol=1e-11)
    torch.testing.assert_close(depth_again, depth)
    assert scaled.size == (width, height)


@given(lens=lenses, batch=batches, seed=seeds, left=st.integers(-20, 60), top=st.integers(-20, 40))
@settings(deadline=None, max_examples=40)
def test_cropping_commutes_with_projecting(lens, batch, seed, left, top) -> None:
    model, distortion = lens
    cameras = make_cameras(model, batch, distortion=distortion, seed=seed)
    window = cameras.crop(left, top, 11, 7)
    rays = window.rays()
    shifted = pixel_centres(11, 7, dtype=torch.float64) + torch.tensor([left, top])
    expected = cameras.rays(shifted.expand(*batch, 7, 11, 2))
    torch.testing.assert_close(rays.directions, expected.directions)
    torch.testing.assert_close(rays.origins, expected.origins)
    assert window.size == (11, 7)


def test_rescale_by_a_factor_rounds_the_size_and_scales_by_the_ratio_of_sizes() -> None:
    camera = Cameras.make(torch.eye(4, dtype=torch.float64), width=101, height=50, fx=100.0, fy=90.0, cx=50.5, cy=20.0)
    half = camera.rescale(0.5)
    assert half.size == (51, 25)  # 50.5 rounds up
    assert float(half.fx) == pytest.approx(100 * 51 / 101, rel=1e-15)
    assert float(half.cx) == pytest.approx(51 / 2, rel=1e-15)  # the middle stays the middle
    assert float(half.fy) == 45.0
    assert float(half.cy) == 10.0
    with pytest.raises(ValueError, match="positive"):
        camera.rescale(0.0)
    with pytest.raises(ValueError, match="positive"):
        camera.crop(0, 0, 0, 5)


def test_for_size_keeps_pixels_square_and_the_middle_in_the_middle() -> None:
    camera = Cameras.make(torch.eye(4, dtype=torch.float64), width=400, height=300, fx=300.0, cx=210.0, cy=140.0)
    wide = camera.for_size(800, 300)  # twice the width: scale 2, of 600 rows the middle 300
    assert wide.size == (800, 300)
    assert float(wide.fx) == float(wide.fy) == 600.0
    assert float(wide.cx) == 420.0
    assert float(wide.cy) == 280.0 - 150.0


# ------------------------------------------------------------------ by hand


def test_pinhole_by_hand() -> None:
    """Camera at (1, 2, 3) that looks along world +x, with world -z downwards in the picture."""
    pose = torch.tensor([[0.0, 0, 1, 1], [-1, 0, 0, 2], [0, -1, 0, 3], [0, 0, 0, 1]], dtype=torch.float64)
    camera = Cameras.make(pose, width=640, height=480, fx=500.0, fy=400.0, cx=320.0, cy=240.0)
    # 10 ahead, 1 to the right (world -y), 2 down (world -z).
    pixels, depth = camera.project(torch.tensor([11.0, 1.0, 1.0], dtype=torch.float64))
    assert pixels.tolist() == [320 + 500 / 10, 240 + 400 * 2 / 10]
    assert float(depth) == 10.0
    assert camera.origins.tolist() == [1, 2, 3]
    assert camera.forward.tolist() == [1, 0, 0]
    assert camera.up.tolist() == [0, 0, 1]
    rays = camera.rays(torch.tensor([820.0, 240.0], dtype=torch.float64))  # 45 degrees to the right
    torch.testing.assert_close(rays.directions, torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64) / math.sqrt(2))
    assert float(rays.depth_scale) == pytest.approx(math.sqrt(0.5), rel=1e-15)
    k = camera.intrinsics @ transform_points(camera.world_to_camera, torch.tensor([11.0, 1, 1], dtype=torch.float64))
    assert (k[:2] / k[2]).tolist() == pixels.tolist()


def test_opencv_by_hand() -> None:
    """x = 0.5, y = 0.25: r2 = 5/16, each term worked out in fractions."""
    camera = Cameras.make(
        torch.eye(4, dtype=torch.float64), width=200, height=200, fx=100.0, cx=0.0, cy=0.0, model="opencv",
        distortion=[0.16, 0.256, 0.01, 0.02, 0.0, 0.32],
    )  # fmt: skip
    pixels, _ = camera.project(torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64))
    radial = (1 + 0.05 + 0.025) / (1 + 0.1)  # k1 r2 = 0.05, k2 r4 = 0.025, k4 r2 = 0.1
    x = 0.5 * radial + 2 * 0.01 * 0.125 + 0.02 * (0.3125 + 0.5)
    y = 0.25 * radial + 0.01 * (0.3125 + 0.125) + 2 * 0.02 * 0.125
    assert pixels.tolist() == pytest.approx([100 * x, 100 * y], rel=1e-14)


def test_fisheye_by_hand() -> None:
    """60 degrees off the axis, in the direction (3, 4)/5 of the picture."""
    theta = math.pi / 3
    camera = Cameras.make(
        torch.eye(4, dtype=torch.float64), width=200, height=200, fx=100.0, fy=50.0, cx=7.0, cy=9.0, model="fisheye",
        distortion=[0.1, -0.02, 0.003, -0.0004],
    )  # fmt: skip
    point = torch.tensor([0.6 * math.sin(theta), 0.8 * math.sin(theta), math.cos(theta)], dtype=torch.float64)
    pixels, depth = camera.project(5 * point)
    bent = theta + 0.1 * theta**3 - 0.02 * theta**5 + 0.003 * theta**7 - 0.0004 * theta**9
    assert pixels.tolist() == pytest.approx([7 + 60 * bent, 9 + 40 * bent], rel=1e-14)
    assert float(depth) == pytest.approx(2.5)
    # Without coefficients the distance from the principal point is the angle itself, beyond 90 degrees too.
    plain = replace(camera, distortion=None)
    behind, depth = plain.project(torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64))
    assert behind.tolist() == pytest.approx([7 + 100 * 0.75 * math.pi, 9])
    assert float(depth) == -1.0
    assert plain.project(torch.tensor([0.0, 0, 4], dtype=torch.float64))[0].tolist() == [7, 9]


def test_equirectangular_by_hand() -> None:
    """Centre forwards, quarter of the width is 90 degrees, the top row is straight up, depth is distance."""
    camera = Cameras.make(
        torch.eye(4, dtype=torch.float64), width=200, height=100, fx=100.0, fy=100.0, model="equirectangular"
    )
    points = torch.tensor(
        [[0.0, 0, 2], [3, 0, 0], [-3, 0, 0], [0, -5, 0], [0, 4, 0], [1, 0, -1e-9], [1, math.sqrt(2), 1]],
        dtype=torch.float64,
    )
    pixels, depth = camera.project(points)
    expected = [[100, 50], [150, 50], [50, 50], [100, 0], [100, 100], [150, 50], [125, 75]]
    torch.testing.assert_close(pixels, torch.tensor(expected, dtype=torch.float64), atol=1e-6, rtol=0)
    assert depth.tolist() == pytest.approx([2, 3, 3, 5, 4, 1, 2])
    assert bool(camera.sees(points).all())


def test_orthographic_by_hand() -> None:
    camera = Cameras.make(
        torch.eye(4, dtype=torch.float64), width=100, height=80, fx=10.0, fy=20.0, model="orthographic"
    )
    pixels, depth = camera.project(torch.tensor([[1.5, -1.0, 7.0], [1.5, -1.0, 70.0]], dtype=torch.float64))
    assert pixels.tolist() == [[65, 20], [65, 20]]
    assert depth.tolist() == [7, 70]
    rays = camera.rays(torch.tensor([65.0, 20.0], dtype=torch.float64))
    assert rays.origins.tolist() == [1.5, -1, 0]
    assert rays.directions.tolist() == [0, 0, 1]


# ------------------------------------------------- against COLMAP's own models


@pytest.mark.parametrize(
    ("colmap_model", "model", "colmap_tail", "distortion"),
    [
        ("OPENCV", "opencv", [-0.21, 0.06, 8e-4, -1.1e-3], [-0.21, 0.06, 8e-4, -1.1e-3]),
        (
            "FULL_OPENCV",
            "opencv",
            [0.31, -0.05, 1e-3, 7e-4, 0.012, 0.22, 0.03, 0.004],
            [0.31, -0.05, 1e-3, 7e-4, 0.012, 0.22, 0.03, 0.004],
        ),
        ("OPENCV_FISHEYE", "fisheye", [0.03, -0.012, 0.004, -0.0007], [0.03, -0.012, 0.004, -0.0007]),
        ("PINHOLE", "pinhole", [], None),
    ],
)
def test_models_agree_with_colmap(colmap_model, model, colmap_tail, distortion) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    theirs = pycolmap.Camera(
        model=colmap_model, width=1296, height=864, params=[900.0, 880.0, 640.5, 430.25, *colmap_tail]
    )
    ours = Cameras.make(
        torch.eye(4, dtype=torch.float64), width=1296, height=864, fx=900.0, fy=880.0, cx=640.5, cy=430.25,
        model=model, distortion=distortion,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(200, 2, generator=generator, dtype=torch.float64) * torch.tensor([1296.0, 864.0])
    points = ours.unproject(pixels, torch.full((200,), 2.0, dtype=torch.float64))
    projected = torch.as_tensor(theirs.img_from_cam(points.numpy()))
    torch.testing.assert_close(projected, pixels, atol=1e-7, rtol=0)
    flat = torch.as_tensor(theirs.cam_from_img(pixels.numpy()))
    torch.testing.assert_close(flat[:, :2], points[:, :2] / 2, atol=1e-6, rtol=0)  # COLMAP stops at 1e-10 or so


# --------------------------------------------------------------------- sees


def test_sees_only_what_is_in_front_and_inside() -> None:
    camera = Cameras.make(torch.eye(4), width=100, height=100, fx=100.0)
    points = torch.tensor([[0.0, 0, 1], [0, 0, -1], [0.49, 0, 1], [0.51, 0, 1], [0.0, 0, 0]])
    assert camera.sees(points).tolist() == [True, False, True, False, False]
    assert all(bool(t.isfinite().all()) for t in camera.project(points))


def test_sees_rejects_points_that_distortion_folds_into_the_picture() -> None:
    """With k1 = -0.3 the radius r (1 - 0.3 r^2) turns at r = 1.054 and comes back to 0 at 1.826."""
    camera = Cameras.make(
        torch.eye(4, dtype=torch.float64), width=200, height=200, fx=100.0, model="opencv", distortion=[-0.3]
    )
    points = torch.tensor([[1.0, 0, 1], [1.06, 0, 1], [1.8, 0, 1]], dtype=torch.float64)
    pixels, _ = camera.project(points)
    assert bool(((pixels >= 0) & (pixels <= 200)).all())  # all land in the picture
    assert camera.sees(points).tolist() == [True, False, False]


def test_rays_of_pixels_that_no_light_reaches_are_marked() -> None:
    """The same lens: nothing projects further out than 0.7027 (r = 1.054) from the principal point."""
    camera = Cameras.make(
        torch.eye(4, dtype=torch.float64), width=200, height=200, fx=100.0, model="opencv", distortion=[-0.3]
    )
    limit = math.sqrt(1 / 0.9) * (1 - 0.3 / 0.9)
    columns = [100.0, 100 + 100 * (limit - 1e-6), 100 + 100 * (limit + 1e-6), 200.0]
    pixels = torch.tensor([[column, 100.0] for column in columns], dtype=torch.float64)
    rays = camera.rays(pixels)
    assert rays.valid is not None
    assert rays.valid.tolist() == [True, True, False, False]
    assert bool(rays.directions.isfinite().all())


# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_gradients_reach_poses_intrinsics_and_distortion(model) -> None:
    base = make_cameras(model, (2,), distortion=LENSES[model][-1])
    points = base.unproject(random_pixels(base, (3,), 5), torch.full((2, 3), 2.0, dtype=torch.float64))
    pixels = random_pixels(base, (3,), 6)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        camera = replace(base, camera_to_world=inputs[0], fx=inputs[1], cy=inputs[2])
        if len(inputs) > 3:
            camera = replace(camera, distortion=inputs[3])
        rays = camera.rays(pixels)
        return (*camera.project(points), rays.directions, rays.origins)

    inputs = [base.camera_to_world, base.fx, base.cy] + ([] if base.distortion is None else [base.distortion])
    assert torch.autograd.gradcheck(run, [t.clone().requires_grad_() for t in inputs], atol=1e-5)


@pytest.mark.parametrize("model", CAMERA_MODELS)
def test_gradients_on_the_optical_axis_are_finite(model) -> None:
    camera = make_cameras(model, distortion=LENSES[model][-1]).with_poses(torch.eye(4, dtype=torch.float64))
    point = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    centre = torch.stack([camera.cx, camera.cy]).clone().requires_grad_()
    pixels, depth = camera.project(point)
    rays = camera.rays(centre)
    (pixels.sum() + depth + rays.directions.sum() + rays.origins.sum() + 0 * centre.sum()).backward()
    assert bool(point.grad.isfinite().all())
    assert bool(centre.grad.isfinite().all())


# --------------------------------------------------------------------- batches


def test_indexing_follows_tensors() -> None:
    cameras = make_cameras("opencv", (4, 3), distortion=[0.1])
    poses = cameras.camera_to_world
    for index in (0, -1, slice(1, 3), (slice(None), 1), None, torch.tensor([2, 0]), [3, 1], (1, 2)):
        assert torch.equal(cameras[index].camera_to_world, poses[index])
    assert torch.equal(cameras[..., 2].camera_to_world, poses[:, 2])
    mask = torch.zeros(4, 3, dtype=torch.bool)
    mask[1, 2] = mask[3, 0] = True
    assert cameras[mask].shape == (2,)
    assert torch.equal(cameras[mask].camera_to_world[1], poses[3, 0])
    assert len(cameras) == 4
    assert [c.shape for c in cameras] == [(3,)] * 4
    assert cameras.reshape(2, -1).shape == (2, 6)
    assert torch.equal(cameras.reshape(-1)[5].camera_to_world, poses[1, 2])
    with pytest.raises(IndexError):
        cameras[4]
    with pytest.raises(TypeError):
        len(cameras[0, 0])


def test_stack_and_cat() -> None:
    cameras = [make_cameras("opencv", (3,), distortion=k, seed=i) for i, k in enumerate([None, [0.1, 0.02]])]
    stacked = Cameras.stack(cameras)
    assert stacked.shape == (2, 3)
    assert Cameras.stack(cameras, dim=-1).shape == (3, 2)
    assert Cameras.cat(cameras).shape == (6,)
    assert torch.equal(stacked[1].camera_to_world, cameras[1].camera_to_world)
    # A missing distortion in company becomes zeros.
    assert torch.equal(stacked.distortion[0], torch.zeros(3, 8, dtype=torch.float64))
    assert stacked.distortion[1, 2, :2].tolist() == [0.1, 0.02]
    with pytest.raises(StudioError, match="fisheye, pinhole"):
        Cameras.stack([make_cameras("pinhole"), make_cameras("fisheye")])
    with pytest.raises(ValueError, match="empty"):
        Cameras.stack([])


def test_cameras_of_different_sizes_share_a_batch() -> None:
    eye = torch.eye(4)
    cameras = Cameras.stack([Cameras.make(eye, width=w, height=h, fx=50.0) for w, h in [(40, 30), (80, 60)]])
    assert cameras.width.tolist() == [40, 80]
    point = torch.tensor([[0.5, 0.0, 1.0]]).expand(2, 3)
    assert cameras.sees(point).tolist() == [False, True]
    half = cameras.rescale(0.5)
    assert half.width.tolist() == [20, 40]
    with pytest.raises(ValueError, match="different sizes"):
        cameras.rays()
    assert cameras.rays(torch.zeros(2, 5, 2)).shape == (2, 5)


def test_one_camera_a_ray() -> None:
    """How a trainer draws pixels from many photos at once."""
    cameras = make_cameras("opencv", (6,), distortion=[-0.2, 0.05])
    photo = torch.tensor([5, 0, 0, 3])
    pixels = torch.tensor([[1.5, 2.5], [10.5, 7.5], [33.2, 22.7], [60.5, 40.5]], dtype=torch.float64)
    rays = cameras[photo].rays(pixels)
    for i in range(4):
        alone = cameras[int(photo[i])].rays(pixels[i])
        torch.testing.assert_close(rays.directions[i], alone.directions)
        torch.testing.assert_close(rays.origins[i], alone.origins)
    assert rays[1:3].shape == (2,)
    assert rays.reshape(2, 2).directions.shape == (2, 2, 3)


def test_points_may_be_shared_by_the_batch() -> None:
    cameras = make_cameras("pinhole", (3,))
    points = torch.randn(7, 3, dtype=torch.float64)
    pixels, _ = cameras.project(points[None])
    assert pixels.shape == (3, 7, 2)
    torch.testing.assert_close(pixels[2], cameras[2].project(points)[0])
    with pytest.raises(ValueError, match=r"points must have shape"):
        cameras.project(points)
    with pytest.raises(ValueError, match=r"pixels must have shape"):
        cameras.rays(torch.zeros(3, 7, 3))


def test_to_changes_floats_only() -> None:
    cameras = make_cameras("fisheye", (2,), distortion=[0.1]).to(dtype=torch.float32)
    assert cameras.dtype == torch.float32
    assert cameras.distortion.dtype == torch.float32
    assert cameras.width.dtype == torch.int64
    assert cameras.rays().to(dtype=torch.float64).origins.dtype == torch.float64


def test_from_fov() -> None:
    camera = Cameras.from_fov(torch.eye(4, dtype=torch.float64), width=800, height=600, fov_x=math.pi / 2)
    assert float(camera.fx) == float(camera.fy) == pytest.approx(400)
    assert (float(camera.cx), float(camera.cy)) == (400, 300)
    tall = Cameras.from_fov(torch.eye(4, dtype=torch.float64), width=800, height=600, fov_y=math.pi / 2)
    assert float(tall.fx) == pytest.approx(300)
    with pytest.raises(ValueError, match="exactly one"):
        Cameras.from_fov(torch.eye(4), width=8, height=6)
    with pytest.raises(ValueError, match="between 0 and pi"):
        Cameras.from_fov(torch.eye(4), width=8, height=6, fov_x=math.pi)


@given(lens=lenses, seed=seeds, scale=st.floats(0.1, 10))
@settings(deadline=None, max_examples=25)
def test_a_camera_that_moves_with_the_world_sees_the_same(lens, seed, scale) -> None:
    model, distortion = lens
    camera = make_cameras(model, distortion=distortion, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    turn, shift, *points = torch.randn(22, 3, dtype=torch.float64, generator=generator)
    change = Similarity(scale, so3_exp(turn), shift)
    points = torch.stack(points)
    pixels, depth = camera.project(points)
    again, scaled_depth = camera.transformed(change).project(change.points(points))
    ahead = depth.abs() > 0.05
    torch.testing.assert_close(again[ahead], pixels[ahead], atol=1e-6, rtol=1e-9)
    torch.testing.assert_close(scaled_depth, scale * depth)


# -------------------------------------------------------------------- validity


def test_constructor_checks_shapes() -> None:
    good = make_cameras("pinhole", (2,))
    for field, value, message in [
        ("camera_to_world", torch.zeros(2, 3, 4), r"camera_to_world must have shape"),
        ("fx", torch.ones(3), r"fx must have shape \(2,\), got \(3,\)"),
        ("width", torch.ones(2), "width must be int64"),
        ("distortion", torch.zeros(2, 4), "distortion must have shape"),
        ("distortion", torch.zeros(2, 8), "'pinhole' has no distortion"),
        ("model", "fish", "model must be one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            replace(good, **{field: value})


def broken(field: str, index: tuple[int, ...], value: float) -> Cameras:
    cameras = make_cameras("opencv", (3,), distortion=[0.1])
    changed = getattr(cameras, field).clone()
    changed[(1, *index)] = value
    return replace(cameras, **{field: changed})


@pytest.mark.parametrize(
    ("field", "index", "value", "words"),
    [
        ("camera_to_world", (0, 3), math.nan, "NaN or infinite"),
        ("camera_to_world", (0, 0), math.inf, "NaN or infinite"),
        ("camera_to_world", (0, 0), 3.0, "is not a rotation"),
        ("camera_to_world", (3, 0), 1.0, "0 0 0 1"),
        ("fx", (), -500.0, r"positive number of pixels \(got -500\)"),
        ("fy", (), 0.0, "positive number of pixels"),
        ("fx", (), math.nan, "positive number of pixels"),
        ("cx", (), math.inf, "finite"),
        ("width", (), 0, "at least 1 pixel"),
        ("distortion", (2,), math.nan, "NaN or infinite"),
    ],
)
def test_check_names_file_frame_and_field(field, index, value, words) -> None:
    with pytest.raises(StudioError, match=words) as caught:
        broken(field, index, value).check(source="scene/transforms.json", frames=["a.png", "b.png", "c.png"])
    assert caught.value.message.startswith(f"scene/transforms.json: frame 'b.png': {field} ")
    assert caught.value.fix
    assert "\n" not in str(caught.value)


def test_check_finds_mirrors() -> None:
    cameras = make_cameras("pinhole", (2,))
    mirrored = cameras.camera_to_world * torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64)
    with pytest.raises(StudioError, match="frame 0: camera_to_world mirrors"):
        replace(cameras, camera_to_world=mirrored).check(source="x.json")


def test_check_makes_rounded_rotations_exact() -> None:
    cameras = make_cameras("pinhole", (5,), seed=4)
    rounded = replace(cameras, camera_to_world=(cameras.camera_to_world * 1000).round() / 1000)
    exact = rounded.check(source="x.json")
    rotation = exact.camera_to_world[:, :3, :3]
    assert float((rotation @ rotation.mT - torch.eye(3, dtype=torch.float64)).abs().max()) < 1e-14
    torch.testing.assert_close(rotation, cameras.camera_to_world[:, :3, :3], atol=2e-3, rtol=0)
    assert torch.equal(exact.origins, rounded.origins)
