"""The plugin: it learns, resumes exactly, samples by seed, follows its conditions, and edits."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from studio.datasets.arrays import ArrayDataset
from studio.errors import StudioError
from studio.plugin import DataInfo, SampleBatch, TrainingContext
from studio_diffusion.config import DiffusionConfig
from studio_diffusion.model import DiffusionModel

SIZE = 8


def config(**changes: Any) -> DiffusionConfig:
    plain = {
        "steps": 30,
        "batch": 16,
        "channels": 16,
        "multipliers": [1, 2],
        "blocks": 1,
        "timesteps": 50,
        "lr": 2e-3,
        "warm_up": 5,
        "text_dim": 32,
        "text_layers": 1,
        "min_snr": None,
        "attention_size": 4,
    }
    return DiffusionConfig.from_dict({**plain, **changes})


def pictures(n: int = 64, planes: int = 1) -> ArrayDataset:
    """Class 0 is dark, class 1 bright; a bit of texture."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    x = 0.2 + 0.6 * labels[:, None, None, None] + 0.05 * torch.rand(n, planes, SIZE, SIZE, generator=g)
    return ArrayDataset("bright", x, labels, ("dark", "bright"))


def build(dataset: ArrayDataset, *, captions: bool = False, **changes: Any) -> DiffusionModel:
    torch.manual_seed(0)
    info = DataInfo(
        dataset.sample_shape,
        None if captions else dataset.num_classes,
        () if captions else dataset.class_names,
        dataset.has_captions,
    )
    model = DiffusionModel(config(**changes), info)
    model.initialize(dataset, torch.Generator().manual_seed(0))
    return model


def train(model: DiffusionModel, dataset: ArrayDataset, first: int, last: int, context: TrainingContext) -> list[float]:
    losses = []
    for step in range(first, last):
        g = torch.Generator().manual_seed(step)
        x, cond = dataset.batch(torch.randint(len(dataset), (model.config.batch,), generator=g).tolist())
        losses.append(float(model.training_step(SampleBatch(x, cond), step)["loss"]))
    return losses


