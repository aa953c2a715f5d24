"""Sparse points as training rays: who sees a point, where the rays lie, and what they make of a field."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from studio.cameras import Cameras, look_at
from studio.kernels import cache
from studio.marching import PackedSamples
from studio.plugin import RayBatch, SceneInfo, TrainingContext
from studio.scene import PhotoStore, PointCloud, Scene
from studio_nerf.ngp.anchors import Anchors, joined, visible_pairs
from studio_nerf.ngp.config import NgpConfig
from studio_nerf.ngp.field import NgpField

RED, BLUE = (200, 30, 30), (30, 30, 200)
SIZE = 64
FOCAL = 60.0
UP = torch.tensor([0.0, 0.0, 1.0])


class Photos:
    """A store of photos of one colour each, except where a test paints them."""

    def __init__(self, eyes: list[list[float]], color: tuple[int, int, int]) -> None:
        self.cameras = [
            Cameras.make(look_at(torch.tensor(eye), torch.zeros(3), UP).float(), width=SIZE, height=SIZE, fx=FOCAL)
            for eye in eyes
        ]
        self.images = [torch.tensor(color, dtype=torch.uint8).expand(SIZE, SIZE, 3).clone() for _ in eyes]

    def __len__(self) -> int:
        return len(self.cameras)

    def camera(self, index: int) -> Cameras:
        return self.cameras[index]

    def __getitem__(self, index: int) -> Any:
        return SimpleNamespace(image=self.images[index], mask=None, camera=self.cameras[index])


def store(photos: Photos) -> PhotoStore:
    return cast(PhotoStore, photos)


def sheet(x: float, count: int = 15, half: float = 0.4) -> Tensor:
    """Points on the plane of this x, evenly spread."""
    line = torch.linspace(-half, half, count)
    y, z = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([torch.full_like(y, x), y, z], dim=-1).reshape(-1, 3)


def test_what_lies_behind_other_points_is_not_seen() -> None:
    """Two sheets of points: each hides the middle of the other from the camera on its own side."""
    front, back = sheet(0.5, 25), sheet(-0.5, 9, half=0.15)
    xyz = torch.cat([front, back])
    rgb = torch.tensor(RED).float().expand(len(xyz), 3) / 255
    photos = Photos([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]], RED)
    shown = visible_pairs(xyz, rgb, store(photos), [0, 1])
    assert bool(shown[: len(front), 0].all()), "the near sheet is seen"
    assert not bool(shown[len(front) :, 0].any()), "what is behind it is not"
    assert bool(shown[len(front) :, 1].all()), "but is from the other side"


def test_a_photo_of_another_colour_shows_something_else() -> None:
    xyz = sheet(0.0, 5)
    rgb = torch.tensor(RED).float().expand(len(xyz), 3) / 255
    photos = Photos([[2.0, 0.0, 0.0], [2.0, 0.5, 0.0], [2.0, -0.5, 0.0]], RED)
    photos.images[1][:] = torch.tensor(BLUE, dtype=torch.uint8)
    shown = visible_pairs(xyz, rgb, store(photos), [0, 1, 2])
    assert not bool(shown[:, 1].any())
    # Half of the three, rounded up.
    assert bool((shown.sum(dim=1) == 2).all())


def test_points_out_of_view_are_not_seen() -> None:
    xyz = torch.tensor([[0.0, 0.0, 0.0], [0.0, 30.0, 0.0], [3.0, 0.0, 0.0]])
    rgb = torch.tensor(RED).float().expand(3, 3) / 255
    shown = visible_pairs(xyz, rgb, store(Photos([[2.0, 0.0, 0.0]], RED)), [0])
    assert shown[:, 0].tolist() == [True, False, False]


def test_rays_lie_around_points_and_on_the_way_to_them() -> None:
    generator = torch.Generator().manual_seed(1)
    xyz = sheet(0.0, 7)
    rgb = torch.tensor(RED).float().expand(len(xyz), 3) / 255
    eyes = [[2.0, 0.3, 0.4], [1.6, -0.9, 0.2], [-1.5, 0.2, 0.9]]
    anchors = Anchors()
    anchors.fit(PointCloud(xyz, rgb), store(Photos(eyes, RED)), generator)
    assert len(anchors) == 2 * len(xyz)
    near, count = 0.4, 200
    drawn = anchors.draw(count, count, near, generator)
    samples = drawn.samples
    assert samples.rays == len(samples) == 2 * count
    assert torch.allclose(drawn.directions.norm(dim=-1), torch.ones(2 * count))
    assert all(min(float((eye - torch.tensor(e)).norm()) for e in eyes) < 1e-5 for eye in drawn.origins)
    # The sheet is where x is 0: every ray meets it at this distance.
    distance = -drawn.origins[:, 0] / drawn.directions[:, 0]
    around, way = slice(0, count), slice(count, None)
    assert torch.allclose(samples.midpoints[around], distance[around], rtol=1e-4)
    assert bool((samples.lengths[around] < 0.05 * distance[around]).all())
    assert torch.allclose(drawn.rgb[around], torch.tensor(RED).float().expand(count, 3) / 255)
    assert bool((samples.ends[way] < distance[way]).all())
    assert bool((samples.midpoints[way] >= near).all())
    assert torch.equal(drawn.rgb[way], drawn.background[way])
    # Anywhere on the way, not in one place.
    share = samples.midpoints[way] / distance[way]
    assert float(share.min()) < 0.3
    assert float(share.max()) > 0.85


def test_joined_samples_are_those_of_both() -> None:
    a = PackedSamples(torch.tensor([0, 2, 2]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 2.0]))
    b = PackedSamples(torch.tensor([0, 1]), torch.tensor([5.0]), torch.tensor([6.0]))
    both = joined(a, b)
    assert both.offsets.tolist() == [0, 2, 2, 3]
    assert both.starts.tolist() == [0.0, 1.0, 5.0]
    assert both.ends.tolist() == [1.0, 2.0, 6.0]


@pytest.fixture
def one_thread() -> Any:
    before = cache.get_threads()
    cache.set_threads(1)
    yield
    cache.set_threads(before)


CONFIG = NgpConfig(
    space="contract", levels=4, coarsest=8, finest=64, log2_rows=13, density_width=32, color_width=32, samples=4096,
    steps_across=128, grid_resolution=32,
)  # fmt: skip


def anchored_field(backend: str = "auto", **fields: Any) -> tuple[NgpField, torch.Generator]:
    """A field that knows a sheet of red points, and photos of nothing but grey."""
    generator = torch.Generator().manual_seed(0)
    config = NgpConfig.from_dict({**CONFIG.to_dict(), "backend": backend, **fields})
    field = NgpField(config, SceneInfo(camera_extent=1.0, num_train=3, has_alpha=False))
    photos = Photos([[1.0, 0.3, 0.2], [1.0, -0.3, 0.1], [1.0, 0.0, -0.3]], RED)
    xyz = sheet(0.0, 15)
    points = PointCloud(xyz, torch.tensor(RED).float().expand(len(xyz), 3) / 255)
    scene = cast(Scene, SimpleNamespace(points=points, split=lambda name: []))
    field.initialize(scene, store(photos), generator)
    return field, generator


def grey_batch(n: int, generator: torch.Generator) -> RayBatch:
    camera = torch.randint(3, (n,), generator=generator)
    eyes = torch.tensor([[1.0, 0.3, 0.2], [1.0, -0.3, 0.1], [1.0, 0.0, -0.3]])[camera]
    towards = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    return RayBatch(eyes, towards, torch.full((n, 3), 0.5), torch.ones(n, 1), camera, torch.zeros(n, 2))


@pytest.mark.parametrize("backend", ["kernels", "torch"])
@pytest.mark.usefixtures("one_thread")
def test_looks_and_poses_are_those_of_photos(backend: str) -> None:
    """Rays towards points belong to no photo: embeddings and poses of photos without rays in a step stay."""
    field, generator = anchored_field(backend, appearance=True, pose_refinement=True, samples=8192)
    field.setup_training(TrainingContext(20, generator=generator))
    batch = grey_batch(256, generator)
    only = batch.indices < 2
    batch = RayBatch(
        *(getattr(batch, name)[only] for name in ("origins", "directions", "rgb", "alpha", "indices", "pixels"))
    )
    # The first step moves the density, the second what depends on it.
    for step in range(2):
        figures = field.training_step(batch, step)
        assert torch.isfinite(torch.as_tensor(figures["loss"]))
    assert field.appearance is not None
    assert bool(field.appearance[:2].any())
    assert not bool(field.appearance[2].any())


@pytest.mark.parametrize("backend", ["kernels", "torch"])
@pytest.mark.usefixtures("one_thread")
def test_points_become_opaque_and_the_way_to_them_clear(backend: str) -> None:
    field, generator = anchored_field(backend)
    assert 0.5 < float(field.world.near) < 0.8, "two thirds of the way to the first points"
    assert len(field.anchors) > 200
    field.setup_training(TrainingContext(200, generator=generator))
    for step in range(200):
        figures = field.training_step(grey_batch(256, generator), step)
        assert torch.isfinite(torch.as_tensor(figures["loss"]))
    engine = field.engine()
    at = engine.density(field.anchors.xyz[:200].contiguous())
    middle = torch.lerp(field.anchors.xyz[:200], field.anchors.eyes[:200], 0.2)
    before = engine.density(middle.contiguous())
    assert float(at.median()) > 20
    assert float(before.median()) < 0.2


@pytest.mark.usefixtures("one_thread")
def test_points_are_saved_with_the_field() -> None:
    field, _ = anchored_field()
    other = NgpField(CONFIG, SceneInfo(camera_extent=1.0, num_train=3, has_alpha=False))
    state = field.state_dict()
    other.prepare_state({name: tuple(value.shape) for name, value in state.items()})
    other.load_state_dict(state)
    assert torch.equal(other.anchors.xyz, field.anchors.xyz)
    assert float(other.world.near) == float(field.world.near)


@pytest.mark.usefixtures("one_thread")
def test_a_scene_without_points_has_no_anchors() -> None:
    field = NgpField(CONFIG, SceneInfo(camera_extent=1.0, num_train=3, has_alpha=False))
    photos = Photos([[1.0, 0.3, 0.2], [1.0, -0.3, 0.1], [1.0, 0.0, -0.3]], RED)
    scene = cast(Scene, SimpleNamespace(points=None, split=lambda name: []))
    field.initialize(scene, store(photos), torch.Generator())
    assert len(field.anchors) == 0
    assert float(field.world.near) == pytest.approx(field.space.near)
