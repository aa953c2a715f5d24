"""The vae plugin: sizes, training, exact resume, and everything that a trained model can do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from studio.errors import StudioError
from studio.plugin import DataInfo, SampleBatch, TrainingContext
from studio.training.checkpoint import load_state, save_state
from studio.training.start import TrainOptions, prepare
from studio_vae import SPEC
from studio_vae.config import VaeConfig
from studio_vae.generator import VaeGenerator

MNIST = DataInfo((1, 28, 28), 10, tuple(map(str, range(10))))
COLOUR = DataInfo((3, 64, 64))
SMALL = {"widths": (8, 16, 16), "latent_dim": 6, "lr": 1e-2, "importance_samples": 5}
# Encoder and decoder; those of sizes of our own are summed layer by layer.
SIZES = {
    "vae-2d": (DataInfo(), 11_776, 11_234),
    "ae-2d": (DataInfo(), 11_248, 11_234),
    "cvae-mnist": (MNIST, 287_136, 165_569),
    "denoising": (MNIST, 785 * 256 + 257 * 128 + 129 * 64, 65 * 128 + 129 * 256 + 257 * 784),
    "sparse": (MNIST, 785 * 256 + 257 * 128 + 129 * 64, 65 * 128 + 129 * 256 + 257 * 784),
    "contractive": (MNIST, 785 * 128 + 129 * 32, 33 * 128 + 129 * 784),
    "beta-vae": (
        MNIST,
        16 * 10 + 32 * 145 + 64 * 289 + 2 * 16 * 1025,
        1024 * 17 + (64 * 32 * 9 + 32) + (32 * 16 * 9 + 16) + (16 * 9 + 1),
    ),
    "conv64": (
        COLOUR,
        32 * 49 + 64 * 513 + 128 * 1025 + 256 * 2049 + 2 * 128 * 4097,
        4096 * 129 + (256 * 128 * 16 + 128) + (128 * 64 * 16 + 64) + (64 * 32 * 16 + 32) + (32 * 3 * 16 + 3),
    ),
}


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def build(preset: str, info: DataInfo = DataInfo(), **changes: object) -> VaeGenerator:  # noqa: B008 (frozen)
    torch.manual_seed(0)
    settings = VaeConfig.preset(preset)
    return VaeGenerator(VaeConfig.from_dict({**settings.to_dict(), **changes}), info)


def pictures(n: int, info: DataInfo = MNIST, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """Bright squares whose place depends on the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(info.num_classes or 10, (n,), generator=generator)
    x = 0.1 * torch.rand(n, *info.sample_shape, generator=generator)
    for picture, label in zip(x, labels.tolist(), strict=True):
        picture[:, 2 * label : 2 * label + 6, 8:18] = 0.9
    return x, labels if info.num_classes else None


def fit(plugin: VaeGenerator, steps: int, x: Tensor, labels: Tensor | None = None) -> list[float]:
    plugin.setup_training(TrainingContext(steps))
    return [float(plugin.training_step(SampleBatch(x, labels), step)["loss"]) for step in range(steps)]


@pytest.fixture(scope="module")
def conditional() -> VaeGenerator:
    plugin = build("cvae-mnist", MNIST, **SMALL)
    fit(plugin, 120, *pictures(64))
    return plugin.eval()


# ---- sizes and data --------------------------------------------------------------------------------------------------
def test_the_specification_is_valid_and_names_every_preset() -> None:
    assert SPEC.problems() == []
    assert set(SPEC.presets) == set(VaeConfig.PRESETS) == set(SIZES)


@pytest.mark.parametrize("preset", list(SIZES))
def test_presets_have_their_sizes(preset: str) -> None:
    info, encoder, decoder = SIZES[preset]
    plugin = build(preset, info)
    assert {name: count(network) for name, network in plugin.networks().items()} == {
        "encoder": encoder,
        "decoder": decoder,
    }
    learned_variance = 1 if preset == "conv64" else 0
    assert count(plugin) == encoder + decoder + learned_variance
    # Without data, as `studio info` builds it, the sizes are the same.
    assert {name: count(network) for name, network in build(preset).networks().items()} == {
        "encoder": encoder,
        "decoder": decoder,
    }


