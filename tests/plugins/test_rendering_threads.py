"""A Field may be rendered from several threads at once: each gets the picture that it would get alone."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import studio
from studio.plugin import Field
from studio.training.start import TrainOptions

SMALL: dict[str, dict[str, Any]] = {
    "splat": {"max_gaussians": 2000},
    "ngp": {"levels": 4, "finest": 64, "log2_rows": 12, "samples": 2048, "steps_across": 64, "grid_resolution": 32},
    "nerf": {"rays": 64, "coarse_samples": 8, "fine_samples": 8},
}
ROUNDS = {"splat": 30, "ngp": 10, "nerf": 1}


@pytest.mark.parametrize("name", list(SMALL))
def test_threads_get_the_pictures_that_they_would_get_alone(name: str, tiny_scene: Path, tmp_path: Path) -> None:
    options = TrainOptions(output=tmp_path, device="cpu", tensorboard=False)
    run = studio.train(name, tiny_scene, options=options, steps=20, **SMALL[name])
    field = run.plugin
    assert isinstance(field, Field)
    camera = run.cameras("train")[0]
    cameras = [camera, camera.rescale(0.4)]
    outputs = tuple(output for output in ("rgb", "depth", "normals") if output in field.output_names)
    alone = [field.render(view, outputs) for view in cameras]
    assert all(float(picture["rgb"].std()) > 0.01 for picture in alone)
    # A copy has not rendered yet: what it needs for that is made by the threads.
    shared = copy.deepcopy(field)

    def wrong(which: int) -> list[str]:
        pictures = [shared.render(cameras[which], outputs) for _ in range(ROUNDS[name])]
        return [
            output for seen in pictures for output in outputs if not torch.equal(seen[output], alone[which][output])
        ]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(wrong, (0, 1, 0, 1))) == [[]] * 4
