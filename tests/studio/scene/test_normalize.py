from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.cameras import Cameras
from studio.cameras.poses import Similarity, look_at, so3_exp
from studio.errors import StudioError
from studio.scene import Frame, PointCloud, Scene, normalize_scene, transform_scene
from studio.scene.normalize import focus_point, in_frame_of, scene_vertical


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def scene_of(poses, *, format="colmap", model="pinhole", distortion=None):
    frames = tuple(
        Frame(
            f"{i}.png",
            Path(f"{i}.png"),
            Cameras.make(pose, width=64, height=48, fx=50.0, model=model, distortion=distortion),
            "train",
            depth_range=(1.0, 10.0),
        )
        for i, pose in enumerate(poses)
    )
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(20, 3, generator=generator, dtype=torch.float64) - 0.5
    bounds = torch.stack([points.amin(dim=0), points.amax(dim=0)])
    return Scene("s", Path("s"), format, frames, PointCloud(points, torch.rand(20, 3)), bounds)


def orbit(count=12, radius=3.0, height=1.0, centre=(0.0, 0.0, 0.0), up=(0.0, 0.0, 1.0)):
    angles = torch.arange(count, dtype=torch.float64) * 2 * torch.pi / count
    flat = torch.stack([radius * angles.cos(), radius * angles.sin(), torch.full_like(angles, height)], dim=-1)
    return look_at(flat + double(*centre), double(*centre), double(*up))


def ahead(count=9, spread=0.5):
    generator = torch.Generator().manual_seed(1)
    poses = torch.eye(4, dtype=torch.float64).repeat(count, 1, 1)
    poses[:, :3, 3] = spread * (torch.rand(count, 3, generator=generator, dtype=torch.float64) - 0.5) + double(5, 6, 7)
    return poses


similarities = st.builds(
    lambda s, r, t: Similarity(s, so3_exp(double(*r)), double(*t)),
    st.floats(0.01, 100),
    st.tuples(*[st.floats(-1.5, 1.5)] * 3),
    st.tuples(*[st.floats(-50, 50)] * 3),
)
methods = st.sampled_from(["auto", "focus", "poses"])
LENS = [0.05, -0.02, 0.001, 0.002, 0.0, 0.0, 0.0, 0.0]


@settings(deadline=None, max_examples=40)
@given(similarities, methods, st.sampled_from(["pinhole", "opencv", "fisheye", "equirectangular", "orthographic"]))
def test_projections_do_not_change_and_poses_stay_rigid(similarity, method, model):
    lens = LENS if model in ("opencv", "fisheye") else None
    before = transform_scene(scene_of(orbit(), model=model, distortion=lens), similarity)
    after = normalize_scene(before, method)
    assert after.points is not None
    scale = Similarity.from_matrix(after.scene_from_input).scale / Similarity.from_matrix(before.scene_from_input).scale
    for a, b in zip(before.frames, after.frames, strict=True):
        pixels, depth = a.camera.project(before.points.xyz)
        moved_pixels, moved_depth = b.camera.project(after.points.xyz)
        torch.testing.assert_close(moved_pixels, pixels, atol=1e-5, rtol=1e-6)
        torch.testing.assert_close(moved_depth, depth * scale, atol=1e-8, rtol=1e-6)
        rotation = b.camera.camera_to_world[:3, :3]
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64))
        assert b.depth_range == pytest.approx((scale * a.depth_range[0], scale * a.depth_range[1]))


@settings(deadline=None, max_examples=40)
@given(similarities, methods)
def test_the_inverse_undoes_it(similarity, method):
    original = scene_of(orbit(height=2.0))
    # Two maps after each other: both are undone.
    after = normalize_scene(transform_scene(original, similarity), method)
    back = Similarity.from_matrix(after.input_from_scene)
    torch.testing.assert_close(back.points(after.points.xyz), original.points.xyz, atol=1e-9, rtol=0)
    for a, b in zip(original.frames, after.frames, strict=True):
        torch.testing.assert_close(back.poses(b.camera.camera_to_world), a.camera.camera_to_world, atol=1e-9, rtol=0)


@settings(deadline=None, max_examples=40)
@given(similarities)
def test_the_standard_frame(similarity):
    """Wherever the scene was: the origin is what the cameras look at, up is +z, and the farthest is at distance 1."""
    after = normalize_scene(transform_scene(scene_of(orbit(radius=3, height=1)), similarity))
    poses = torch.stack([f.camera.camera_to_world for f in after.frames])
    torch.testing.assert_close(focus_point(poses), double(0, 0, 0), atol=1e-7, rtol=0)
    assert float(poses[:, :3, 3].norm(dim=-1).max()) == pytest.approx(1)
    up = -poses[:, :3, 1].mean(dim=0)
    torch.testing.assert_close(up / up.norm(), double(0, 0, 1), atol=1e-9, rtol=0)
    # The orbit is level again, at the height that its shape says.
    torch.testing.assert_close(poses[:, 2, 3], torch.full((12,), 10**-0.5, dtype=torch.float64), atol=1e-7, rtol=0)