@pytest.mark.parametrize(
    ("preset", "info", "named"),
    [
        ("cvae-mnist", DataInfo((3,)), "vae-2d"),
        ("denoising", DataInfo((2,), 2), "vae-2d"),
        ("vae-2d", MNIST, "cvae-mnist"),
        ("ae-2d", DataInfo((1, 28, 28)), "beta-vae"),
        ("cvae-mnist", DataInfo((1, 28, 28)), "beta-vae"),
        ("cvae-mnist", COLOUR, "conv64"),
        ("conv64", DataInfo((3, 100, 80)), "64x64"),
        ("vae-2d", DataInfo(()), "gpt"),
    ],
)
def test_wrong_data_names_the_preset_to_use(preset: str, info: DataInfo, named: str) -> None:
    with pytest.raises(StudioError) as caught:
        build(preset, info)
    assert named in str(caught.value.fix)


def test_points_for_a_model_of_pictures_leave_no_run_behind(tmp_path: Path) -> None:
    options = TrainOptions(output=tmp_path / "runs", tensorboard=False)
    with pytest.raises(StudioError, match=r"models pictures.*vae-2d"):
        prepare("vae", "toy:swiss-roll", VaeConfig.preset("cvae-mnist"), options)
    assert not (tmp_path / "runs").exists()


def test_pictures_beyond_one_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "big.npz", x=np.full((20, 1, 28, 28), 7.0, np.float32))
    options = TrainOptions(output=tmp_path / "runs", tensorboard=False)
    with pytest.raises(StudioError, match=r"\[0, 1\]"):
        prepare("vae", tmp_path / "big.npz", VaeConfig.preset("beta-vae"), options)


# ---- training --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("preset", list(SIZES))
def test_training_lowers_the_loss(preset: str) -> None:
    plugin = build(preset, SIZES[preset][0], lr=3e-3)
    if plugin.data_info.sample_shape == (2,):
        x, labels = torch.randn(64, 2, generator=torch.Generator().manual_seed(0)), None
    else:
        x, labels = pictures(8, plugin.data_info)
    losses = fit(plugin, 20, x, labels)
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3])


def test_the_kl_weight_warms_up() -> None:
    plugin = build("vae-2d", beta=2.0, beta_warmup=0.5)
    plugin.setup_training(TrainingContext(100))
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    for step, weight in ((0, 0.0), (25, 1.0), (50, 2.0), (99, 2.0)):
        figures = plugin.training_step(SampleBatch(x), step)
        expected = weight * figures["kl"] - figures["log_prob"]
        torch.testing.assert_close(figures["loss"], expected)


def test_the_learning_rate_falls_as_a_cosine() -> None:
    plugin = build("vae-2d", lr=0.01, lr_final=0.1)
    plugin.setup_training(TrainingContext(100))
    rates = []
    for step in (0, 50, 100):
        plugin.training_step(SampleBatch(torch.randn(8, 2)), step)
        rates.append(plugin._optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.01, 0.0055, 0.001])


@pytest.mark.parametrize("preset", ["vae-2d", "ae-2d"])
def test_resume_is_exact(assert_resume_is_exact: Callable[..., Any], preset: str) -> None:
    changes = {"steps": 14, "batch_size": 32, "corruption": "gaussian"}
    assert_resume_is_exact(
        "vae", "toy:swiss-roll", VaeConfig.from_dict({**VaeConfig.preset(preset).to_dict(), **changes})
    )


def test_the_state_of_a_picture_model_survives_the_file(tmp_path: Path) -> None:
    x, labels = pictures(16)
    first = build("cvae-mnist", MNIST, **SMALL)
    fit(first, 3, x, labels)
    state = {"plugin": dict(first.state_dict()), "training": first.training_state()}
    save_state(tmp_path / "state", {**state, "draws": first._context.generator.get_state()})
    loaded = load_state(tmp_path / "state")
    second = build("cvae-mnist", MNIST, **SMALL)
    second.setup_training(TrainingContext(3))
    second.load_state_dict(loaded["plugin"])
    second.load_training_state(loaded["training"])
    second._context.generator.set_state(loaded["draws"])
    losses = [float(plugin.training_step(SampleBatch(x, labels), 3)["loss"]) for plugin in (first, second)]
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


