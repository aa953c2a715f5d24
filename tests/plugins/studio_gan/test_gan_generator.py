"""The gan plugin: sizes, rounds of training, exact resume, and everything that a trained model can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from studio.errors import StudioError
from studio.plugin import DataInfo, SampleBatch, TrainingContext
from studio.training.checkpoint import load_state, save_state
from studio.training.start import TrainOptions, prepare
from studio_gan import SPEC
from studio_gan.attention import SelfAttention
from studio_gan.config import GanConfig
from studio_gan.generator import GanGenerator

MNIST = DataInfo((1, 28, 28), 10, tuple(map(str, range(10))))
COLOUR = DataInfo((3, 64, 64))
TINY = {"generator_hidden": (16, 16), "discriminator_hidden": (16,), "batch_size": 8, "latent_dim": 5}
NARROW = {"width": 4, "batch_size": 4, "latent_dim": 5}
DCGAN = (
    (100 * 256 * 16 + 512) + (256 * 128 * 16 + 256) + (128 * 64 * 16 + 128) + (64 * 32 * 16 + 64) + (32 * 3 * 16 + 3),
    (3 * 32 * 16 + 32) + (32 * 64 * 16 + 128) + (64 * 128 * 16 + 256) + (128 * 256 * 16 + 512) + (256 * 16 + 1),
)
SAGAN = (
    (128 * 256 * 16 + 512)
    + (256 * 128 * 9 + 256)
    + (128 * 64 * 9 + 128)
    + (4 * 64 * 8 + 1)
    + (64 * 32 * 9 + 64)
    + (32 * 3 * 9 + 3),
    (3 * 32 * 16 + 32)
    + (32 * 64 * 16 + 64)
    + (4 * 64 * 8 + 1)
    + (64 * 128 * 16 + 128)
    + (128 * 256 * 16 + 256)
    + (256 * 16 + 1),
)
PROGAN = (
    (128 * 128 * 16 + 128 + 128 * 128 * 9 + 128)
    + sum(2 * c * c * 9 + c + c * c * 9 + c for c in (64, 32, 16, 8))
    + sum(3 * c + 3 for c in (128, 64, 32, 16, 8)),
    sum(c * c * 9 + c + 2 * c * c * 9 + 2 * c for c in (64, 32, 16, 8))
    + sum(3 * c + c for c in (128, 64, 32, 16, 8))
    + (128 * 128 * 9 + 128 + 128 * 128 * 16 + 128)
    + 129,
)
SIZES = {
    "gan-2d": (DataInfo(), 11_234, 10_753),
    "cgan-mnist": (MNIST, 1_484_976, 1_476_769),
    "dcgan": (COLOUR, *DCGAN),
    "sagan": (COLOUR, *SAGAN),
    "progan": (COLOUR, *PROGAN),
}


def build(preset: str, info: DataInfo = DataInfo(), **changes: object) -> GanGenerator:  # noqa: B008 (frozen)
    torch.manual_seed(0)
    settings = GanConfig.preset(preset)
    return GanGenerator(GanConfig.from_dict({**settings.to_dict(), **changes}), info)


def batch(plugin: GanGenerator, seed: int = 0) -> SampleBatch:
    generator = torch.Generator().manual_seed(seed)
    count = plugin.batch_request(0).count
    x = torch.rand(count, *plugin.data_info.sample_shape, generator=generator)
    labels = torch.randint(10, (count,), generator=generator) if plugin.num_classes else None
    return SampleBatch(x, labels)


def fit(plugin: GanGenerator, steps: int) -> list[dict[str, float]]:
    plugin.setup_training(TrainingContext(steps))
    plugin.train()
    return [
        {name: float(v) for name, v in plugin.training_step(batch(plugin, step), step).items()} for step in range(steps)
    ]


def points(n: int, seed: int = 0) -> Tensor:
    """Points on a short line far from the origin."""
    t = torch.rand(n, 1, generator=torch.Generator().manual_seed(seed))
    return torch.cat([1.5 + 0.5 * t, -1.0 + t], dim=1)


@pytest.fixture(scope="module")
def conditional() -> GanGenerator:
    plugin = build("cgan-mnist", MNIST, **TINY)
    fit(plugin, 5)
    return plugin.eval()


# ---- sizes and data --------------------------------------------------------------------------------------------------
def test_the_specification_is_valid_and_names_every_preset() -> None:
    assert SPEC.problems() == []
    assert set(SPEC.presets) == set(GanConfig.PRESETS) == set(SIZES)


@pytest.mark.parametrize("preset", list(SIZES))
def test_presets_have_their_sizes(preset: str) -> None:
    info, generator, discriminator = SIZES[preset]
    # With the data, and without any, as `studio info` builds it.
    for plugin in (build(preset, info), build(preset)):
        counts = [sum(p.numel() for p in network.parameters()) for network in plugin.networks().values()]
        assert list(plugin.networks()) == ["generator", "discriminator"]
        assert counts == [generator, discriminator]
        # The moving average counts for nothing.
        assert sum(p.numel() for p in plugin.parameters()) == generator + discriminator


@pytest.mark.parametrize(
    ("preset", "info", "named"),
    [
        ("cgan-mnist", DataInfo((3,)), "gan-2d"),
        ("dcgan", DataInfo((2,), 2), "gan-2d"),
        ("gan-2d", MNIST, "cgan-mnist"),
        ("gan-2d", COLOUR, "dcgan"),
        ("cgan-mnist", DataInfo((1, 28, 28)), "dcgan"),
        ("cgan-mnist", COLOUR, "dcgan"),
        ("sagan", DataInfo((3, 300, 200)), "64x64"),
        ("gan-2d", DataInfo(()), "gpt"),
    ],
)
def test_wrong_data_names_the_preset_to_use(preset: str, info: DataInfo, named: str) -> None:
    with pytest.raises(StudioError) as caught:
        build(preset, info)
    assert named in str(caught.value.fix)


def test_points_for_a_model_of_pictures_leave_no_run_behind(tmp_path: Path) -> None:
    options = TrainOptions(output=tmp_path / "runs", tensorboard=False)
    with pytest.raises(StudioError, match=r"models pictures.*gan-2d"):
        prepare("gan", "toy:swiss-roll", GanConfig.preset("dcgan"), options)
    assert not (tmp_path / "runs").exists()


# ---- training --------------------------------------------------------------------------------------------------------
def test_a_round_is_so_many_steps_of_each() -> None:
    plugin = build("gan-2d", discriminator_steps=3, generator_steps=2, batch_size=10)
    assert plugin.batch_request(0).count == 30
    fit(plugin, 4)
    counts = {
        name: {int(state["step"]) for state in optimizer.state.values()}
        for name, optimizer in plugin._optimizers.items()
    }
    assert counts == {"generator": {8}, "discriminator": {12}}
    assert plugin.average is not None
    assert int(plugin.average.updates) == 8


def test_every_step_of_the_discriminator_sees_its_own_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = build("cgan-mnist", MNIST, **TINY, discriminator_steps=2)
    seen: list[tuple[Tensor, Tensor]] = []
    step = plugin._discriminator_step
    monkeypatch.setattr(plugin, "_discriminator_step", lambda x, y: (seen.append((x, y)), step(x, y))[1])
    plugin.setup_training(TrainingContext(1))
    given = batch(plugin)
    plugin.training_step(given, 0)
    assert torch.equal(torch.cat([x for x, _ in seen]), 2 * given.x.flatten(1) - 1)
    assert torch.equal(torch.cat([y for _, y in seen]).argmax(1), given.cond)


@pytest.mark.parametrize("loss", ["minimax", "non-saturating", "wasserstein", "wgan-gp", "hinge"])
def test_every_game_trains_the_generator_towards_the_data(loss: str) -> None:
    rates = {"lr_generator": 5e-3 if loss == "wgan-gp" else 2e-3, "lr_discriminator": 2e-3, "clip": 0.125}
    plugin = build("gan-2d", loss=loss, batch_size=128, discriminator_steps=2, average_decay=0.9, **rates)
    plugin.setup_training(TrainingContext(150))
    before = plugin.sample(500).mean(0)
    target = points(5000).mean(0)
    for step in range(150):
        figures = plugin.training_step(SampleBatch(points(256, step)), step)
        assert all(torch.isfinite(value).all() for value in figures.values())
    assert float((plugin.sample(500).mean(0) - target).norm()) < 0.5 * float((before - target).norm())
    if loss == "wasserstein":
        assert max(float(p.detach().abs().max()) for p in plugin.discriminator.parameters()) <= 0.125
    assert ("penalty" in figures) == (loss == "wgan-gp")


@pytest.mark.parametrize("preset", ["dcgan", "sagan"])
def test_convolutional_families_take_a_step(preset: str) -> None:
    plugin = build(preset, DataInfo((1, 28, 20)), **NARROW)
    before = {name: p.detach().clone() for name, p in plugin.named_parameters()}
    figures = fit(plugin, 1)[0]
    assert {"loss", "generator_loss", "real_accuracy", "fake_accuracy"} <= set(figures)
    assert plugin.sample(3).shape == (3, 1, 28, 20)
    still = {name for name, p in plugin.named_parameters() if torch.equal(before[name], p)}
    attention = {
        f"{path}.{part}.parametrizations.weight.original"
        for path, module in plugin.named_modules()
        if isinstance(module, SelfAttention)
        for part in "fghv"
    }
    assert len(attention) == (8 if preset == "sagan" else 0)
    # What lies behind a γ of 0 has no slope yet. Nor has the last bias in the hinge loss while no margin is reached.
    assert still - attention <= {f"discriminator.layers.{len(plugin.discriminator.layers) - 1}.bias"}
    assert attention <= still


def test_a_gradient_penalty_keeps_samples_apart() -> None:
    plugin = build("dcgan", DataInfo((1, 16, 16)), **NARROW, loss="wgan-gp")
    x = torch.randn(4, 1, 16, 16)
    alone = torch.cat([plugin.discriminator(picture[None]) for picture in x])
    torch.testing.assert_close(plugin.discriminator(x), alone)


def test_a_growing_model_grows_and_keeps_its_stage() -> None:
    plugin = build("progan", DataInfo((1, 16, 16)), **NARROW, growth=0.5)
    plugin.setup_training(TrainingContext(8))
    stages, sides = [], []
    for step in range(8):
        plugin.training_step(batch(plugin, step), step)
        stages.append(float(plugin.stage))
        sides.append(plugin._generate(1, None).shape[-1])
        assert plugin.sample(2).shape == (2, 1, 16, 16)
    # Levels 0 and 1 are each held for one step of eight, then fade; growing ends halfway.
    assert stages == [0, 0, 1, 1, 2, 2, 2, 2]
    assert sides == [4, 4, 8, 8, 16, 16, 16, 16]
    assert [plugin.step_cost(p) for p in (0.0, 0.2, 0.9)] == [1, 2, 3]
    again = build("progan", DataInfo((1, 16, 16)), **NARROW, growth=0.5)
    again.load_state_dict(plugin.state_dict())
    assert torch.equal(again.sample(3), plugin.sample(3))


def test_both_rates_fall_to_zero() -> None:
    plugin = build("gan-2d", lr_decay_start=0.5, batch_size=4)
    plugin.setup_training(TrainingContext(100))
    rates = []
    for step in (0, 50, 75, 100):
        plugin._schedule(plugin._context.progress(step))
        rates.append([optimizer.param_groups[0]["lr"] for optimizer in plugin._optimizers.values()])
    assert rates == [[1e-3, 1e-3], [1e-3, 1e-3], [5e-4, 5e-4], [0.0, 0.0]]


def test_resume_is_exact(assert_resume_is_exact: Callable[..., Any]) -> None:
    settings = GanConfig.from_dict({"steps": 14, "batch_size": 32, "discriminator_steps": 2})
    trained = assert_resume_is_exact("gan", "toy:swiss-roll", settings)
    assert any(name.startswith("average.") for name in trained.state_dict())


@pytest.mark.parametrize(
    ("preset", "info", "sizes"),
    [("cgan-mnist", MNIST, TINY), ("sagan", DataInfo((1, 16, 16)), NARROW), ("progan", DataInfo((1, 16, 16)), NARROW)],
)
def test_the_state_of_a_picture_model_survives_the_file(
    tmp_path: Path, preset: str, info: DataInfo, sizes: dict[str, object]
) -> None:
    first = build(preset, info, **sizes)
    fit(first, 3)
    state = {"plugin": dict(first.state_dict()), "training": first.training_state()}
    save_state(tmp_path / "state", {**state, "draws": first._context.generator.get_state()})
    loaded = load_state(tmp_path / "state")
    second = build(preset, info, **sizes)
    second.setup_training(TrainingContext(3))
    second.load_state_dict(loaded["plugin"])
    second.load_training_state(loaded["training"])
    second._context.generator.set_state(loaded["draws"])
    for plugin in (first, second):
        torch.manual_seed(5)  # dropout draws from the global stream, which the engine restores
        plugin.train()
        plugin.training_step(batch(plugin, 3), 3)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    for name, optimizer in first._optimizers.items():
        for a, b in zip(optimizer.state.values(), second._optimizers[name].state.values(), strict=True):
            assert all(torch.equal(a[key], b[key]) for key in a)


# ---- use -------------------------------------------------------------------------------------------------------------
def test_shapes_and_ranges(conditional: GanGenerator) -> None:
    x = conditional.sample(2)
    assert x.shape == (2, 1, 28, 28)
    assert conditional.invert(x, [0, 1], steps=2).shape == (2, 5)
    assert conditional.decode(torch.zeros(3, 5), [1, 2, 3]).shape == (3, 1, 28, 28)
    assert conditional.interpolate(4).shape == (4, 1, 28, 28)
    assert torch.equal(conditional.interpolate(4, condition=[3]), conditional.interpolate(4, condition=[3] * 4))
    assert conditional.latent_arithmetic(torch.zeros(2, 5), torch.ones(1, 5), torch.ones(1, 5), [3]).shape == (
        1,
        28,
        28,
    )
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1
    assert not x.requires_grad


def test_seeded_samples_repeat_in_any_mode(conditional: GanGenerator) -> None:
    def draw(seed: int, **options: object) -> Tensor:
        return conditional.sample(4, [1, 2, 3, 4], torch.Generator().manual_seed(seed), **options)

    first = draw(1)
    assert torch.equal(first, draw(1))
    assert not torch.equal(first, draw(2))
    assert not torch.equal(first, draw(1, truncation=0.5))
    assert not torch.equal(first, draw(1, average=False))
    # A preview while training: batch norm must neither see nor learn from it.
    conditional.train()
    before = {name: value.clone() for name, value in conditional.state_dict().items()}
    assert torch.equal(first, draw(1))
    assert conditional.generator.training
    assert all(torch.equal(before[name], value) for name, value in conditional.state_dict().items())
    conditional.eval()


def test_conditions_by_number_name_and_in_turn(conditional: GanGenerator) -> None:
    def draw(condition: object, n: int = 3) -> Tensor:
        return conditional.sample(n, condition, torch.Generator().manual_seed(0))  # type: ignore[arg-type]

    assert torch.equal(draw([0, 1, 2]), draw(None))
    assert torch.equal(draw(["0", "1", "2"]), draw([0, 1, 2]))
    with pytest.raises(StudioError, match=r"class 10 .* 0 to 9"):
        draw([0, 1, 10])
    with pytest.raises(StudioError, match="no class named 'seven'"):
        draw(["seven"])
    with pytest.raises(ValueError, match="1 or 3"):
        draw([1, 2])
    with pytest.raises(StudioError, match="conditional"):
        conditional.decode(torch.zeros(1, 5))
    with pytest.raises(StudioError, match="without classes"):
        build("gan-2d").sample(2, [0, 1])
    with pytest.raises(StudioError, match="truncation"):
        conditional.sample(1, truncation=-1.0)


def test_inversion_finds_the_class_and_the_sample_again() -> None:
    plugin = build("cgan-mnist", MNIST, **{**TINY, "average_decay": 0.0})
    # Spread-out embeddings and weights make a generator whose classes look different.
    torch.nn.init.normal_(plugin.generator.embedding.weight, 0.0, 3.0)  # type: ignore[union-attr, arg-type]
    for module in plugin.generator.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, 0.0, 0.4)
    x = plugin.sample(4, [2, 5, 7, 8], torch.Generator().manual_seed(3))
    assert plugin.most_likely_class(x, steps=60).tolist() == [2, 5, 7, 8]
    found = plugin.decode(plugin.invert(x, [2, 5, 7, 8]), [2, 5, 7, 8])
    blind = plugin.sample(4, [2, 5, 7, 8], torch.Generator().manual_seed(4))
    assert float((found - x).square().mean()) < 0.05 * float((blind - x).square().mean())


def test_interpolation_begins_and_ends_at_the_samples() -> None:
    plugin = build("gan-2d", average_decay=0.0)
    x = plugin.sample(2, generator=torch.Generator().manual_seed(1))
    path = plugin.interpolate(7, x[0], x[1])
    torch.testing.assert_close(path[[0, -1]], x, atol=0.02, rtol=0)
    torch.testing.assert_close(plugin.reconstruct(x), x, atol=0.02, rtol=0)
    assert torch.equal(plugin.reconstruct(x, [3, 4]), plugin.reconstruct(x))
    drawn = plugin.interpolate(5, generator=torch.Generator().manual_seed(2), spherical=True)
    assert torch.equal(drawn, plugin.interpolate(5, generator=torch.Generator().manual_seed(2), spherical=True))


def test_an_edit_direction_edits() -> None:
    plugin = build("gan-2d", average_decay=0.0)
    z = torch.randn(800, 16, generator=torch.Generator().manual_seed(0))
    right = plugin.decode(z)[:, 0]
    boundary = plugin.edit_direction(z, right > right.median())
    assert boundary.accuracy > 0.8
    assert float((plugin.decode(boundary.move(z, 1.0))[:, 0] - right).mean()) > 0
    assert float((plugin.decode(boundary.move(z, -1.0))[:, 0] - right).mean()) < 0


def test_wrong_shapes_are_told() -> None:
    with pytest.raises(ValueError, match=r"\(b, 2\)"):
        build("gan-2d").invert(torch.zeros(3, 5))
