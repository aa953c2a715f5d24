"""Median depth by tiles equals that of the reference, which compares all pixels with all splats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from studio_splat import median_depth as module
from studio_splat import rasterization, reference
from studio_splat.median_depth import median_depth

NAMES = ("means2d", "conics", "opacities", "depths", "radii")


@pytest.mark.parametrize("pairs_at_once", [1 << 23, 3 * 256, 1])
@pytest.mark.parametrize("size", [(75, 50), (16, 16), (1, 1), (33, 7)])
def test_median_depth_is_the_reference_s(
    make_scene: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], pairs_at_once: int
) -> None:
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", pairs_at_once)
    width, height = size
    scene = make_scene(150, seed=4, width=width, height=height)
    scene["means"][::3] = scene["means"][1::3]  # pairs of equal depth: the smaller index is in front
    _, _, meta = rasterization(**scene, packed=False, backend="reference")
    splats = {name: meta[name][0, 0] if meta[name].dim() == 4 else meta[name][0] for name in NAMES}
    found = median_depth(**splats, width=width, height=height)
    seen = (splats["radii"] > 0).all(dim=-1)
    shown = {name: splats[name][seen] for name in NAMES if name != "radii"}
    expected = reference.composite(
        features=torch.ones(len(shown["depths"]), 1).double(), width=width, height=height, **shown
    )
    assert torch.equal(found, expected.median_depths)
    assert torch.equal(found > 0, expected.alphas >= 0.5)
    assert bool((found > 0).any())


def test_a_single_splat_by_hand() -> None:
    """One round splat of standard deviation 2: its alpha passes one half at 2 sqrt(2 ln(0.9 / 0.5)) = 2.17 pixels."""
    found = median_depth(
        torch.tensor([[10.5, 8.5]]),
        torch.tensor([[0.25, 0.0, 0.25]]),
        torch.tensor([0.9]),
        torch.tensor([3.5]),
        torch.tensor([[7, 7]]),
        width=21,
        height=17,
    )[..., 0]
    rows, columns = torch.meshgrid(torch.arange(17), torch.arange(21), indexing="ij")
    inside = (rows - 8) ** 2 + (columns - 10) ** 2 < 2.168**2
    assert torch.equal(found, torch.where(inside, 3.5, 0.0))
