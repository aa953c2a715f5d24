"""Autoencoders: the PCA subspace, corruptions, penalties, and codes drawn from a fitted Gaussian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from studio_vae.autoencoder import (
    CodeDecoder,
    CodeEncoder,
    CodeStatistics,
    contraction_penalty,
    corrupt,
    sparsity_penalty,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_linear_autoencoder_spans_the_pca_subspace() -> None:
    scales = torch.tensor([3.0, 2.0, 0.5, 0.3, 0.2])
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=generator(1))).Q
    x = torch.randn(500, 5, generator=generator(2)) * scales @ rotation.T
    x = x - x.mean(0)
    torch.manual_seed(0)
    encoder, decoder = CodeEncoder(5, (), 2), CodeDecoder(5, (), 2)
    optimizer = torch.optim.LBFGS(
        [*encoder.parameters(), *decoder.parameters()], max_iter=100, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (decoder(encoder(x)) - x).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    principal = torch.linalg.svd(x, full_matrices=False).Vh[:2].T
    learned = torch.linalg.qr(decoder.layers[0].weight.detach()).Q
    # Both span one plane when all cosines of the principal angles between them are 1.
    cosines = torch.linalg.svdvals(principal.T @ learned)
    torch.testing.assert_close(cosines, torch.ones(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_jacobian_and_contraction_agree_with_autograd(activation: str) -> None:
    torch.manual_seed(0)
    encoder = CodeEncoder(6, (8, 5), 3, activation).double()
    x = torch.randn(4, 6, generator=generator(), dtype=torch.float64)
    expected = torch.stack([torch.autograd.functional.jacobian(lambda v: encoder(v[None])[0], row) for row in x])
    torch.testing.assert_close(encoder.jacobian(x), expected)
    penalty = contraction_penalty(encoder, x)
    torch.testing.assert_close(penalty, expected.square().sum() / 4)
    # It is to be minimised, so it must pass gradients on.
    penalty.backward()
    assert float(encoder.layers[0].weight.grad.abs().sum()) > 0


def test_sparsity_by_hand() -> None:
    codes = torch.tensor([[3.0, -4.0], [0.0, 1.0]])
    assert float(sparsity_penalty(codes, 1)) == pytest.approx((7 + 1) / 2)
    assert float(sparsity_penalty(codes, 2)) == pytest.approx((5 + 1) / 2)


def test_gaussian_corruption_has_its_standard_deviation() -> None:
    noise = corrupt(torch.zeros(100, 1000), "gaussian", 0.25, generator())
    assert float(noise.std()) == pytest.approx(0.25, rel=0.02)


def test_masking_only_masks() -> None:
    x = torch.full((100, 1000), 0.5)
    damaged = corrupt(x, "masking", 0.3, generator())
    assert set(damaged.unique().tolist()) == {0.0, 0.5}
    assert float((damaged == 0).float().mean()) == pytest.approx(0.3, abs=0.01)


def test_salt_and_pepper_has_both() -> None:
    damaged = corrupt(torch.full((100, 1000), 0.5), "salt-and-pepper", 0.3, generator())
    assert float((damaged == 1).float().mean()) == pytest.approx(0.15, abs=0.01)
    assert float((damaged == 0).float().mean()) == pytest.approx(0.15, abs=0.01)
    assert float((damaged == 0.5).float().mean()) == pytest.approx(0.7, abs=0.01)


def test_corruption_none_and_unknown() -> None:
    x = torch.rand(2, 3)
    assert corrupt(x, "none", 0.5) is x
    with pytest.raises(ValueError, match="kind"):
        corrupt(x, "rain", 0.5)


def test_code_statistics_fit_the_gaussian_of_the_codes() -> None:
    factor = torch.tensor([[2.0, 0.0], [1.0, 0.5]])
    mean = torch.tensor([1.0, -3.0])
    codes = CodeStatistics(2)
    assert torch.equal(codes.draw(torch.ones(1, 2)), torch.ones(1, 2))
    for seed in range(100):
        codes.update(mean + torch.randn(2000, 2, generator=generator(seed)) @ factor.T)
    drawn = codes.draw(torch.randn(50_000, 2, generator=generator(999)))
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), factor @ factor.T, atol=0.1, rtol=0)


def test_code_statistics_survive_codes_that_never_vary() -> None:
    codes = CodeStatistics(3)
    codes.update(torch.tensor([[1.0, 2.0, 0.0]]).expand(10, 3))
    drawn = codes.draw(torch.randn(5, 3, generator=generator()))
    torch.testing.assert_close(drawn, torch.tensor([[1.0, 2.0, 0.0]]).expand(5, 3), atol=1e-2, rtol=0)
