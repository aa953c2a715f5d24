"""Cameras, lenses and rotations against OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from studio.cameras import Cameras, undistortion_map
from studio.cameras.poses import so3_exp, so3_log

LENSES = {
    "none": [0.0] * 8,
    "barrel": [-0.28, 0.07, 0, 0, 0, 0, 0, 0],
    "pincushion": [0.15, 0.02, 0, 0, 0, 0, 0, 0],
    "tangential": [-0.1, 0.02, 0.004, -0.003, 0, 0, 0, 0],
    "k3": [-0.2, 0.08, 0.001, 0.0005, -0.012, 0, 0, 0],
    "rational": [0.31, -0.05, 1e-3, 7e-4, 0.012, 0.22, 0.03, 0.004],
}
FISHEYES = {
    "none": [0.0] * 4,
    "gopro": [0.03, -0.012, 0.004, -0.0007],
    "strong": [-0.05, 0.02, -0.01, 0.001],
    "k1": [0.1, 0, 0, 0],
}
WIDTH, HEIGHT = 320, 240
K = np.array([[210.0, 0, 164.5], [0, 205.0, 117.25], [0, 0, 1]])


def camera(model: str, distortion: list[float], seed: int) -> tuple[Cameras, np.ndarray, np.ndarray]:
    """A camera somewhere, and OpenCV's rvec and tvec of it."""
    g = np.random.default_rng(seed)
    rvec, tvec = g.normal(size=3) * 0.7, g.normal(size=3)
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = cv2.Rodrigues(rvec)[0], tvec
    pose = torch.tensor(np.linalg.inv(world_to_camera))
    made = Cameras.make(
        pose, width=WIDTH, height=HEIGHT, fx=K[0, 0], fy=K[1, 1], cx=K[0, 2], cy=K[1, 2], model=model,  # type: ignore[arg-type]
        distortion=distortion,
    )  # fmt: skip
    return made, rvec, tvec


def points_before(made: Cameras, seed: int, spread: float) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    flat = (torch.rand(300, 2, generator=g, dtype=torch.float64) * 2 - 1) * spread
    depth = torch.rand(300, 1, generator=g, dtype=torch.float64) * 4 + 0.5
    local = torch.cat([flat * depth, depth], -1)
    return local @ made.camera_to_world[:3, :3].T + made.camera_to_world[:3, 3]


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.parametrize("seed", range(3))
def test_project_points(name: str, seed: int) -> None:
    made, rvec, tvec = camera("opencv", LENSES[name], seed)
    world = points_before(made, seed, 0.75)
    theirs, _ = cv2.projectPoints(world.numpy(), rvec, tvec, K, np.array(LENSES[name]))
    # OpenCV puts the centre of the first pixel at 0; a principal point counts in the same frame, so nothing differs.
    torch.testing.assert_close(made.project(world)[0], torch.tensor(theirs[:, 0]), atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", FISHEYES)
@pytest.mark.parametrize("seed", range(3))
def test_project_points_of_a_fisheye(name: str, seed: int) -> None:
    made, rvec, tvec = camera("fisheye", FISHEYES[name], seed)
    world = points_before(made, seed, 1.5)
    theirs, _ = cv2.fisheye.projectPoints(world.numpy()[:, None], rvec, tvec, K, np.array(FISHEYES[name]))
    torch.testing.assert_close(made.project(world)[0], torch.tensor(theirs[:, 0]), atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", LENSES)
def test_rays_of_pixels(name: str) -> None:
    made = camera("opencv", LENSES[name], 0)[0].with_poses(torch.eye(4, dtype=torch.float64))
    g = np.random.default_rng(1)
    pixels = g.random((200, 2)) * [WIDTH, HEIGHT]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 500, 1e-14)
    theirs = cv2.undistortPoints(pixels[:, None], K, np.array(LENSES[name]), criteria=criteria)
    directions = made.ray_directions(torch.tensor(pixels))
    torch.testing.assert_close(directions[:, :2] / directions[:, 2:], torch.tensor(theirs[:, 0]), atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", FISHEYES)
def test_rays_of_pixels_of_a_fisheye(name: str) -> None:
    made = camera("fisheye", FISHEYES[name], 0)[0].with_poses(torch.eye(4, dtype=torch.float64))
    g = np.random.default_rng(1)
    pixels = g.random((200, 2)) * [WIDTH, HEIGHT]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 500, 1e-14)
    theirs = cv2.fisheye.undistortPoints(pixels[:, None], K, np.array(FISHEYES[name]), criteria=criteria)
    directions = made.ray_directions(torch.tensor(pixels))
    torch.testing.assert_close(directions[:, :2] / directions[:, 2:], torch.tensor(theirs[:, 0]), atol=1e-7, rtol=0)


@pytest.mark.parametrize("name", LENSES)
def test_undistorted_photo(name: str) -> None:
    """The picture of `cv2.undistort`, whose pixel centres lie at whole numbers: its principal point is half less."""
    made = camera("opencv", LENSES[name], 0)[0]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    photo = np.stack([np.sin(x / 23) * 0.4 + 0.5, np.cos(y / 17) * 0.4 + 0.5, (x + y) / (WIDTH + HEIGHT)], -1)
    shifted = K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]
    maps = cv2.initUndistortRectifyMap(
        shifted, np.array(LENSES[name]), np.eye(3), shifted, (WIDTH, HEIGHT), cv2.CV_32FC1
    )
    theirs = cv2.remap(photo.astype(np.float32), *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    plan = undistortion_map(made)
    ours = plan.apply(photo.astype(np.float32))
    seen = plan.valid.numpy()
    assert seen.mean() > 0.6
    # cv2.remap rounds positions to 1/32 pixel.
    assert np.abs(ours - theirs)[seen].max() < 3e-3


@pytest.mark.parametrize("angle", [1e-9, 1e-4, 0.3, 1.5, 3.1, np.pi - 1e-6])
def test_rotation_vectors(angle: float) -> None:
    axis = np.random.default_rng(int(angle * 1000)).normal(size=3)
    vector = axis / np.linalg.norm(axis) * angle
    theirs = cv2.Rodrigues(vector)[0]
    ours = so3_exp(torch.tensor(vector))
    torch.testing.assert_close(ours, torch.tensor(theirs), atol=1e-13, rtol=0)
    torch.testing.assert_close(so3_log(ours), torch.tensor(cv2.Rodrigues(theirs)[0][:, 0]), atol=1e-7, rtol=0)
