"""Muon: what its steps are made of, against singular value decompositions and steps worked out one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from studio.plugin import DataInfo
from studio_diffusion.config import DiffusionConfig
from studio_diffusion.muon import Muon, orthogonalized
from studio_diffusion.network import Network


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 12, 40), (1, 40, 12), (3, 16, 16)])
def test_singular_values_come_close_to_one(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    matrices = random(*shape)
    # Gradients may be tiny.
    matrices[-1] *= 1e-4
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalized(matrices, dtype)
    assert found.dtype == torch.float32
    # In the bases of the singular vectors only the singular values are left.
    inside = u.mT @ found @ vh.mT
    values = inside.diagonal(dim1=1, dim2=2)
    off = inside - torch.diag_embed(values)
    assert off.abs().max() < (1e-4 if dtype == torch.float32 else 0.06)
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_nothing_stays_nothing() -> None:
    assert (orthogonalized(torch.zeros(1, 3, 5)) == 0).all()


def test_steps_by_hand() -> None:
    """Averages, the look ahead and decay one matrix at a time; convolutions as matrices of their outputs."""
    weights = [random(4, 6, seed=1), random(4, 6, seed=2), random(4, 2, 3, 3, seed=3)]
    parameters = [nn.Parameter(w.clone()) for w in weights]
    optimizer = Muon(parameters, 0.1, momentum=0.9, weight_decay=0.5)
    averages = [torch.zeros_like(w) for w in weights]
    for step in range(3):
        for i, parameter in enumerate(parameters):
            gradient = random(*weights[i].shape, seed=10 * step + i)
            parameter.grad = gradient.clone()
            averages[i] = 0.9 * averages[i] + 0.1 * gradient
            ahead = (0.1 * gradient + 0.9 * averages[i]).reshape(1, 4, -1)
            moved = 0.2 * max(ahead.shape[1:]) ** 0.5 * orthogonalized(ahead).reshape(weights[i].shape)
            weights[i] = weights[i] * (1 - 0.1 * 0.5) - 0.1 * moved
        optimizer.step()
    for parameter, expected in zip(parameters, weights, strict=True):
        torch.testing.assert_close(parameter.detach(), expected)


def test_steps_are_as_long_as_those_of_adamw() -> None:
    parameters = [nn.Parameter(torch.zeros(16, 64)), nn.Parameter(torch.zeros(64, 16))]
    for parameter in parameters:
        parameter.grad = random(*parameter.shape)
    Muon(parameters, 0.1).step()
    for parameter in parameters:
        # The singular values lie around 0.9.
        assert 0.015 < parameter.detach().square().mean().sqrt() < 0.024


def test_minimum_of_a_quadratic() -> None:
    goal = random(5, 8)
    parameter = nn.Parameter(torch.zeros(5, 8))
    optimizer = Muon([parameter], 0.5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (parameter - goal).square().sum()
        loss.backward()
        return loss.detach()

    first = float(optimizer.step(closure))
    for i in range(200):
        optimizer.param_groups[0]["lr"] = 0.5 * (1 - i / 200)
        last = float(optimizer.step(closure))
    assert last < 1e-3 * first


def test_embeddings_and_the_ends_of_the_network_are_no_inner_matrices() -> None:
    plain = {"channels": 8, "multipliers": [1, 2], "blocks": 1, "text_dim": 32, "text_layers": 1, "timesteps": 20}
    network = Network(DiffusionConfig.from_dict(plain), DataInfo((1, 16, 16), has_captions=True))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    inner = {names[id(parameter)] for parameter in network.inner_matrices()}
    all_matrices = {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
    outer = {"denoiser.input.weight", "denoiser.output.weight", "captions.table.weight", "captions.position"}
    assert all_matrices - inner == outer
    classes = Network(DiffusionConfig.from_dict(plain), DataInfo((2,), num_classes=3))
    assert all(parameter is not classes.classes.table.weight for parameter in classes.inner_matrices())
