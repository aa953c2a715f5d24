"""Orbits, spirals and splines."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from studio.cameras import Cameras, flip_opengl, interpolate, look_at, orbit, orbit_of, spiral_of, surrounds
from studio.cameras.poses import se3_exp, so3_log
from studio.cameras.splines import spline_poses, spline_values

F64 = torch.float64


def lens(**changes) -> Cameras:
    return Cameras.make(torch.eye(4, dtype=F64), **{"width": 64, "height": 48, "fx": 60.0, **changes})


def ring(
    n: int, *, radius: float = 4.0, height: float = 2.0, arc: float = 2 * math.pi, center: Tensor | None = None
) -> Cameras:
    """Photos on a circle about +z, looking at its centre from above."""
    center = torch.zeros(3, dtype=F64) if center is None else center
    angles = torch.arange(n, dtype=F64) * (arc / n)
    eyes = center + torch.stack([radius * angles.cos(), radius * angles.sin(), torch.full_like(angles, height)], dim=-1)
    return lens().with_poses(look_at(eyes, center, torch.tensor([0.0, 0, 1], dtype=F64)))


def assert_rigid(cameras: Cameras) -> None:
    rotation = cameras.camera_to_world[:, :3, :3].double()
    assert float((rotation @ rotation.mT - torch.eye(3, dtype=F64)).abs().max()) < 1e-5
    assert float(torch.linalg.det(rotation).min()) > 0.99


@given(
    n=st.integers(1, 20),
    elevation=st.one_of(st.floats(-1.57, 1.57), st.sampled_from([math.pi / 2, -math.pi / 2])),
    radius=st.floats(0.1, 50),
    up=st.sampled_from([(0.0, 0, 1), (0, -1.0, 0), (1.0, 2, 3)]),
)
@settings(deadline=None, max_examples=60)
def test_orbit_looks_at_the_center(n, elevation, radius, up) -> None:
    center = torch.tensor([1.0, -2, 3], dtype=F64)
    path = orbit(lens(), n, center=center, radius=radius, elevation=elevation, up=up)
    assert path.shape == (n,)
    assert_rigid(path)
    pixels, depth = path.project(center.expand(n, 3))
    torch.testing.assert_close(pixels, torch.tensor([32.0, 24.0], dtype=F64).expand(n, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(depth, torch.full((n,), radius, dtype=F64))
    axis = torch.tensor(up, dtype=F64)
    axis = axis / axis.norm()
    above = (path.origins - center) @ axis / radius
    torch.testing.assert_close(above, torch.full((n,), math.sin(elevation), dtype=F64), atol=1e-9, rtol=0)
    assert float((path.up @ axis).min()) > -1e-9


def test_orbit_turns_evenly_counter_clockwise_and_loops() -> None:
    path = orbit(lens(), 4, center=(0, 0, 0), radius=2.0, start=(1, 0, 5))
    expected = [[2, 0, 0], [0, 2, 0], [-2, 0, 0], [0, -2, 0]]
    torch.testing.assert_close(path.origins, torch.tensor(expected, dtype=F64))
    half = orbit(lens(), 3, center=(0, 0, 0), radius=2.0, start=(1, 0, 0), sweep=math.pi)
    torch.testing.assert_close(half.origins, torch.tensor([[2.0, 0, 0], [0, 2, 0], [-2, 0, 0]], dtype=F64))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"radius": 0.0}, "radius"),
        ({"elevation": 2.0}, "elevation"),
        ({"up": (0, 0, 0)}, "up must not be zero"),
        ({"center": (0, 0)}, "center must be three"),
        ({"n": 0}, "at least one frame"),
    ],
)
def test_orbit_refuses(changes, message) -> None:
    arguments = {"n": 3, "center": (0, 0, 0), "radius": 1.0, **changes}
    with pytest.raises(ValueError, match=message):
        orbit(lens(), arguments.pop("n"), **arguments)


# ---------------------------------------------------------- from photos


@pytest.mark.parametrize("n", [3, 4, 50])
def test_orbit_of_a_ring_is_the_ring(n) -> None:
    center = torch.tensor([5.0, 6, 7], dtype=F64)
    photos = ring(n, center=center)
    path = orbit_of(photos, n)
    torch.testing.assert_close(path.camera_to_world, photos.camera_to_world, atol=1e-9, rtol=0)


def test_orbit_of_finds_the_vertical_though_the_photos_are_uneven() -> None:
    """Three quarters of the photos stand on one half of the ring: the mean up leans, the orbit must not."""
    angles = torch.cat([torch.linspace(0, math.pi, 30, dtype=F64), torch.linspace(math.pi, 2 * math.pi, 10, dtype=F64)])
    eyes = torch.stack([3 * angles.cos(), 3 * angles.sin(), torch.full_like(angles, 4.0)], dim=-1)
    photos = lens().with_poses(look_at(eyes, torch.zeros(3, dtype=F64), torch.tensor([0.0, 0, 1], dtype=F64)))
    path = orbit_of(photos, 8)
    torch.testing.assert_close(path.origins[:, 2], torch.full((8,), 4.0, dtype=F64), atol=1e-9, rtol=0)
    torch.testing.assert_close(path.origins.norm(dim=-1), torch.full((8,), 5.0, dtype=F64))


def test_orbit_of_photos_from_one_side_stays_on_that_side() -> None:
    photos = ring(12, arc=math.radians(100))
    path = orbit_of(photos, 24)
    middle = photos.origins.mean(0)
    reach = (photos.origins - middle).norm(dim=-1).max()
    assert float((path.origins - middle).norm(dim=-1).max()) < 1.5 * float(reach)
    _, depth = path.project(torch.zeros(24, 3, dtype=F64))
    assert float(depth.min()) > 0


@pytest.mark.parametrize("degrees", [60, 120, 178, 250])
def test_orbit_of_an_arc_swings_along_it_and_looks_at_the_subject(degrees) -> None:
    """As phones film: around a part of the subject, looking down on it, height and distance varying along the way."""
    angles = torch.linspace(0, math.radians(degrees), 40, dtype=F64)
    distance = 3 + 0.4 * (3 * angles).sin()
    height = 1.5 + 0.4 * angles.cos()
    eyes = torch.stack([distance * angles.cos(), distance * angles.sin(), height], dim=-1)
    subject = torch.tensor([0.1, -0.2, 0.3], dtype=F64)
    photos = lens().with_poses(look_at(eyes, subject, torch.tensor([0.0, 0, 1], dtype=F64)))
    path = orbit_of(photos, 60)
    assert_rigid(path)
    pixels, depth = path.project(subject.expand(60, 3))
    torch.testing.assert_close(pixels, torch.tensor([32.0, 24.0], dtype=F64).expand(60, 2), atol=1e-6, rtol=0)
    assert float(depth.min()) > 0
    nearest = torch.cdist(path.origins, eyes).min(1).values
    assert float(nearest.max()) < 0.3 * float((eyes - subject).norm(dim=-1).mean())
    azimuths = torch.atan2(path.origins[:, 1], path.origins[:, 0]).remainder(2 * math.pi)
    covered = math.degrees(float(azimuths.max() - azimuths.min()))
    assert 0.85 * degrees < covered < degrees
    steps = (path.origins.roll(-1, 0) - path.origins).norm(dim=-1)
    assert float(steps.max()) < 3 * float(steps.mean())  # it loops
    assert not surrounds(photos)


def test_orbit_of_two_rounds_goes_along_one_of_them() -> None:
    low, high = ring(24, height=0.0), ring(24, height=4.5)
    path = orbit_of(Cameras.cat([low, high]), 40)
    nearest = torch.cdist(path.origins, Cameras.cat([low, high]).origins).min(1).values
    assert float(nearest.max()) < 0.3 * float(low.origins.norm(dim=-1).mean())


def test_orbit_of_few_photos_all_round_is_a_full_turn() -> None:
    assert surrounds(ring(3))
    assert surrounds(ring(12)[torch.tensor([0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11])])
    assert not surrounds(ring(8, arc=math.radians(240)))


def test_a_known_vertical_is_kept() -> None:
    up = torch.tensor([0.1, 0, 1.0], dtype=F64)
    path = orbit_of(ring(12), 12, up=up)
    heights = path.origins @ (up / up.norm())
    torch.testing.assert_close(heights, heights.mean().expand(12), atol=1e-9, rtol=0)


def test_a_spiral_among_photos_all_round_shows_the_subject() -> None:
    photos = ring(20)
    path = spiral_of(photos, 60)
    pixels, depth = path.project(torch.zeros(60, 3, dtype=F64))
    assert float(depth.min()) > 0
    torch.testing.assert_close(pixels, torch.tensor([32.0, 24.0], dtype=F64).expand(60, 2), atol=1e-6, rtol=0)


@pytest.mark.real_data
@pytest.mark.parametrize("capture", ["can", "../../cases/captures/train_tiny", "../fern", "../lund_door"])
def test_orbits_of_real_captures_stay_near_photos_and_show_the_subject(data_dir, capture) -> None:
    from studio.cameras.capture import meeting_point
    from studio.readers import load_scene

    folder = data_dir / "captures" / capture
    if not folder.exists():
        pytest.skip(f"{folder} is not there")
    photos = Cameras.stack([frame.camera for frame in load_scene(folder).split("train")])
    subject = meeting_point(photos.origins.double(), photos.forward.double())
    assert subject is not None
    path = orbit_of(photos, 60)
    pixels, depth = path.project(subject.to(path.origins).expand(60, 3))
    width, height = path.size
    inside = (depth > 0) & (pixels > 0).all(-1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
    assert int(inside.sum()) >= 58
    nearest = torch.cdist(path.origins.double(), photos.origins.double()).min(1).values
    assert float(nearest.max()) <= 0.35 * float((photos.origins.double() - subject).norm(dim=-1).mean())


def test_orbit_of_drops_distortion_and_takes_a_lens() -> None:
    photos = ring(6)
    bent = Cameras.make(photos.camera_to_world, width=64, height=48, fx=60.0, model="opencv", distortion=[0.1])
    assert orbit_of(bent, 3).model == "pinhole"
    assert orbit_of(bent, 3).distortion is None
    assert orbit_of(bent, 3, lens=lens(width=128)).size == (128, 48)


def test_looking_straight_down_gives_a_path() -> None:
    """A drone over a field: parallel axes, no common up in the pictures."""
    eyes = torch.tensor([[x, y, 10.0] for x in range(4) for y in range(4)], dtype=F64)
    down = look_at(eyes, eyes - torch.tensor([0, 0, 1.0]), torch.randn(16, 3, dtype=F64))
    path = orbit_of(lens().with_poses(down), 10)
    assert_rigid(path)
    assert float(path.origins[:, 2].min()) > 9
    assert float(path.forward[:, 2].max()) < -0.8


def test_outward_looking_photos_give_a_path() -> None:
    """A panorama from one spot: the axes meet behind every camera."""
    photos = ring(12)
    outward = photos.camera_to_world * torch.tensor([-1.0, 1, -1, 1], dtype=F64)
    path = orbit_of(lens().with_poses(outward), 10)
    assert_rigid(path)
    assert float(path.origins.norm(dim=-1).max()) < 8


def test_a_single_photo_gives_a_path() -> None:
    for make in (orbit_of, spiral_of):
        path = make(ring(5)[:1], 7)
        assert path.shape == (7,)
        assert_rigid(path)


def test_spiral_keeps_the_focus_in_the_middle_and_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    eyes = torch.randn(20, 3, dtype=F64, generator=generator) * torch.tensor([0.5, 0.3, 0.05], dtype=F64)
    photos = lens().with_poses(look_at(eyes, eyes + torch.tensor([0.0, 0, 1]), torch.tensor([0.0, -1, 0], dtype=F64)))
    path = spiral_of(photos, 60, focus_depth=5.0)
    focus = eyes.mean(0) + torch.tensor([0.0, 0, 5], dtype=F64)
    pixels, _ = path.project(focus.expand(60, 3))
    torch.testing.assert_close(pixels, torch.tensor([32.0, 24.0], dtype=F64).expand(60, 2), atol=1e-8, rtol=0)
    reach = torch.quantile((eyes - eyes.mean(0)).abs(), 0.9, dim=0)
    offsets = (path.origins - eyes.mean(0)).abs()
    assert bool((offsets <= reach * (1 + 1e-9)).all())
    assert float(offsets[:, 0].max()) > 0.95 * float(reach[0])
    steps = (path.origins.roll(-1, 0) - path.origins).norm(dim=-1)
    assert float(steps[-1]) < 1.5 * float(steps.median())  # the last frame leads to the first
    # Twice the size, twice as far out.
    wide = spiral_of(photos, 60, focus_depth=5.0, size=2.0)
    torch.testing.assert_close(wide.origins - eyes.mean(0), 2 * (path.origins - eyes.mean(0)))
    with pytest.raises(ValueError, match="focus_depth"):
        spiral_of(photos, 5, focus_depth=-1.0)


@pytest.mark.real_data
def test_paths_of_real_scenes(data_dir) -> None:
    """Lego was photographed from all over the upper hemisphere, fern from the front."""
    import json

    frames = json.loads((data_dir / "lego" / "transforms_train.json").read_text())["frames"]
    poses = flip_opengl(torch.tensor([f["transform_matrix"] for f in frames], dtype=F64))
    path = orbit_of(lens().with_poses(poses), 40)
    torch.testing.assert_close(path.origins.mean(0)[:2], torch.zeros(2, dtype=F64), atol=0.2, rtol=0)
    assert float(path.origins[:, 2].std()) < 0.05  # level
    assert 3.5 < float(path.origins.norm(dim=-1).mean()) < 4.5

    bounds = torch.as_tensor(np.load(data_dir / "fern" / "poses_bounds.npy"))[:, :15].reshape(-1, 3, 5)
    down, right, back, eye = bounds[..., :4].unbind(-1)
    photos = torch.eye(4, dtype=F64).repeat(len(bounds), 1, 1)
    photos[:, :3] = torch.stack([right, down, -back, eye], dim=-1)
    path = orbit_of(lens().with_poses(photos), 40)
    assert float((path.forward @ photos[:, :3, 2].mean(0)).min()) > 0.9
    low, high = photos[:, :3, 3].amin(0), photos[:, :3, 3].amax(0)
    margin = 0.25 * (high - low).max()
    assert bool(((path.origins >= low - margin) & (path.origins <= high + margin)).all())


# ------------------------------------------------------------------- splines


def keyframes(n: int, *, seed: int = 0, dtype: torch.dtype = F64) -> Cameras:
    generator = torch.Generator().manual_seed(seed)
    poses = se3_exp(torch.randn(n, 6, dtype=F64, generator=generator)).to(dtype)
    fx = 50 + 20 * torch.rand(n, dtype=F64, generator=generator).to(dtype)
    return Cameras.make(poses, width=64, height=48, fx=fx, fy=1.1 * fx, cx=30 + torch.arange(n, dtype=dtype))


@given(
    keys=st.integers(1, 7),
    extra=st.integers(0, 30),
    closed=st.booleans(),
    spacing=st.sampled_from(["centripetal", "uniform"]),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=80)
def test_interpolation_hits_every_keyframe(keys, extra, closed, spacing, seed) -> None:
    given_keys = keyframes(keys, seed=seed)
    path = interpolate(given_keys, keys + extra, closed=closed, spacing=spacing)
    assert path.shape == (keys + extra,)
    assert_rigid(path)
    difference = (path.camera_to_world[:, None] - given_keys.camera_to_world).abs().flatten(2).amax(-1)
    assert float(difference.amin(0).max()) < 1e-12
    hit = difference.argmin(0)
    assert bool((hit.diff() > 0).all())  # in order
    torch.testing.assert_close(path.fx[hit], given_keys.fx)
    torch.testing.assert_close(path.fy[hit], given_keys.fy)
    torch.testing.assert_close(path.cx[hit], given_keys.cx)
    assert torch.equal(path.camera_to_world[0], interpolate(given_keys, 1).camera_to_world[0])
    if not closed and keys > 1:
        assert int(hit[-1]) == keys + extra - 1


@pytest.mark.parametrize("closed", [False, True])
def test_spline_is_smooth(closed) -> None:
    """Velocities just before and just after every knot agree, for positions and rotations."""
    keys = keyframes(6, seed=3).camera_to_world
    knots = torch.tensor([0.0, 1.0, 1.7, 4.0, 5.0, 8.0], dtype=F64)
    period = 10.0 if closed else None
    inner = knots if closed else knots[1:-1]
    h = 1e-6

    def velocity(at: Tensor) -> Tensor:
        before = spline_poses(keys, knots, at - h / 2, period=period)
        after = spline_poses(keys, knots, at + h / 2, period=period)
        turned = so3_log(before[:, :3, :3].mT @ after[:, :3, :3])
        return torch.cat([after[:, :3, 3] - before[:, :3, 3], turned], dim=-1) / h

    left, right = velocity(inner - h), velocity(inner + h)
    assert float(left.norm(dim=-1).min()) > 0.05
    torch.testing.assert_close(left, right, atol=1e-4, rtol=0)
    torch.testing.assert_close(spline_poses(keys, knots, knots, period=period), keys, atol=1e-12, rtol=0)


def test_a_spline_of_a_straight_even_motion_is_that_motion() -> None:
    """Constant velocity and constant turning are reproduced, on unequal knots too."""
    knots = torch.tensor([0.0, 1.0, 3.0, 3.5], dtype=F64)
    times = torch.linspace(0, 3.5, 23, dtype=F64)

    def motion(t: Tensor) -> Tensor:
        turn = t[:, None] * torch.tensor([0.3, -0.2, 0.5], dtype=F64)
        pose = se3_exp(torch.cat([torch.zeros_like(turn), turn], dim=-1))
        pose[:, :3, 3] = t[:, None] * torch.tensor([1.0, 2, -1], dtype=F64)
        return pose

    torch.testing.assert_close(spline_poses(motion(knots), knots, times), motion(times), atol=1e-12, rtol=0)


def test_spline_values_by_hand() -> None:
    """Keys 0, 1, 0 at 0, 1, 2: middle tangent 0, natural ends of slope 3/2 and -3/2."""
    keys = torch.tensor([[0.0], [1.0], [0.0]], dtype=F64)
    knots = torch.arange(3, dtype=F64)
    value = spline_values(keys, knots, torch.tensor([0.5], dtype=F64))
    assert float(value) == pytest.approx(0.5 + 1.5 / 8)  # Hermite: (0 + 1)/2 + (m0 - m1)/8
    with pytest.raises(ValueError, match="increase strictly"):
        spline_values(keys, torch.zeros(3, dtype=F64), knots)


def test_repeated_keyframes_and_few_frames_are_no_trouble() -> None:
    keys = keyframes(3)
    still = Cameras.stack([keys[0], keys[0], keys[1], keys[1]])
    path = interpolate(still, 30)
    assert bool(path.camera_to_world.isfinite().all())
    assert interpolate(Cameras.stack([keys[0]] * 3), 5).shape == (5,)
    few = interpolate(keyframes(30), 7)
    torch.testing.assert_close(few.camera_to_world[-1], keyframes(30).camera_to_world[-1])
    single = interpolate(keys[:1], 4, closed=True)
    assert torch.equal(single.origins, keys.origins[:1].expand(4, 3))


def test_interpolation_keeps_type_and_unites_sizes() -> None:
    keys = keyframes(3, dtype=torch.float32)
    assert interpolate(keys, 5).dtype == torch.float32
    mixed = Cameras.stack([keys[0], keys[1].rescale(2.0)])
    assert interpolate(mixed, 5).size == (64, 48)
    with pytest.raises(ValueError, match="keyframes must have shape"):
        interpolate(keys[0], 5)
    with pytest.raises(ValueError, match="spacing"):
        interpolate(keys, 5, spacing="odd")
