"""What pictures show: the field's own render, cut, painted, in strips; and photos beside renders."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from viewer_scenes import BACKGROUND, SIZE, ball_cameras, ball_cloud, sphere_subject

from studio.errors import StudioError
from studio.viewer.compare import Comparison, parted
from studio.viewer.drawing import Drawer, Look, Overtaken
from studio.viewer.session import View
from studio.viewer.subject import Subject, camera_in_input, camera_in_scene
from studio.viewer.turns import LockedTurns

LOOK = Look(background=BACKGROUND)
CAMERA = ball_cameras()[0]
RED_HALF = (-2.0, -2.0, -2.0, -0.35, 2.0, 2.0)


@pytest.fixture
def drawer(balls: Subject) -> Drawer:
    return Drawer(balls, LockedTurns())


@pytest.fixture
def sphere() -> Drawer:
    return Drawer(sphere_subject(), LockedTurns())


def blueness(picture: torch.Tensor) -> float:
    """How much of a picture on white is blue rather than red."""
    return float((picture[..., 2] - picture[..., 0]).clamp(min=0).mean())


def test_a_picture_is_what_the_field_renders(drawer: Drawer, balls: Subject) -> None:
    assert balls.field is not None
    expected = balls.field.render(CAMERA, ("rgb",), background=torch.tensor(BACKGROUND))["rgb"]
    assert torch.equal(drawer.draw(CAMERA, LOOK), expected)


@pytest.mark.parametrize("output", ["rgb", "opacity", "depth", "normals"])
def test_strips_make_the_same_picture(sphere: Drawer, output: str) -> None:
    look = replace(LOOK, output=output)
    whole = sphere.draw(CAMERA, look)
    strips = sphere.draw(CAMERA, look, expected_seconds=0.5)
    assert strips.shape == whole.shape == (SIZE[1], SIZE[0], 3)
    torch.testing.assert_close(strips, whole, atol=1e-4, rtol=0)


def test_a_picture_that_is_out_of_date_is_given_up(sphere: Drawer) -> None:
    asked = []

    def overtaken() -> bool:
        asked.append(True)
        return len(asked) > 2

    with pytest.raises(Overtaken):
        sphere.draw(CAMERA, LOOK, overtaken=overtaken, expected_seconds=10.0)
    assert len(asked) == 3


def test_a_crop_box_leaves_gaussians_out(drawer: Drawer, balls: Subject) -> None:
    whole, cut = drawer.draw(CAMERA, LOOK), drawer.draw(CAMERA, replace(LOOK, crop=RED_HALF))
    assert blueness(whole) > 0.02
    assert blueness(cut) < 1e-4
    kept = drawer.selection(replace(LOOK, crop=RED_HALF))
    assert 0.25 < len(kept) / len(balls.gaussians()) < 0.4
    assert float(kept.means[:, 0].max()) <= -0.35
    with pytest.raises(StudioError, match="none of"):
        drawer.draw(CAMERA, replace(LOOK, crop=(5.0, 5.0, 5.0, 6.0, 6.0, 6.0)))


def test_a_budget_keeps_so_many(drawer: Drawer) -> None:
    look = replace(LOOK, max_gaussians=50)
    assert len(drawer.selection(look)) == 50
    fewer = drawer.draw(CAMERA, look)
    assert float((1 - fewer).mean()) < 0.7 * float((1 - drawer.draw(CAMERA, LOOK)).mean())


def test_near_and_far(drawer: Drawer) -> None:
    """The balls lie about 2 in front of the camera."""
    white = torch.ones(SIZE[1], SIZE[0], 3)
    assert torch.equal(drawer.draw(CAMERA, replace(LOOK, near=0.5, far=5.0)), drawer.draw(CAMERA, LOOK))
    torch.testing.assert_close(drawer.draw(CAMERA, replace(LOOK, far=1.0)), white, atol=1e-5, rtol=0)
    torch.testing.assert_close(drawer.draw(CAMERA, replace(LOOK, near=4.0)), white, atol=1e-5, rtol=0)
    half = drawer.draw(CAMERA, replace(LOOK, near=2.0))
    assert 0.1 < float((1 - half).mean()) / float((1 - drawer.draw(CAMERA, LOOK)).mean()) < 1.0


def test_a_field_of_which_only_renders_are_known_is_cut_at_its_surface(sphere: Drawer) -> None:
    whole = sphere.draw(CAMERA, LOOK)
    red, blue = whole[..., 1] + whole[..., 2] == 0, whole[..., 0] + whole[..., 1] == 0
    assert red.sum() > 100
    assert blue.sum() > 100
    cut = sphere.draw(CAMERA, replace(LOOK, crop=(-2.0, -2.0, -2.0, 0.0, 2.0, 2.0)))
    assert torch.equal(cut[red], whole[red])
    assert bool((cut[blue] == 1).all())  # the background
    # The sphere's front is 1 away from the camera, its rim 1.5 deep.
    assert bool((sphere.draw(CAMERA, replace(LOOK, far=0.9)) == 1).all())
    rim = sphere.draw(CAMERA, replace(LOOK, near=1.25))
    assert bool((rim[SIZE[1] // 2, SIZE[0] // 2] == 1).all())
    assert 0 < int((rim[..., 1] == 0).sum()) < int((whole[..., 1] == 0).sum())


def test_the_range_of_depth_is_in_units_of_the_input(drawer: Drawer, balls: Subject) -> None:
    assert balls.unit == pytest.approx(2.0)
    drawer.draw(CAMERA, replace(LOOK, output="depth"))
    low, high = drawer.limits["depth"]
    assert 2 * 1.2 < low < high < 2 * 3.0


def test_unknown_outputs_are_named(drawer: Drawer) -> None:
    with pytest.raises(StudioError, match=r"does not render 'heat'.*rgb"):
        drawer.draw(CAMERA, replace(LOOK, output="heat"))


def test_cameras_go_to_the_input_and_back(balls: Subject) -> None:
    cameras = ball_cameras()
    moved = camera_in_input(cameras, balls)
    torch.testing.assert_close(moved.origins, 2 * cameras.origins + torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(camera_in_scene(moved, balls).camera_to_world, cameras.camera_to_world)


# ---- comparison ----------------------------------------------------------------------------------------------------
def test_parted_pictures() -> None:
    left, right = np.zeros((4, 10, 3), np.uint8), np.full((4, 10, 3), 100, np.uint8)
    assert (parted(left, right, 0.0) == right).all()
    assert (parted(left, right, 1.0) == left).all()
    half = parted(left, right, 0.5)
    assert (half[:, :4] == 0).all()
    assert (half[:, 4:6] == 255).all()  # the line
    assert (half[:, 6:] == 100).all()


def comparison(balls: Subject, share: float) -> Comparison:
    assert balls.photos is not None
    return Comparison(balls.photos[0], balls.photos.camera(0), lambda: share, balls.size)


def test_a_photo_beside_its_render(balls: Subject, drawer: Drawer) -> None:
    """The photos are renders, so both sides are the same picture, up to 8 bits."""
    pictures = [comparison(balls, share).picture(SIZE, LOOK, drawer).astype(int) for share in (0.0, 1.0)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    assert pictures[0].std() > 20


@pytest.mark.parametrize("canvas", [(240, 160), (300, 100), (100, 300)])
def test_a_photo_is_shown_whole_and_fits_the_3d_objects(balls: Subject, canvas: tuple[int, int]) -> None:
    at_photo = comparison(balls, 0.0)
    view = at_photo.view(canvas)
    assert at_photo.is_at(view)
    camera = view.camera()
    # A point in the photo's corner lies where the picture on the canvas has its corner.
    corner = at_photo.camera.unproject(torch.tensor([0.0, 0.0]), torch.tensor(2.0))
    pixel, _ = camera.project(corner)
    scale = min(canvas[0] / SIZE[0], canvas[1] / SIZE[1])
    expected = [(canvas[0] - SIZE[0] * scale) / 2, (canvas[1] - SIZE[1] * scale) / 2]
    assert pixel.tolist() == pytest.approx(expected, abs=0.01)
    moved = View(view.wxyz, view.position + np.array([0.01 * balls.size, 0, 0]), view.fov, canvas)
    assert not at_photo.is_at(moved)
    # A browser tells of places on its way there, too.
    assert [at_photo.is_left(v) for v in (moved, view, view, moved)] == [False, False, False, True]
    turned = View(view.wxyz + np.array([0, 0.02, 0, 0]), view.position, view.fov, canvas)
    assert not at_photo.is_at(replace(turned, wxyz=turned.wxyz / np.linalg.norm(turned.wxyz)))


def test_moving_the_line_draws_nothing_anew(balls: Subject, drawer: Drawer) -> None:
    share = [0.2]
    assert balls.photos is not None
    at_photo = Comparison(balls.photos[0], balls.photos.camera(0), lambda: share[0], balls.size)
    at_photo.picture(SIZE, LOOK, drawer)
    assert at_photo.ready(SIZE, LOOK)

    def draw(*arguments: object, **options: object) -> torch.Tensor:
        raise AssertionError("drawn again")

    drawer.draw = draw  # type: ignore[method-assign, assignment]
    share[0] = 0.8
    at_photo.picture(SIZE, LOOK, drawer)
    assert not at_photo.ready(SIZE, replace(LOOK, near=1.0))


# ---- where a page starts -------------------------------------------------------------------------------------------
def test_first_views_see_the_scene(balls: Subject) -> None:
    first = balls.first_view()
    train = balls.scene.split("train")[0].camera  # type: ignore[union-attr]
    torch.testing.assert_close(first.position, train.origins.double())
    assert first.fov == pytest.approx(0.9, abs=1e-5)
    assert float((first.target - first.position).norm()) == pytest.approx(2.0, rel=0.05)

    alone = Subject("file", field=balls.field, cloud=ball_cloud(), up=(0.0, -1.0, 0.0)).first_view()
    away = alone.position - alone.target
    assert float(away.norm()) > 1.0
    assert float(away[1]) < 0  # above, where up is -y
    assert math.isclose(alone.fov, 0.9)
