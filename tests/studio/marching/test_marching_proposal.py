"""Proposal sampling and the loss that teaches it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from studio.errors import StudioError
from studio.marching import ProposalSampler, annealing, interlevel_loss, midpoints, weights_from_density

F8 = torch.float64


def _wall(points: Tensor) -> Tensor:
    return 80.0 * ((points[..., 0] > 3.0) & (points[..., 0] < 3.2)).to(points.dtype)


def _rays(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    directions = torch.zeros(count, 3)
    directions[:, 0] = 1.0
    return torch.zeros(count, 3), directions, torch.full((count,), 0.1), torch.full((count,), 100.0)


def test_rounds_close_in_on_the_surface() -> None:
    sampler = ProposalSampler(counts=(128, 64), final=32, padding=1e-3)
    g = torch.Generator().manual_seed(0)
    proposal = sampler(*_rays(50), [_wall, _wall], generator=g)
    assert proposal.edges.shape == (50, 33)
    assert bool((proposal.edges.diff(dim=-1) >= 0).all())
    assert proposal.edges[:, 0].tolist() == pytest.approx([0.1] * 50)
    assert proposal.edges[:, -1].tolist() == pytest.approx([100.0] * 50)
    t = midpoints(proposal.edges)
    assert float(((t > 2.8) & (t < 3.4)).float().mean()) > 0.8
    # What proposes exactly what is rendered has (almost) nothing to learn.
    weights = weights_from_density(_wall(t[..., None]), proposal.edges)
    assert float(proposal.loss(weights)) < 0.05
    assert [len(w[0]) for _, w in proposal.rounds] == [128, 64]


def test_only_the_proposals_learn() -> None:
    level = torch.tensor(0.5, requires_grad=True)
    final = torch.tensor(2.0, requires_grad=True)
    sampler = ProposalSampler(counts=(16,), final=8, spacing="linear")
    proposal = sampler(*_rays(3), [lambda p: level * (p[..., 0] > 50).float()])
    t = midpoints(proposal.edges)
    assert not proposal.edges.requires_grad
    proposal.loss(weights_from_density(final * (t < 20).float(), proposal.edges)).backward()
    assert final.grad is None
    assert level.grad is not None


def test_interlevel_loss_by_brute_force() -> None:
    g = torch.Generator().manual_seed(1)
    edges = torch.rand(6, 9, generator=g, dtype=F8).sort(-1).values
    coarse = torch.rand(6, 6, generator=g, dtype=F8).sort(-1).values
    weights = torch.rand(6, 8, generator=g, dtype=F8) / 8
    bound = (torch.rand(6, 5, generator=g, dtype=F8) / 8).requires_grad_()
    expected = torch.zeros(6, dtype=F8)
    for r in range(6):
        for i in range(8):
            allowed = sum(
                float(bound.detach()[r, j])
                for j in range(5)
                if edges[r, i] < coarse[r, j + 1] and edges[r, i + 1] > coarse[r, j]
            )
            expected[r] += max(0.0, float(weights[r, i]) - allowed) ** 2 / float(weights[r, i])
    loss = interlevel_loss(edges, weights, coarse, bound)
    assert torch.allclose(loss, expected, atol=1e-12)
    torch.autograd.gradcheck(lambda b: interlevel_loss(edges, weights, coarse, b), bound)


def test_a_bound_costs_nothing() -> None:
    edges = torch.linspace(0, 1, 9)
    weights = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.2, 0.1, 0.0, 0.0])
    coarse = weights.reshape(4, 2).sum(-1)
    assert float(interlevel_loss(edges, weights, edges[::2], coarse)) == 0.0
    assert float(interlevel_loss(edges, weights, edges[::2], 0.2 * coarse)) > 0.01


def test_annealing_goes_from_even_to_exact() -> None:
    assert annealing(0.0) == 0.0
    assert annealing(1.0) == annealing(2.0) == 1.0
    assert annealing(0.1) == pytest.approx(1.0 / 1.9)
    sampler = ProposalSampler(counts=(64,), final=16, spacing="linear", padding=0.0)
    even = sampler(*_rays(1), [_wall], anneal=0.0).edges
    assert torch.allclose(even.diff(dim=-1), torch.full((1, 16), 99.9 / 16), rtol=1e-3)


def test_rays_that_miss_and_bad_input() -> None:
    origins, directions, near, _ = _rays(4)
    sampler = ProposalSampler(counts=(8,), final=4)
    proposal = sampler(origins, directions, near, near, [_wall])
    assert torch.equal(proposal.edges, near[:, None].expand(4, 5))
    with pytest.raises(StudioError, match=r"near: 0\.1 is beyond far = 0 at ray 0"):
        sampler(origins, directions, near, 0 * near, [_wall])
    with pytest.raises(ValueError, match="functions: expected one a round"):
        sampler(origins, directions, near, near + 1, [_wall, _wall])