def test_bounds_hold_what_they_held():
    scene = scene_of(orbit(centre=(4.0, 5.0, 6.0), up=(0.3, 1.0, 0.2)))
    after = normalize_scene(scene)
    assert bool((after.points.xyz >= after.bounds[0] - 1e-12).all())
    assert bool((after.points.xyz <= after.bounds[1] + 1e-12).all())


def test_forward_facing_cameras_are_centred_themselves():
    after = normalize_scene(scene_of(ahead()))
    centres = torch.stack([f.camera.camera_to_world[:3, 3] for f in after.frames])
    torch.testing.assert_close(centres.mean(dim=0), double(0, 0, 0), atol=1e-12, rtol=0)
    assert float(centres.norm(dim=-1).max()) == pytest.approx(1)
    # Slightly converging ones too, although they have a common focus.
    poses = look_at(ahead(spread=1.0)[:, :3, 3], double(5, 6, 17), double(0, -1, 0))
    assert focus_point(poses) is not None
    after = normalize_scene(scene_of(poses))
    centres = torch.stack([f.camera.camera_to_world[:3, 3] for f in after.frames])
    torch.testing.assert_close(centres.mean(dim=0), double(0, 0, 0), atol=1e-12, rtol=0)
    # Unless one asks for the focus.
    after = normalize_scene(scene_of(poses), "focus")
    torch.testing.assert_close(
        focus_point(torch.stack([f.camera.camera_to_world for f in after.frames])), double(0, 0, 0), atol=1e-9, rtol=0
    )


def test_cameras_that_look_outward_are_centred_themselves():
    inward = orbit(centre=(1.0, 2.0, 3.0))
    turned = inward.clone()
    turned[:, :3, 0] *= -1
    turned[:, :3, 2] *= -1
    turned[:3, :3, 3] += 0.7  # so that the mean is not the focus
    after = normalize_scene(scene_of(turned))
    centres = torch.stack([f.camera.camera_to_world[:3, 3] for f in after.frames])
    torch.testing.assert_close(centres.mean(dim=0), double(0, 0, 0), atol=1e-12, rtol=0)


def test_blender_scenes_and_none_are_left_alone():
    scene = scene_of(orbit(), format="blender")
    assert normalize_scene(scene) is scene
    assert normalize_scene(scene, "focus") is not scene
    assert normalize_scene(replace(scene, format="colmap"), "none").frames is scene.frames


def test_degenerate_sets():
    single = normalize_scene(scene_of(ahead(1)))
    torch.testing.assert_close(single.frames[0].camera.camera_to_world[:3, 3], double(0, 0, 0))
    # Cameras without a common up direction (half of them upside down) are taken for ones that look down.
    poses = ahead(2)
    poses[1, :3, :3] = torch.diag(double(-1, -1, 1))
    after = normalize_scene(scene_of(poses))
    torch.testing.assert_close(after.frames[0].camera.camera_to_world[:3, 2], double(0, 0, -1))
    # Up is exactly -z: the rotation by 180 degrees has no unique axis.
    down = look_at(double(3, 0, 0), double(0, 0, 0), double(0, 0, -1))[None]
    turned = normalize_scene(scene_of(down)).frames[0].camera.camera_to_world
    torch.testing.assert_close(-turned[:3, 1], double(0, 0, 1))
    assert float(torch.linalg.det(turned[:3, :3])) == pytest.approx(1)


def test_a_scene_goes_into_the_frame_of_an_earlier_run():
    """A resumed run keeps its frame though another version of the studio would choose another one."""
    scene = scene_of(orbit(height=2.0))
    earlier = transform_scene(scene, Similarity(0.5, so3_exp(double(0.1, 0.2, 0.3)), double(1, 2, 3)))
    back = in_frame_of(normalize_scene(scene), earlier.scene_from_input)
    torch.testing.assert_close(back.scene_from_input, earlier.scene_from_input)
    for a, b in zip(back.frames, earlier.frames, strict=True):
        torch.testing.assert_close(a.camera.camera_to_world, b.camera.camera_to_world, atol=1e-9, rtol=0)
    torch.testing.assert_close(back.points.xyz, earlier.points.xyz)
    assert in_frame_of(earlier, earlier.scene_from_input) is earlier


def test_the_vertical_of_a_scene():
    """Known frames are z-up; one that was left as it came is guessed."""
    lying = transform_scene(scene_of(orbit()), Similarity(1.0, so3_exp(double(0.5 * torch.pi, 0, 0)), double(0, 0, 0)))
    torch.testing.assert_close(scene_vertical(normalize_scene(lying)), double(0, 0, 1))
    assert scene_vertical(replace(lying, scene_from_input=torch.eye(4, dtype=torch.float64))) @ double(
        0, -1, 0
    ) == pytest.approx(1)


def test_unknown_method():
    with pytest.raises(StudioError, match=r"no method 'best'.*auto, focus, poses, none"):
        normalize_scene(scene_of(orbit()), "best")


def test_points_bounds_leave_out_strays():
    cloud = PointCloud(torch.cat([torch.rand(1000, 3), torch.full((3, 3), 1e6)]), torch.zeros(1003, 3))
    assert float(cloud.bounds().max()) < 1
    assert float(cloud.bounds(0.0).max()) == 1e6
    with pytest.raises(ValueError, match="empty"):
        PointCloud(torch.zeros(0, 3), torch.zeros(0, 3)).bounds()
