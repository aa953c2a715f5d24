"""Undistorting photos."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from studio.cameras import Cameras, pixel_centres, undistort_image, undistortion_map
from studio.errors import StudioError

LENSES = [
    ("opencv", [-0.28, 0.09, 5e-4, 1e-3]),  # barrel
    ("opencv", [0.15, 0.02, -1e-3, 5e-4]),  # pincushion
    ("fisheye", [0.05, -0.01, 0.002, -0.0005]),
]


def camera(model: str, distortion: list[float] | None, *, fx: float = 110.0) -> Cameras:
    return Cameras.make(
        torch.eye(4, dtype=torch.float64), width=160, height=120, fx=fx, fy=fx + 5, cx=82.0, cy=57.0,
        model=model, distortion=distortion,
    )  # fmt: skip


def scene_colour(directions: Tensor) -> Tensor:
    """A smooth picture painted on the sky."""
    x, y, z = directions.unbind(-1)
    return torch.stack([0.5 + 0.5 * torch.sin(6 * x / z), 0.5 + 0.5 * torch.sin(5 * y / z), 0.5 + 0.3 * x * y], dim=-1)


@pytest.mark.parametrize(("model", "distortion"), LENSES)
@pytest.mark.parametrize("coverage", ["same", "crop", "full"])
def test_undistorted_photo_is_what_the_pinhole_camera_sees(model, distortion, coverage) -> None:
    lens = camera(model, distortion)
    photo = scene_colour(lens.rays().directions)
    image, pinhole, valid = undistort_image(photo, lens, coverage)
    assert pinhole.model == "pinhole"
    assert pinhole.size == lens.size
    assert float(valid.double().mean()) > 0.5
    expected = scene_colour(pinhole.rays().directions)
    inner = valid.clone()
    inner[0] = inner[-1] = inner[:, 0] = inner[:, -1] = False
    source = undistortion_map(lens, coverage).source_pixels
    inner &= ((source > 1) & (source < torch.tensor([159.0, 119.0]))).all(-1)
    # Bilinear error: at most an eighth of the second derivative, 36 / 110^2 a pixel squared, on each axis.
    assert float((image - expected)[inner].abs().max()) < 2e-3
    assert float(image[~valid].abs().sum()) == 0


@pytest.mark.parametrize(("model", "distortion"), LENSES)
def test_coverage(model, distortion) -> None:
    lens = camera(model, distortion)
    same = undistortion_map(lens, "same")
    assert torch.equal(same.camera.fx, lens.fx)
    crop = undistortion_map(lens, "crop")
    assert bool(crop.valid.all())
    tighter = undistortion_map(lens, "crop").camera
    looser = Cameras.make(
        torch.eye(4, dtype=torch.float64), width=160, height=120, fx=tighter.fx * 0.97, fy=tighter.fy * 0.97,
        cx=82.0, cy=57.0,
    )  # fmt: skip
    assert not bool(lens.sees(looser.rays().directions).all())  # the shortest focal length that is covered
    full = undistortion_map(lens, "full")
    corners = torch.tensor([[0, 0], [160, 0], [0, 120], [160, 120], [80, 0], [0, 60]], dtype=torch.float64)
    seen, _ = full.camera.project(lens.rays(corners).directions)
    assert bool(((seen > -1e-6) & (seen < torch.tensor([160 + 1e-6, 120 + 1e-6]))).all())
    assert float(full.camera.fx) <= float(crop.camera.fx)
    assert float(full.camera.fy / full.camera.fx) == pytest.approx(float(lens.fy / lens.fx))


def test_a_lens_without_distortion_changes_nothing() -> None:
    photo = torch.randint(0, 256, (120, 160, 3), dtype=torch.uint8)
    for lens in (camera("opencv", [0.0]), camera("pinhole", None)):
        image, pinhole, valid = undistort_image(photo, lens)
        assert torch.equal(image, photo)
        assert bool(valid.all())
        assert torch.equal(pinhole.fx, lens.fx)
    image, pinhole, _ = undistort_image(photo, camera("opencv", [0.0]), "crop")
    assert float(pinhole.fx) == pytest.approx(110.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_arrays_come_back_as_arrays_of_their_type(dtype) -> None:
    photo = np.full((120, 160, 3), 200, dtype=dtype)
    image, _, valid = undistort_image(photo, camera("opencv", [-0.1]))
    assert isinstance(image, np.ndarray)
    assert image.dtype == dtype
    assert image.shape == photo.shape
    np.testing.assert_allclose(image[valid.numpy()], 200, rtol=1e-6)


def test_hidden_colour_does_not_bleed() -> None:
    """Opaque white beside transparent black: every visible pixel stays white, only alpha falls off."""
    photo = torch.zeros(120, 160, 4)
    photo[:, 80:] = 1.0
    image, _, valid = undistort_image(photo, camera("opencv", [-0.2]))
    visible = valid & (image[..., 3] > 0)
    assert bool(((image[..., 3] > 0.01) & (image[..., 3] < 0.99)).any())
    torch.testing.assert_close(image[visible][:, :3], torch.ones_like(image[visible][:, :3]))


def test_source_pixels_follow_the_ray() -> None:
    lens = camera("fisheye", [0.05, -0.01])
    plan = undistortion_map(lens)
    directions = plan.camera.rays(pixel_centres(160, 120, dtype=torch.float64)).directions
    torch.testing.assert_close(plan.source_pixels, lens.project(directions)[0])


def test_what_cannot_be_undistorted_is_said() -> None:
    wide = camera("fisheye", None, fx=40.0)  # corners 100 / 40 = 2.5 radians off the axis
    with pytest.raises(StudioError, match="90 degrees or more"):
        undistort_image(torch.zeros(120, 160, 3), wide, "full")
    image, _, _ = undistort_image(torch.ones(120, 160, 3), wide, "same")
    assert bool(image.isfinite().all())
    with pytest.raises(StudioError, match="half a sphere"):
        undistort_image(torch.zeros(120, 160, 3), camera("fisheye", None, fx=30.0), "crop")
    equirectangular = Cameras.make(torch.eye(4), width=20, height=10, fx=10.0, model="equirectangular")
    with pytest.raises(StudioError, match="equirectangular"):
        undistort_image(torch.zeros(10, 20, 3), equirectangular)
    with pytest.raises(ValueError, match="image must have shape"):
        undistort_image(torch.zeros(10, 20, 3), camera("opencv", [0.1]))
    with pytest.raises(ValueError, match="single camera"):
        undistortion_map(camera("opencv", [0.1])[None])
    with pytest.raises(ValueError, match="coverage"):
        undistortion_map(camera("opencv", [0.1]), "most")
