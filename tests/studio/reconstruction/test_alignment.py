"""Similarity alignment of points."""

from __future__ import annotations

import pytest
import torch

from studio.cameras.poses import so3_exp
from studio.reconstruction import align_similarity


def test_a_known_similarity_is_found_again() -> None:
    generator = torch.Generator().manual_seed(3)
    points = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    turn = so3_exp(torch.tensor([0.4, -2.1, 0.9], dtype=torch.float64))
    shift = torch.tensor([3.0, -1.0, 20.0], dtype=torch.float64)
    found = align_similarity(points, 2.5 * points @ turn.T + shift)
    torch.testing.assert_close(found.matrix[:3, :3], 2.5 * turn)
    torch.testing.assert_close(found.matrix[:3, 3], shift)


def test_a_mirror_image_is_not_mirrored_back() -> None:
    generator = torch.Generator().manual_seed(4)
    points = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    found = align_similarity(points, points * torch.tensor([1.0, 1.0, -1.0]))
    assert torch.linalg.det(found.matrix[:3, :3]) > 0


def test_points_that_fix_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="n >= 3"):
        align_similarity(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="coincide"):
        align_similarity(torch.ones(4, 3), torch.rand(4, 3))