def context(steps: int = 30) -> TrainingContext:
    return TrainingContext(total_steps=steps, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def trained() -> DiffusionModel:
    dataset = pictures()
    model = build(dataset, steps=150)
    model.setup_training(context(150))
    losses = train(model, dataset, 0, 150, model._context)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    return model.eval()


def test_samples_follow_their_class(trained: DiffusionModel) -> None:
    samples = trained.sample(16, [0, 1] * 8, torch.Generator().manual_seed(0), steps=10, guidance=3.0)
    assert samples.shape == (16, 1, SIZE, SIZE)
    assert samples.min() >= 0
    assert samples.max() <= 1
    brightness = samples.mean(dim=(1, 2, 3))
    assert (brightness[0::2] < 0.45).all()
    assert (brightness[1::2] > 0.55).all()
    by_name = trained.sample(2, ["bright"], torch.Generator().manual_seed(0), steps=10, guidance=3.0)
    assert (by_name.mean(dim=(1, 2, 3)) > 0.55).all()


@pytest.mark.parametrize("options", [{"steps": 5}, {"steps": 5, "sampler": "ddpm"}, {"steps": 5, "guidance": 2.0}])
def test_a_seed_repeats(trained: DiffusionModel, options: dict[str, Any]) -> None:
    first, again, other = (
        trained.sample(3, [1, 0, 1], torch.Generator().manual_seed(seed), **options) for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_film_ends_with_the_sample(trained: DiffusionModel) -> None:
    film, expected = (
        call(2, [0, 1], torch.Generator().manual_seed(0), steps=5) for call in (trained.trajectory, trained.sample)
    )
    assert film.shape == (6, 2, 1, SIZE, SIZE)
    torch.testing.assert_close(film[-1], expected)
    predicted = trained.trajectory(2, [0, 1], torch.Generator().manual_seed(0), predicted=True, steps=5)
    torch.testing.assert_close(predicted[-1], expected)
    assert not torch.allclose(predicted[0], film[0])


def test_decode_of_encode_gives_the_picture_back(trained: DiffusionModel) -> None:
    x, labels = pictures().batch([0, 1])
    z = trained.encode(x, labels.tolist(), steps=50)
    assert z.shape == (2, SIZE * SIZE)
    assert (trained.decode(z, labels.tolist(), steps=50) - x).abs().mean() < 0.05


def test_the_noise_behind_a_picture_is_as_loud_as_noise_when_x0_is_predicted() -> None:
    """What the picture and its prediction differ by stands for noise; at the lowest level it would be a hundredfold."""
    dataset = pictures()
    changes = {"prediction": "x0", "min_snr": 4.0, "snr_floor": 1.0, "levels": "middle", "optimizer": "muon"}
    model = build(dataset, steps=100, timesteps=200, **changes)
    model.setup_training(context(100))
    losses = train(model, dataset, 0, 100, model._context)
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    model.eval()
    x, labels = dataset.batch(range(6))
    z = model.encode(x, labels)
    assert z.square().mean().sqrt() < 2
    assert (model.decode(z, labels) - x).square().mean().sqrt() < 0.06


def test_interpolation_goes_from_dark_to_bright(trained: DiffusionModel) -> None:
    x, _ = pictures().batch([0, 1])
    path = trained.interpolate(5, x[0], x[1], evaluations=25)
    assert path.shape == (5, 1, SIZE, SIZE)
    assert path[0].mean() < 0.45
    assert path[-1].mean() > 0.55
    assert trained.interpolate(3, generator=torch.Generator().manual_seed(0), evaluations=5).shape[0] == 3


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resume_is_exact(optimizer: str) -> None:
    dataset = pictures()
    whole = build(dataset, dropout=0.1, optimizer=optimizer)
    whole.setup_training(context())
    torch.manual_seed(1)
    train(whole, dataset, 0, 3, whole._context)
    weights = {k: v.clone() for k, v in whole.state_dict().items()}
    state, stream, dropout = whole.training_state(), whole._context.generator.get_state(), torch.get_rng_state()
    state = torch.load(_saved(state), weights_only=True)
    expected = train(whole, dataset, 3, 6, whole._context)
    again = build(dataset, dropout=0.1, optimizer=optimizer)
    again.prepare_state({k: tuple(v.shape) for k, v in weights.items()})
    again.load_state_dict(weights)
    again.setup_training(context())
    again.load_training_state(state)
    again._context.generator.set_state(stream)
    torch.set_rng_state(dropout)
    assert train(again, dataset, 3, 6, again._context) == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def _saved(state: dict[str, Any]) -> Any:
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_words_travel_with_the_weights() -> None:
    words = ("a red cube", "a blue sphere")
    dataset = ArrayDataset("words", torch.rand(2, 3, SIZE, SIZE), captions=words)
    model = build(dataset, captions=True)
    empty = DiffusionModel(config(), model.data_info)
    state = model.state_dict()
    empty.prepare_state({k: tuple(v.shape) for k, v in state.items() if isinstance(v, Tensor)})
    empty.load_state_dict(state)
    first, again = (
        m.sample(2, list(words), torch.Generator().manual_seed(0), steps=3, guidance=3.0) for m in (model, empty)
    )
    assert torch.equal(first, again)


def test_points_are_learnt_in_their_own_scale() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.tensor([100.0, -50.0]) + torch.tensor([10.0, 0.1]) * torch.randn(2000, 2, generator=g)
    dataset = ArrayDataset("far", x)
    model = build(dataset, steps=300, batch=256, channels=32)
    model.setup_training(context(300))
    train(model, dataset, 0, 300, model._context)
    samples = model.sample(2000, generator=g, steps=50)
    torch.testing.assert_close(samples.mean(dim=0), x.mean(dim=0), atol=2.0, rtol=0.01)
    torch.testing.assert_close(samples.std(dim=0), x.std(dim=0), atol=0.0, rtol=0.25)


# ---- editing -------------------------------------------------------------------------------------------------------
def test_inpainting_keeps_what_the_mask_leaves(trained: DiffusionModel) -> None:
    x, labels = pictures().batch([0, 1])
    mask = torch.zeros(SIZE, SIZE)
    mask[:, 4:] = 1
    edited = trained.edit(
        x, "inpaint", mask=mask, condition=labels.tolist(), generator=torch.Generator().manual_seed(0), steps=10
    )
    torch.testing.assert_close(edited[..., :4], x[..., :4], atol=1e-4, rtol=0)
    assert not torch.allclose(edited[..., 4:], x[..., 4:], atol=1e-3)
    painted = edited[..., 4:].mean(dim=(1, 2, 3))
    assert painted[0] < 0.45
    assert painted[1] > 0.55


def test_super_resolution_agrees_with_the_small_picture(trained: DiffusionModel) -> None:
    small = torch.full((1, 1, SIZE // 2, SIZE // 2), 0.8)
    small[..., 0, 0] = 0.7
    edited = trained.edit(small, "super-resolution", generator=torch.Generator().manual_seed(0), steps=10)
    assert edited.shape == (1, 1, SIZE, SIZE)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(edited, 2), small, atol=0.02, rtol=0)
    enlarged = torch.nn.functional.interpolate(small, scale_factor=2.0, mode="nearest")
    again = trained.edit(enlarged, "super-resolution", generator=torch.Generator().manual_seed(0), steps=10, factor=2)
    torch.testing.assert_close(again, edited, atol=1e-5, rtol=0)
    with pytest.raises(StudioError, match="divided by a whole number"):
        trained.edit(torch.zeros(1, 1, SIZE - 1, SIZE - 1), "super-resolution")


def test_colourisation_keeps_the_grey() -> None:
    dataset = pictures(planes=3)
    model = build(dataset)
    grey = 0.3 + 0.4 * torch.rand(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    edited = model.edit(grey, "colorize", generator=torch.Generator().manual_seed(0), steps=5)
    assert edited.shape == (2, 3, SIZE, SIZE)
    # What clamping to [0, 1] takes away is all that may be missing.
    inside = ((edited > 1e-3) & (edited < 1 - 1e-3)).all(dim=1, keepdim=True)
    assert inside.any()
    torch.testing.assert_close(edited.mean(dim=1, keepdim=True)[inside], grey[inside], atol=1e-3, rtol=0)


def test_sdedit_keeps_more_with_less_strength(trained: DiffusionModel) -> None:
    x, labels = pictures().batch([1])
    changes = [
        (
            trained.edit(
                x,
                "sdedit",
                condition=labels.tolist(),
                generator=torch.Generator().manual_seed(0),
                steps=50,
                strength=strength,
                guidance=1.0,
            )
            - x
        )
        .abs()
        .mean()
        .item()
        for strength in (0.05, 0.5, 1.0)
    ]
    assert changes[0] < 0.5 * changes[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "sharpen"}, "no mode 'sharpen'"),
        ({"mode": "inpaint"}, "needs a mask"),
        ({"mode": "inpaint", "mask": torch.ones(SIZE, SIZE)}, "white everywhere"),
        ({"mode": "inpaint", "mask": torch.ones(3, 3)}, "3x3"),
        ({"mode": "colorize"}, "colour pictures"),
        ({"mode": "super-resolution", "factor": 3}, "not divisible by 3"),
        ({"mode": "sdedit", "strength": 0.0}, "strength"),
        ({"mode": "sdedit", "steps": 51}, "50 noise levels"),
        ({"mode": "sdedit", "eta": 2.0}, "eta"),
    ],
)
def test_edits_that_cannot_be_done(trained: DiffusionModel, arguments: dict[str, Any], message: str) -> None:
    x, _ = pictures().batch([0])
    with pytest.raises(StudioError, match=message):
        trained.edit(x, **arguments)


def test_a_floor_without_a_cap_is_refused(trained: DiffusionModel) -> None:
    config = dataclasses.replace(trained.config, min_snr=None, snr_floor=1.0)
    with pytest.raises(StudioError, match="snr_floor: 1 does nothing without a cap"):
        DiffusionModel(config, trained.data_info)


def test_guidance_is_two_where_a_condition_is_given(trained: DiffusionModel) -> None:
    def draw(model: DiffusionModel, condition: list[int] | None, **options: float) -> Tensor:
        return model.sample(2, condition, torch.Generator().manual_seed(0), steps=3, **options)

    assert torch.equal(draw(trained, [0, 1]), draw(trained, [0, 1], guidance=2.0))
    assert not torch.equal(draw(trained, [0, 1]), draw(trained, [0, 1], guidance=1.0))
    assert torch.equal(draw(trained, None), draw(trained, None, guidance=1.0))
    unguided = build(pictures(), condition_dropout=0.0)
    assert torch.equal(draw(unguided, [0, 1]), draw(unguided, [0, 1], guidance=1.0))


def test_guidance_needs_a_condition() -> None:
    dataset = ArrayDataset("plain", torch.rand(4, 1, SIZE, SIZE))
    with pytest.raises(StudioError, match="without conditions"):
        build(dataset).sample(1, guidance=2.0)
    with pytest.raises(StudioError, match="condition-dropout"):
        build(pictures(), condition_dropout=0.0).sample(1, [1], guidance=2.0)
