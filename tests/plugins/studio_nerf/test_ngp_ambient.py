"""What is shown where no photo looked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from studio.cameras import Cameras, look_at
from studio.plugin import SceneInfo
from studio.scene import Frame, Photo, PhotoStore, Scene
from studio_nerf.ngp.ambient import Ambient
from studio_nerf.ngp.config import NgpConfig
from studio_nerf.ngp.field import NgpField

UP = torch.tensor([0.0, 0.0, 1.0])
SLOPES = torch.tensor([[0.1, 0.0, 0.2], [0.0, 0.15, -0.1], [0.2, -0.1, 0.0]])


def sky(directions: Tensor) -> Tensor:
    """A colour that is linear in the direction."""
    return 0.5 + directions @ SLOPES


class Photos(list[Photo]):
    def camera(self, index: int) -> Cameras:
        return self[index].camera


def photos(*, masked: bool = False) -> PhotoStore:
    """Six photos of the sky from the origin, one to each side; with masks, what is masked is white."""
    sides = torch.cat([torch.eye(3), -torch.eye(3)])
    taken = Photos()
    for side in sides:
        up = UP if abs(float(side[2])) < 0.5 else torch.tensor([0.0, 1.0, 0.0])
        camera = Cameras.make(look_at(torch.zeros(3), side, up).float(), width=32, height=32, fx=16.0)
        image = (255 * sky(camera.rays().directions.float())).round().to(torch.uint8)
        mask = None
        if masked:
            mask = torch.ones(32, 32, dtype=torch.bool)
            mask[:, 10:] = False
            image[~mask] = 255
        taken.append(Photo(cast(Frame, SimpleNamespace(name="photo")), image, mask, camera))
    return cast(PhotoStore, taken)


@pytest.mark.parametrize("masked", [False, True])
def test_a_sky_that_is_linear_in_the_direction_is_found(masked: bool) -> None:
    ambient = Ambient()
    ambient.fit(photos(masked=masked), torch.Generator().manual_seed(0))
    directions = torch.nn.functional.normalize(torch.randn(100, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    torch.testing.assert_close(ambient.colors(directions), sky(directions), rtol=0, atol=0.01)


def test_photos_that_are_masked_altogether_say_nothing() -> None:
    ambient, store = Ambient(), photos(masked=True)
    for photo in cast(Photos, store):
        assert photo.mask is not None
        photo.mask[:] = False
    ambient.fit(store, torch.Generator())
    assert torch.equal(ambient.colors(UP[None]), torch.zeros(1, 3))


def test_it_shows_where_nothing_is_known_unless_a_background_is_wanted() -> None:
    scene = cast(Scene, SimpleNamespace(points=None))
    camera = Cameras.make(look_at(torch.zeros(3), UP, torch.tensor([0.0, 1.0, 0.0])).float(), width=8, height=8, fx=8.0)
    shown = {}
    for wanted in (True, False):
        config = NgpConfig(space="contract", ambient=wanted, **NgpConfig.CHECK)
        field = NgpField(config, SceneInfo(num_train=6, camera_extent=1.0))
        field.initialize(scene, photos(), torch.Generator().manual_seed(0))
        field.grid.set_cells(torch.zeros_like(field.grid.density, dtype=torch.bool))
        rendered = field.render(camera, ("rgb", "opacity"), background=torch.tensor([1.0, 0.0, 1.0]))
        assert float(rendered["opacity"].abs().max()) == 0.0
        shown[wanted] = rendered["rgb"]
    torch.testing.assert_close(shown[True], sky(camera.rays().directions.float()), rtol=0, atol=0.01)
    assert torch.equal(shown[False], torch.tensor([1.0, 0.0, 1.0]).expand(8, 8, 3))


def test_objects_on_a_background_have_none() -> None:
    assert NgpField(NgpConfig(), SceneInfo(has_alpha=True)).ambient is None
    assert NgpField(NgpConfig(space="contract"), SceneInfo(has_alpha=True)).ambient is None
