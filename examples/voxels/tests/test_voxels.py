"""Does the voxel grid do what it declares?"""

from __future__ import annotations

import torch
from voxel_plugin import SPEC, VoxelConfig
from voxel_plugin.grid import VoxelField

from studio.plugin import SceneInfo
from studio.testing import check_plugin


def test_conformance() -> None:
    check_plugin(SPEC).require()


def test_a_ray_through_even_matter_loses_light_as_beer_and_lambert_say() -> None:
    box = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    field = VoxelField(VoxelConfig(resolution=4, samples=16), SceneInfo(bounds=box))
    origin, direction = torch.tensor([-3.0, 0.1, 0.2]), torch.tensor([1.0, 0.0, 0.0])
    found = field.ray_samples(origin, direction)
    density = field.density(torch.zeros(1, 3))
    assert torch.allclose(found["weights"].sum(), 1 - torch.exp(-2 * density[0]), atol=1e-5)
    assert float(field.density(torch.tensor([[0.0, 0.0, 1.5]]))) == 0.0