# ---- use -------------------------------------------------------------------------------------------------------------
def test_shapes_and_ranges(conditional: VaeGenerator) -> None:
    x, labels = pictures(5)
    assert conditional.sample(7).shape == (7, 1, 28, 28)
    assert conditional.encode(x, labels).shape == (5, 6)
    assert conditional.encode(x).shape == (5, 6)
    assert conditional.decode(torch.zeros(5, 6), labels).shape == (5, 1, 28, 28)
    assert conditional.class_grid(3).shape == (30, 1, 28, 28)
    assert conditional.attribute_direction(x[:2], x[2:]).shape == (6,)
    for made in (conditional.sample(20), conditional.reconstruct(x), conditional.interpolate(4)):
        assert made.dtype == torch.float32
        assert not made.requires_grad
        assert float(made.min()) >= 0
        assert float(made.max()) <= 1


def test_seeded_samples_repeat(conditional: VaeGenerator) -> None:
    def draw(seed: int, **options: float) -> Tensor:
        return conditional.sample(4, [1, 2, 3, 4], torch.Generator().manual_seed(seed), **options)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert not torch.equal(draw(1), draw(1, temperature=0.5))
    assert set(draw(1, noise=True).unique().tolist()) <= {0.0, 1.0}
    # Without variance only the class tells samples apart.
    still = conditional.sample(2, [3, 3], temperature=0.0)
    assert torch.equal(still[0], still[1])


def test_conditions_by_number_name_and_in_turn(conditional: VaeGenerator) -> None:
    def draw(condition: object, n: int = 3) -> Tensor:
        return conditional.sample(n, condition, torch.Generator().manual_seed(0))  # type: ignore[arg-type]

    assert torch.equal(draw([0, 1, 2]), draw(None))
    assert torch.equal(draw(["0", "1", "2"]), draw([0, 1, 2]))
    assert torch.equal(draw([4]), draw(torch.tensor([4, 4, 4])))
    with pytest.raises(StudioError, match=r"class 10 .* 0 to 9"):
        draw([0, 1, 10])
    with pytest.raises(StudioError, match="class -1"):
        draw([-1])
    with pytest.raises(StudioError, match="no class named 'seven'"):
        draw(["seven"])
    with pytest.raises(ValueError, match="1 or 3"):
        draw([1, 2])
    with pytest.raises(StudioError, match="conditional"):
        conditional.decode(torch.zeros(1, 6))
    with pytest.raises(StudioError, match="without classes"):
        build("vae-2d").sample(2, [0, 1])


def test_the_most_likely_class_is_the_one_that_was_drawn(conditional: VaeGenerator) -> None:
    x, labels = pictures(30, seed=5)
    assert float((conditional.most_likely_class(x) == labels).float().mean()) > 0.8


def test_the_class_decides_what_is_drawn(conditional: VaeGenerator) -> None:
    made = conditional.class_grid(2)
    rows = torch.arange(28.0)
    heights = [(picture[0].sum(1) * rows).sum() / picture.sum() for picture in made]
    # Class 9's square lies 18 rows below class 0's; noise everywhere else pulls both centres inwards.
    assert float(heights[9] - heights[0]) > 5
    assert float(heights[19] - heights[10]) > 5


def test_interpolation_starts_and_ends_at_the_reconstructions(conditional: VaeGenerator) -> None:
    x, _ = pictures(2)
    path = conditional.interpolate(5, x[0], x[1])
    torch.testing.assert_close(path[[0, -1]], conditional.reconstruct(x))
    fixed = conditional.interpolate(5, x[0], x[1], condition=[3])
    assert torch.equal(fixed, conditional.interpolate(5, x[0], x[1], condition=[3] * 5))
    ends = conditional.encode(x, [3, 3])
    torch.testing.assert_close(fixed[2], conditional.decode(0.5 * (ends[:1] + ends[1:]), [3])[0])


