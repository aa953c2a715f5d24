"""The classic network: sizes, encodings, what depends on what; directions as angles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.plugin import SceneInfo
from studio_nerf import angles_from_direction, direction_from_angles
from studio_nerf.classic.config import NerfConfig
from studio_nerf.classic.field import NerfField
from studio_nerf.classic.network import DIRECTION_LEVELS, POSITION_LEVELS, RadianceMlp, positional_encoding


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_one_network_has_595_844_parameters_and_the_paper_has_two() -> None:
    assert count(RadianceMlp()) == 595_844
    paper = NerfField(NerfConfig.preset("paper"), SceneInfo())
    assert {name: count(part) for name, part in paper.networks().items()} == {"coarse": 595_844, "fine": 595_844}
    assert count(paper) == 2 * 595_844
    assert count(NerfField(NerfConfig(), SceneInfo())) == 595_844


def test_paper_preset_is_the_papers() -> None:
    config = NerfConfig.preset("paper")
    assert (config.sampling, config.coarse_samples, config.fine_samples, config.rays) == ("hierarchical", 64, 128, 4096)
    assert (config.learning_rate, config.learning_rate_final, config.density_activation) == (5e-4, 5e-5, "relu")
    assert config.precision == "fp32"
    assert (POSITION_LEVELS, DIRECTION_LEVELS) == (10, 4)


def test_positional_encoding_by_hand() -> None:
    x = torch.tensor([[0.25, -0.5]], dtype=torch.float64)
    found = positional_encoding(x, 2)[0].tolist()
    s, c = math.sin, math.cos
    pi = math.pi
    expected = [0.25, -0.5, s(pi / 4), s(-pi / 2), s(pi / 2), s(-pi), c(pi / 4), c(-pi / 2), c(pi / 2), c(-pi)]
    assert found == pytest.approx(expected, abs=1e-12)
    assert positional_encoding(torch.zeros(5, 3), POSITION_LEVELS).shape == (5, 63)
    assert positional_encoding(torch.zeros(5, 3), DIRECTION_LEVELS).shape == (5, 27)


def test_the_forward_pass_is_figure_7() -> None:
    """Against the same layers applied by hand in float64."""
    torch.manual_seed(0)
    network = RadianceMlp()
    x, d = torch.rand(6, 3) * 2 - 1, torch.nn.functional.normalize(torch.randn(6, 3), dim=-1)
    density, rgb = network(x, d)
    weights = {name: p.detach().double().numpy() for name, p in network.named_parameters()}

    def linear(name: str, value: np.ndarray) -> np.ndarray:
        return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    gamma = positional_encoding(x.double(), 10).numpy()
    hidden = gamma
    for i in range(8):
        if i == 5:
            hidden = np.concatenate([gamma, hidden], axis=1)
        hidden = np.maximum(linear(f"trunk.{i}", hidden), 0)
    raw = linear("density", hidden)[:, 0]
    seen = np.concatenate([linear("bottleneck", hidden), positional_encoding(d.double(), 4).numpy()], axis=1)
    expected = 1 / (1 + np.exp(-linear("rgb", np.maximum(linear("view", seen), 0))))
    np.testing.assert_allclose(density.detach().numpy(), np.maximum(raw, 0), atol=1e-5)
    np.testing.assert_allclose(rgb.detach().numpy(), expected, atol=1e-5)


def test_density_sees_only_the_position_and_colour_the_direction_too() -> None:
    torch.manual_seed(1)
    network = RadianceMlp("softplus")
    x = torch.rand(8, 3) * 2 - 1
    first, second = (torch.nn.functional.normalize(torch.randn(8, 3), dim=-1) for _ in range(2))
    density_1, rgb_1 = network(x, first)
    density_2, rgb_2 = network(x, second)
    assert torch.equal(density_1, density_2)
    assert bool((rgb_1 != rgb_2).all())
    (rgb_1.sum() + density_1.sum()).backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in network.parameters())


def test_density_noise_is_added_before_the_activation() -> None:
    network = RadianceMlp()
    features = network.features(torch.rand(4, 3))
    raw = network.density(features)[:, 0]
    noise = torch.tensor([5.0, -5.0, 0.0, 1.0])
    torch.testing.assert_close(network.density_of(features, noise), (raw + noise).clamp(min=0))


@pytest.mark.parametrize(
    ("theta", "phi", "expected"),
    [
        (0.0, 1.3, (0, 0, 1)),
        (math.pi, 0.0, (0, 0, -1)),
        (math.pi / 2, 0.0, (1, 0, 0)),
        (math.pi / 2, math.pi / 2, (0, 1, 0)),
        (math.pi / 3, math.pi, (-math.sqrt(3) / 2, 0, 0.5)),
    ],
)
def test_directions_of_angles(theta: float, phi: float, expected: tuple[float, ...]) -> None:
    found = direction_from_angles(torch.tensor(theta, dtype=torch.float64), torch.tensor(phi, dtype=torch.float64))
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(st.floats(1e-3, math.pi - 1e-3), st.floats(-math.pi + 1e-3, math.pi - 1e-3), st.floats(0.1, 9))
def test_angles_and_directions_are_inverse(theta: float, phi: float, length: float) -> None:
    angles = torch.tensor([theta, phi], dtype=torch.float64)
    direction = direction_from_angles(*angles)
    assert float(direction.norm()) == pytest.approx(1)
    assert [float(a) for a in angles_from_direction(length * direction)] == pytest.approx([theta, phi], abs=1e-9)


def test_angles_broadcast() -> None:
    assert direction_from_angles(torch.zeros(4, 1), torch.zeros(3)).shape == (4, 3, 3)
