"""Networks: attention that starts as the identity, spectral norm, checkerboards, initial weights, moving averages."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from studio_gan.attention import AttentionDiscriminator, AttentionGenerator, SelfAttention, normalise_spectrally
from studio_gan.average import MovingAverage
from studio_gan.convolutional import ConvolutionalDiscriminator, ConvolutionalGenerator, initialise
from studio_gan.fully_connected import ConditionalDiscriminator, ConditionalGenerator


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_attention_starts_as_the_identity() -> None:
    x = torch.randn(2, 16, 5, 6)
    attention = SelfAttention(16)
    assert torch.equal(attention(x), x)
    # γ itself learns from the first step on.
    attention(x).square().sum().backward()
    assert float(attention.gamma.grad) != 0


def test_attention_is_the_formula_place_by_place() -> None:
    attention = SelfAttention(8).double()
    nn.init.constant_(attention.gamma, 0.7)
    x = torch.randn(1, 8, 2, 3, dtype=torch.float64)
    places = x[0].flatten(1).T
    f, g, h = (places @ layer.weight[:, :, 0, 0].T for layer in (attention.f, attention.g, attention.h))
    expected = []
    for j in range(6):
        s = torch.stack([f[i] @ g[j] for i in range(6)])
        beta = s.exp() / s.exp().sum()
        o = attention.v.weight[:, :, 0, 0] @ sum(beta[i] * h[i] for i in range(6))
        expected.append(0.7 * o + places[j])
    torch.testing.assert_close(attention(x)[0].flatten(1).T, torch.stack(expected))
    weights = attention.weights(x)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 6, dtype=torch.float64))


def test_spectral_norm_makes_the_largest_singular_value_one() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 4, 2, 1), nn.ConvTranspose2d(8, 5, 4, 2, 1), nn.Linear(7, 9))
    for module in network:
        nn.init.normal_(module.weight, 0.0, 3.0)  # type: ignore[arg-type]
    normalise_spectrally(network)
    for _ in range(100):
        # Every look at the weight in training is one power iteration.
        weights = [module.weight for module in network]
    conv, transposed, linear = weights
    # Output channels are the second axis of transposed convolutions.
    for matrix in (conv.flatten(1), transposed.transpose(0, 1).flatten(1), linear):  # type: ignore[union-attr, operator]
        assert float(torch.linalg.matrix_norm(matrix, 2)) == pytest.approx(1.0, abs=1e-3)


def test_spectral_norm_rests_in_evaluation() -> None:
    network = AttentionDiscriminator(1, 16, 4, 8)
    normalise_spectrally(network)
    network.eval()
    x = torch.randn(2, 1, 16, 16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert torch.equal(network(x), network(x))
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("side", [16, 32, 64])
def test_convolutional_shapes(side: int) -> None:
    z = torch.randn(2, 10)
    made = ConvolutionalGenerator(10, 3, side, 4)(z)
    attentive = AttentionGenerator(10, 3, side, 4, 8)(z)
    assert made.shape == attentive.shape == (2, 3, side, side)
    assert float(made.detach().abs().max()) <= 1
    assert ConvolutionalDiscriminator(3, side, 4)(made).shape == (2,)
    assert AttentionDiscriminator(3, side, 4, 8)(made).shape == (2,)


def test_no_checkerboard() -> None:
    generator = ConvolutionalGenerator(4, 1, 32, 4)
    for module in generator.modules():
        if isinstance(module, nn.ConvTranspose2d):
            assert all(k % s == 0 for k, s in zip(module.kernel_size, module.stride, strict=True))
    # Constant features through constant kernels: every pixel away from the border is alike.
    layer = generator.layers[3]
    assert isinstance(layer, nn.ConvTranspose2d)
    nn.init.constant_(layer.weight, 0.1)
    out = layer(torch.ones(1, layer.in_channels, 6, 6))[0, 0, 2:-2, 2:-2]
    torch.testing.assert_close(out, out[:1, :1].expand_as(out))


def test_batch_norm_is_not_where_it_must_not_be() -> None:
    generator, discriminator = ConvolutionalGenerator(4, 1, 32, 4), ConvolutionalDiscriminator(1, 32, 4)
    assert isinstance(generator.layers[-2], nn.ConvTranspose2d)
    assert isinstance(discriminator.layers[1], nn.LeakyReLU)
    assert not any(isinstance(m, nn.Linear) for n in (generator, discriminator) for m in n.modules())
    attentive = AttentionDiscriminator(1, 32, 4, 8)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in attentive.modules())


def test_no_module_overrides_train() -> None:
    for kind in (ConvolutionalGenerator, AttentionGenerator, ConditionalGenerator, ConditionalDiscriminator):
        assert kind.train is nn.Module.train


def test_initial_weights() -> None:
    network = ConditionalGenerator(64, (256, 512), 784, 10, 16)
    table = network.embedding.weight.clone()
    initialise(network)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            assert float(module.weight.std()) == pytest.approx(0.02, rel=0.03)
            assert float(module.bias.abs().max()) == 0
        if isinstance(module, nn.BatchNorm1d):
            assert float(module.weight.mean()) == pytest.approx(1.0, abs=0.01)
    assert torch.equal(network.embedding.weight, table)


def test_one_hot_classes_pick_rows_of_the_embedding() -> None:
    network = ConditionalGenerator(3, (8,), 5, 4, 2).eval()
    z = torch.randn(4, 3)
    whole = network(z, torch.eye(4))
    by_hand = network.layers(torch.cat([z, network.embedding.weight], dim=1))
    torch.testing.assert_close(whole, by_hand)


def test_the_average_follows_its_recurrence() -> None:
    network = nn.Linear(2, 1, bias=False)
    nn.init.constant_(network.weight, 1.0)
    average = MovingAverage(network, 0.5)
    expected = 1.0
    for t in range(1, 30):
        nn.init.constant_(network.weight, float(t))
        average.update(network)
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * t
    x = torch.ones(1, 2)
    assert float(average.run(network, x)) == pytest.approx(2 * expected, rel=1e-5)
    # The network keeps its own weights, and the average has nothing to train.
    assert float(network(x)) == pytest.approx(2 * 29)
    assert list(average.parameters()) == []


def test_the_average_holds_all_that_a_forward_pass_needs(tmp_path: object) -> None:
    network = AttentionGenerator(4, 1, 16, 4, 8)
    normalise_spectrally(network)
    average = MovingAverage(network, 0.9)
    for _ in range(3):
        network(torch.randn(8, 4))
        average.update(network)
    saved = average.state_dict()
    other = AttentionGenerator(4, 1, 16, 4, 8)
    normalise_spectrally(other)
    copy = MovingAverage(other, 0.9)
    copy.load_state_dict(saved)
    network.eval()
    other.eval()
    z = torch.randn(2, 4)
    assert torch.equal(average.run(network, z), copy.run(other, z))
    assert torch.isfinite(average.run(network, z)).all()
