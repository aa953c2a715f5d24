"""Latent space: inversion finds what was generated, boundaries part what they must."""

from __future__ import annotations

import pytest
import torch

from studio_gan.latent import arithmetic, edit_boundary, invert


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_inversion_finds_the_latent_of_a_linear_generator() -> None:
    w = normal(8, 3, seed=1)
    truth = normal(5, 3, seed=2)
    z, error = invert(lambda v: v @ w.T, truth @ w.T, normal(2, 5, 3, seed=3), steps=300, lr=0.1, prior_weight=0.0)
    torch.testing.assert_close(z, truth, atol=1e-2, rtol=0)
    assert float(error.max()) < 1e-3
    assert not z.requires_grad


def test_inversion_keeps_the_better_start() -> None:
    # G(z) = z² has two answers for 4 and, from z = 0, no slope at all.
    starts = torch.tensor([[[0.0]], [[1.0]]])
    z, error = invert(lambda v: v.square(), torch.tensor([[4.0]]), starts, steps=200, prior_weight=0.0)
    assert float(z) == pytest.approx(2.0, abs=0.01)
    assert float(error) < 1e-3


def test_inversion_works_without_gradients_around_it() -> None:
    with torch.no_grad():
        z, _ = invert(lambda v: v, torch.ones(1, 2), torch.zeros(1, 1, 2), steps=200, prior_weight=0.0)
    torch.testing.assert_close(z, torch.ones(1, 2), atol=0.02, rtol=0)


def test_arithmetic_by_hand() -> None:
    a, b, c = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 5.0]])
    assert arithmetic(a, b, c).tolist() == [1.0, 7.0]


def test_a_boundary_finds_the_direction_and_the_offset() -> None:
    normal_vector = torch.tensor([0.6, 0.0, -0.8])
    z = normal(4000, 3, seed=4)
    boundary = edit_boundary(z, z @ normal_vector > 0.5, ridge=1e-4)
    assert float(boundary.normal @ normal_vector) > 0.999
    assert float(boundary.normal.norm()) == pytest.approx(1.0, abs=1e-5)
    assert boundary.offset == pytest.approx(0.5, abs=0.03)
    assert boundary.accuracy > 0.98
    # Moving by an amount moves the distance by as much.
    moved = boundary.move(z, 1.5)
    torch.testing.assert_close(boundary.distance(moved), boundary.distance(z) + 1.5)


def test_a_boundary_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="both"):
        edit_boundary(torch.randn(4, 2), torch.ones(4, dtype=torch.bool))
