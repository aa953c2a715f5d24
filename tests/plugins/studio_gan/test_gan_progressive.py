"""ProGAN: fading in begins at the old network and ends at the new one, for both networks and for real pictures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from studio_gan.progressive import (
    EqualisedConv,
    PixelNorm,
    ProgressiveDiscriminator,
    ProgressiveGenerator,
    enlarge,
    level_widths,
    shrink,
    stage_at,
)

TINY = 1e-6


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("level", [0, 1])
def test_the_generator_fades_from_the_old_to_the_new(level: int) -> None:
    generator = ProgressiveGenerator(6, 2, 16, 4).double()
    z = torch.randn(3, 6).double()
    old, new = generator(z, level), generator(z, level + 1)
    assert old.shape[-1] == 4 * 2**level
    assert new.shape[-1] == 8 * 2**level
    torch.testing.assert_close(generator(z, level + TINY), enlarge(old, new.shape[-1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(generator(z, level + 1 - TINY), new, atol=1e-4, rtol=0)
    torch.testing.assert_close(generator(z, level + 0.25), 0.75 * enlarge(old, new.shape[-1]) + 0.25 * new)


@pytest.mark.parametrize("level", [0, 1])
def test_the_discriminator_fades_from_the_old_to_the_new(level: int) -> None:
    discriminator = ProgressiveDiscriminator(2, 16, 4).double()
    x = torch.randn(3, 2, 8 * 2**level, 8 * 2**level).double()
    old, new = discriminator(F.avg_pool2d(x, 2), level), discriminator(x, level + 1)
    torch.testing.assert_close(discriminator(x, level + TINY), old, atol=1e-4, rtol=0)
    torch.testing.assert_close(discriminator(x, level + 1 - TINY), new, atol=1e-4, rtol=0)
    assert not torch.allclose(old, new, atol=1e-2)


def test_real_pictures_fade_as_generated_ones() -> None:
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(shrink(x, 2.0), x)
    torch.testing.assert_close(shrink(x, 0.0), F.avg_pool2d(x, 4))
    half = F.avg_pool2d(x, 2)
    torch.testing.assert_close(shrink(x, 0.5), 0.5 * half + 0.5 * enlarge(F.avg_pool2d(x, 4), 8))


def test_stages_hold_then_fade() -> None:
    # Two levels to grow by within half of the training: hold 0, fade to 1, hold 1, fade to 2.
    times = [0.0, 0.1, 0.125, 0.1875, 0.25, 0.3, 0.375, 0.4375, 0.5, 1.0]
    stages = [stage_at(t, 2, 0.5) for t in times]
    assert stages == pytest.approx([0, 0, 0, 0.5, 1, 1, 1, 1.5, 2, 2])


def test_new_layers_learn_only_once_they_fade_in() -> None:
    generator = ProgressiveGenerator(6, 2, 16, 4)
    generator(torch.randn(2, 6), 0.0).sum().backward()
    touched = {name for name, p in generator.named_parameters() if p.grad is not None}
    assert touched == {n for n, _ in generator.named_parameters() if n.startswith(("blocks.0.", "to_rgb.0."))}


def test_widths_halve_as_sides_double() -> None:
    assert level_widths(64, 16) == [256, 128, 64, 32, 16]


def test_equalised_weights_keep_the_variance() -> None:
    layer = EqualisedConv(64, 256, 3, gain=1.0)
    assert float(layer.weight.detach().std()) == pytest.approx(1.0, abs=0.02)
    assert float(layer(torch.randn(8, 64, 9, 9)).detach().std()) == pytest.approx(1.0, abs=0.05)


def test_pixel_norm_by_hand() -> None:
    out = PixelNorm()(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)).flatten()
    assert out.tolist() == pytest.approx([3 / 12.5**0.5, 4 / 12.5**0.5])