def test_likelihood_is_at_least_the_elbo_and_knows_the_class(conditional: VaeGenerator) -> None:
    x, labels = pictures(48, seed=6)
    assert labels is not None
    known, unknown = (float(conditional.log_likelihood(x, y).mean()) for y in (labels, None))
    assert known > float(conditional.elbo(x, labels).mean())
    assert known > float(conditional.log_likelihood(x, (labels + 1) % 10).mean()) + 10
    # p(x) is the mean of p(x|y) over ten classes: less than that of the right one, but at least a tenth of it.
    assert known - math.log(10) - 1 < unknown < known


def test_the_border_does_not_count_in_the_likelihood(conditional: VaeGenerator) -> None:
    x, labels = pictures(4)
    with_border = float(conditional.elbo(x, labels).mean())
    wide = torch.nn.functional.pad(x, (2, 2, 2, 2))
    padded = VaeGenerator(conditional.config, dataclasses.replace(MNIST, sample_shape=(1, 32, 32)))
    padded.load_state_dict(conditional.state_dict())
    # The same network and the same draws: only the border's 240 pixels, black with near certainty, tell them apart.
    assert float(padded.elbo(wide, labels).mean()) == pytest.approx(with_border)
    inner, outer = (float(p.log_likelihood(v, labels).mean()) for p, v in ((conditional, x), (padded, wide)))
    assert inner > outer


def test_points_likelihood_bounds_the_density_of_the_data() -> None:
    plugin = build("vae-2d", decoder_std=0.5, lr=5e-3)
    x = torch.randn(512, 2, generator=torch.Generator().manual_seed(3))
    fit(plugin, 200, x)
    bound = plugin.log_likelihood(x, importance_samples=100)
    entropy = math.log(2 * math.pi * math.e)
    # No model beats the entropy of the source by more than it can overfit; a poor one lies far below.
    assert -entropy - 0.5 < float(bound.mean()) < -entropy + 0.3


def test_an_autoencoder_has_no_likelihood_but_flags_anomalies() -> None:
    plugin = build("denoising", MNIST)
    x, _ = pictures(32)
    fit(plugin, 60, x)
    with pytest.raises(StudioError, match="no likelihood"):
        plugin.log_likelihood(x)
    odd = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    assert float(plugin.anomaly_score(odd).min()) > float(plugin.anomaly_score(x).max())
    assert plugin.anomaly_score(x).shape == (32,)


def test_an_autoencoder_samples_the_gaussian_of_its_codes() -> None:
    plugin = build("ae-2d")
    x = torch.randn(256, 2, generator=torch.Generator().manual_seed(3))
    fit(plugin, 200, x)
    drawn, codes = plugin.encode(plugin.sample(2000)), plugin.encode(x)
    assert float((drawn.mean(0) - codes.mean(0)).abs().max()) < 0.5 * float(codes.std(0).max())


def test_a_model_without_classes_ignores_the_labels_of_given_samples() -> None:
    plugin = build("beta-vae", MNIST, **SMALL)
    x, labels = pictures(3)
    assert labels is not None
    assert torch.equal(plugin.reconstruct(x, labels), plugin.reconstruct(x))
    assert torch.equal(plugin.log_likelihood(x, labels.tolist()), plugin.log_likelihood(x))
    assert torch.equal(plugin.encode(x, ["a caption"] * 3), plugin.encode(x))
    with pytest.raises(StudioError, match="without classes"):
        plugin.sample(3, labels)


def test_wrong_shapes_and_options_are_told() -> None:
    plugin = build("vae-2d")
    with pytest.raises(ValueError, match=r"\(b, 2\)"):
        plugin.encode(torch.zeros(3, 5))
    with pytest.raises(StudioError, match="temperature"):
        plugin.sample(1, temperature=-1.0)
    with pytest.raises(TypeError, match="colour"):
        plugin.sample(1, colour="red")
    with pytest.raises(StudioError, match="class grid"):
        plugin.class_grid(2)
