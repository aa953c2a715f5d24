"""First Gaussians: sizes by neighbours, thinning, the visual hull, and clear errors."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from splat_scenes import make_camera, make_photo, ring_poses

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.scene import Frame, Photo, PointCloud, Scene
from studio_splat.initial import SH_C0, gaussians_from_points, initial_points, visual_hull

pytestmark = pytest.mark.usefixtures("one_thread")

RADIUS = 0.5
SIZE = 96


class Photos:
    """Photos in memory, as `PhotoStore` gives them."""

    def __init__(self, photos: list[Photo]) -> None:
        self.photos = photos

    def __len__(self) -> int:
        return len(self.photos)

    def get(self, index: int) -> Photo:
        return self.photos[index]


def sphere_photo(camera: Cameras, centre: torch.Tensor, name: str, *, alpha: bool = True) -> Photo:
    """The exact silhouette of a sphere: pixels whose ray comes within the radius; red above, green below."""
    rays = camera.rays()
    to_centre = centre - rays.origins
    along = (to_centre * rays.directions).sum(dim=-1, keepdim=True)
    closest = rays.origins + along * rays.directions
    distance = (closest - centre).norm(dim=-1)
    hit = distance < RADIUS
    surface = rays.origins + (along - (RADIUS**2 - distance[..., None] ** 2).clamp(min=0).sqrt()) * rays.directions
    above = surface[..., 2] > centre[2]
    image = torch.zeros(*hit.shape, 4, dtype=torch.uint8)
    image[..., 0] = torch.where(above, 255, 0)
    image[..., 1] = torch.where(above, 0, 255)
    image[..., 2] = 102
    image[..., 3] = torch.where(hit, 255, 0)
    return make_photo(camera, image if alpha else image[..., :3], name=name)


def make_scene(
    points: PointCloud | None = None, *, views: int = 24, alpha: bool = True, bounds: float | None = 1.5
) -> tuple[Scene, Photos]:
    centre = torch.tensor([0.1, -0.05, 0.2])
    cameras = [make_camera(pose.float(), SIZE, SIZE) for pose in ring_poses(views)]
    photos = [sphere_photo(camera, centre, f"{i}.png", alpha=alpha) for i, camera in enumerate(cameras)]
    frames = tuple(Frame(p.frame.name, Path(p.frame.name), p.camera, "train") for p in photos)
    box = None if bounds is None else torch.tensor([[-bounds] * 3, [bounds] * 3])
    return Scene("ball", Path("ball"), "blender", frames, points, box), Photos(photos)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_points(n: int) -> PointCloud:
    return PointCloud(torch.randn(n, 3, generator=seeded()), torch.rand(n, 3, generator=seeded(1)))


# ---- sizes -----------------------------------------------------------------------------------------------------------
def test_size_is_the_distance_to_the_three_nearest() -> None:
    xyz = torch.tensor([[0.0, 0, 0], [1.0, 0, 0], [0, 2.0, 0], [0, 0, 3.0], [100.0, 0, 0]])
    rgb = torch.tensor([[0.0, 0.5, 1.0]]).repeat(5, 1)
    params = gaussians_from_points(xyz, rgb, sh_degree=2, opacity=0.1)
    sizes = params["scales"].exp()
    assert sizes[0].tolist() == pytest.approx([math.sqrt((1 + 4 + 9) / 3)] * 3)
    # From (1, 0, 0): 1, sqrt 5, sqrt 10.
    assert sizes[1].tolist() == pytest.approx([math.sqrt((1 + 5 + 10) / 3)] * 3)
    assert params["means"].tolist() == xyz.tolist()
    assert params["opacities"].sigmoid().tolist() == pytest.approx([0.1] * 5)
    assert params["quats"].tolist() == [[1, 0, 0, 0]] * 5
    assert (0.5 + SH_C0 * params["sh0"][0, 0]).tolist() == pytest.approx([0.0, 0.5, 1.0])
    assert params["shN"].shape == (5, 8, 3)
    doubled = gaussians_from_points(xyz, rgb, sh_degree=0, scale=2.0)["scales"].exp()
    assert torch.allclose(doubled, 2 * sizes)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_points_get_finite_sizes(n: int) -> None:
    params = gaussians_from_points(torch.arange(3.0 * n).view(n, 3), torch.rand(n, 3), sh_degree=0)
    expected = 0.1 if n == 1 else {2: math.sqrt(27), 3: math.sqrt((27 + 108) / 2)}[n]
    assert float(params["scales"][0, 0].exp()) == pytest.approx(expected)
    assert params["shN"].shape == (n, 0, 3)


def test_coincident_points_are_not_degenerate() -> None:
    params = gaussians_from_points(torch.zeros(8, 3), torch.rand(8, 3), sh_degree=1)
    assert params["scales"].exp().flatten().tolist() == pytest.approx([math.sqrt(1e-7)] * 24)


# ---- points and chance -----------------------------------------------------------------------------------------------
def test_points_are_thinned_deterministically() -> None:
    scene, photos = make_scene(make_points(500))
    chosen, colors = initial_points("auto", scene, photos, 120, seeded(7))
    again, _ = initial_points("auto", scene, photos, 120, seeded(7))
    other, _ = initial_points("auto", scene, photos, 120, seeded(8))
    assert torch.equal(chosen, again)
    assert not torch.equal(chosen, other)
    assert chosen.shape == colors.shape == (120, 3)
    # Every one is a point of the scene with its own colour, in the scene's order, and none is taken twice.
    assert scene.points is not None
    which = torch.cdist(chosen, scene.points.xyz).argmin(dim=1)
    assert torch.equal(scene.points.xyz[which], chosen)
    assert torch.equal(scene.points.rgb[which], colors)
    assert bool((which.diff() > 0).all())
    everything, _ = initial_points("points", scene, photos, 1000, seeded())
    assert torch.equal(everything, scene.points.xyz)


def test_few_points_are_passed_over_by_auto_but_taken_when_asked_for() -> None:
    scene, photos = make_scene(make_points(99), alpha=False)
    automatic, _ = initial_points("auto", scene, photos, 300, seeded())
    assert len(automatic) == 300
    asked, _ = initial_points("points", scene, photos, 300, seeded())
    assert len(asked) == 99


def test_random_points_fill_the_bounds() -> None:
    scene, photos = make_scene(alpha=False)
    points, colors = initial_points("auto", scene, photos, 4000, seeded())
    assert points.shape == colors.shape == (4000, 3)
    assert scene.bounds is not None
    assert bool((points >= scene.bounds[0]).all() & (points <= scene.bounds[1]).all())
    assert torch.allclose(points.mean(dim=0), torch.zeros(3), atol=0.08)
    assert torch.allclose(points.std(dim=0), torch.full((3,), 3 / math.sqrt(12)), atol=0.05)
    assert bool((colors >= 0).all() & (colors <= 1).all())


def test_without_bounds_the_box_is_around_the_points_or_the_cameras() -> None:
    scene, photos = make_scene(make_points(50), alpha=False, bounds=None)
    points, _ = initial_points("random", scene, photos, 1000, seeded())
    assert scene.points is not None
    low, high = scene.points.bounds()
    assert bool((points >= low).all() & (points <= high).all())
    bare = dataclasses.replace(scene, points=None)
    points, _ = initial_points("random", bare, photos, 1000, seeded())
    assert float(points.abs().max()) < 1.5 * bare.camera_extent + 1
    assert float(points.abs().max()) > 0.9 * 1.5 * bare.camera_extent


# ---- visual hull -----------------------------------------------------------------------------------------------------
def test_the_hull_of_a_sphere_s_silhouettes() -> None:
    scene, photos = make_scene()
    points, colors = visual_hull(scene, photos, resolution=48)  # type: ignore[arg-type]
    assert len(points) > 500
    distance = (points - torch.tensor([0.1, -0.05, 0.2])).norm(dim=-1)
    # Each of the silhouettes is exact to half a pixel, 0.5 / 105 of the distance 3.1.
    pixel = 0.5 * math.sqrt(2) * 3.1 / 105
    cell = 2 * (RADIUS + pixel) / 42
    # Only surface cells: none lies deeper than the diagonal of a cell under the surface ...
    assert float(distance.min()) > RADIUS - math.sqrt(3) * cell - pixel
    for photo in photos.photos:
        # ... and every one is within the silhouette cone of every view: the hull's definition.
        camera = photo.camera
        origin = camera.camera_to_world[:3, 3]
        rays = torch.nn.functional.normalize(points - origin, dim=-1)
        to_centre = torch.tensor([0.1, -0.05, 0.2]) - origin
        passes = (to_centre - (rays * to_centre).sum(dim=-1, keepdim=True) * rays).norm(dim=-1)
        assert float(passes.max()) < RADIUS + pixel
    # Between the poles, where cameras look at it from all around, the hull is the sphere itself.
    belt = (points[:, 2] - 0.2).abs() < 0.2
    assert float(distance[belt].max()) < RADIUS + 3 * pixel
    # The ring sees the upper half red and the lower half green.
    upper, lower = points[:, 2] > 0.2 + 0.25, points[:, 2] < 0.2 - 0.25
    assert torch.allclose(colors[upper].mean(dim=0), torch.tensor([1.0, 0.0, 0.4]), atol=0.1)
    assert torch.allclose(colors[lower].mean(dim=0), torch.tensor([0.0, 1.0, 0.4]), atol=0.1)


def test_auto_takes_the_hull_of_photos_with_alpha() -> None:
    scene, photos = make_scene(views=8)
    points, _ = initial_points("auto", scene, photos, 150, seeded())
    assert len(points) == 150
    assert float((points - torch.tensor([0.1, -0.05, 0.2])).norm(dim=-1).max()) < 2 * RADIUS


def test_cells_that_no_view_sees_are_not_in_the_hull() -> None:
    scene, photos = make_scene(views=2, bounds=40.0)
    points, colors = visual_hull(scene, photos, resolution=96)  # type: ignore[arg-type]
    for point in points:
        assert any(
            0 <= float(xy[0]) < SIZE and 0 <= float(xy[1]) < SIZE and float(depth) > 0
            for xy, depth in (photo.camera.project(point) for photo in photos.photos)
        )
    assert bool(colors.isfinite().all())


# ---- errors ----------------------------------------------------------------------------------------------------------
def test_what_was_asked_for_and_is_not_there_is_an_error() -> None:
    scene, photos = make_scene(alpha=False)
    with pytest.raises(StudioError, match="ball: the scene has no points"):
        initial_points("points", scene, photos, 10, seeded())
    with pytest.raises(StudioError, match="ball: the photos have no alpha"):
        initial_points("hull", scene, photos, 10, seeded())


def test_an_empty_hull_is_an_error() -> None:
    scene, photos = make_scene(views=4)
    for photo in photos.photos:
        photo.image[..., 3] = 0
    with pytest.raises(StudioError, match="leaves no visual hull"):
        initial_points("auto", scene, photos, 10, seeded())


def test_points_that_are_no_numbers_are_an_error() -> None:
    points = make_points(200)
    points.xyz[11, 1] = float("nan")
    scene, photos = make_scene(points)
    with pytest.raises(StudioError, match=r"ball: point 11 of the scene is NaN or infinite \(1 of 200"):
        initial_points("auto", scene, photos, 10, seeded())
