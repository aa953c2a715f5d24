"""The `caption` plugin: encoder, training, exact resume, captions with and without pictures, their likelihood."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studio.datasets import load_dataset
from studio.errors import StudioError
from studio.plugin import DataInfo
from studio.training.loaded import LoadedRun, open_run
from studio.training.start import TrainOptions, prepare, prepare_resume, train
from studio_gpt import CAPTION
from studio_gpt.caption_plugin import Captioner
from studio_gpt.config import CaptionConfig
from studio_gpt.picture_encoder import PictureEncoder, shifted

TINY = {
    "encoder_width": 16, "grid": 4, "width": 48, "layers": 2, "heads": 4, "batch": 32, "max_tokens": 12, "shift": 1
}  # fmt: skip
COLORS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.2), "blue": (0.1, 0.2, 0.9)}


def squares(n: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    """Pictures of one bright square on grey, and what they show."""
    generator = torch.Generator().manual_seed(seed)
    pictures = 0.5 + 0.05 * torch.randn(n, 3, 16, 16, generator=generator)
    captions = []
    for picture, place, color in zip(
        pictures,
        torch.randint(2, (n, 2), generator=generator).tolist(),
        torch.randint(3, (n,), generator=generator).tolist(),
        strict=True,
    ):
        name = list(COLORS)[color]
        top, left = 2 + 7 * place[0], 2 + 7 * place[1]
        picture[:, top : top + 5, left : left + 5] = torch.tensor(COLORS[name])[:, None, None]
        captions.append(f"a {name} square at the {('top', 'bottom')[place[0]]} {('left', 'right')[place[1]]}")
    return pictures.clamp(0, 1), captions


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("captions") / "squares.npz"
    x, captions = squares(400, 0)
    np.savez(path, x=(255 * x).byte().movedim(1, -1).numpy(), captions=np.array(captions))
    return path


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedRun:
    settings = CaptionConfig.from_dict({**TINY, "steps": 150, "lr": 3e-3})
    folder = tmp_path_factory.mktemp("runs")
    return train("caption", data, config=settings, options=TrainOptions(output=folder, tensorboard=False, log_every=1))


def model_of(run: LoadedRun) -> Captioner:
    assert isinstance(run.plugin, Captioner)
    return run.plugin


def test_held_out_pictures_are_described(trained: LoadedRun) -> None:
    losses = [row["loss"] for row in trained.run.read_metrics()]
    assert losses[-1] < 0.3 * losses[0]
    x, captions = squares(100, seed=1)
    described = model_of(trained).caption(x)
    right = sum(a == b for a, b in zip(described, captions, strict=True))
    assert right >= 90


def test_pictures_of_other_sizes_are_fitted(trained: LoadedRun) -> None:
    model = model_of(trained)
    x, _ = squares(8, seed=2)
    expected = model.caption(x)
    larger = torch.nn.functional.interpolate(x, scale_factor=4, mode="nearest")
    wide = torch.nn.functional.pad(larger, (20, 20, 0, 0), value=0.5)
    assert model.caption(larger) == expected
    assert model.caption(wide) == expected
    assert len(model.caption(x[:, :1])) == 8
    with pytest.raises(ValueError, match="1 or 3"):
        model.caption(x[:, :2])


def test_captions_without_a_picture_follow_the_language(trained: LoadedRun) -> None:
    model = model_of(trained)
    texts = model.sample(40, generator=torch.Generator().manual_seed(0))
    assert texts == model.sample(40, generator=torch.Generator().manual_seed(0))
    known = {
        f"a {color} square at the {v} {h}"
        for color, v, h in itertools.product(COLORS, ("top", "bottom"), ("left", "right"))
    }
    assert sum(text in known for text in texts) >= 30
    assert len(set(texts)) >= 6
    begun = model.sample(5, ["a red square at"] * 5, torch.Generator().manual_seed(0))
    assert all(text.startswith("a red square at") for text in begun)
    with pytest.raises(StudioError, match="no classes"):
        model.sample(1, [0])
    with pytest.raises(StudioError, match="has 12 tokens"):
        model.sample(1, ["a red square " * 20])


def test_the_likelihood_knows_the_picture(trained: LoadedRun) -> None:
    model = model_of(trained)
    x, captions = squares(70, seed=3)
    others = captions[1:] + captions[:1]
    differ = torch.tensor([a != b for a, b in zip(captions, others, strict=True)])
    true = model.log_likelihood(captions, x)
    false = model.log_likelihood(others, x)
    blind = model.log_likelihood(captions)
    assert true.shape == (70,)
    assert float((true > false)[differ].float().mean()) > 0.9
    # What a picture tells about its caption: at most, and here nearly, ln 12 nats.
    assert 1.5 < float((true - blind).mean()) < 3.5
    with pytest.raises(StudioError, match="12 at most"):
        model.log_likelihood(["a red square " * 20])


def test_drawing_through_the_cache_agrees_with_scoring_whole_captions(trained: LoadedRun) -> None:
    model = model_of(trained)
    x, _ = squares(12, seed=4)
    greedy, searched = model.caption(x), model.caption(x, beams=4)
    assert (model.log_likelihood(searched, x) >= model.log_likelihood(greedy, x) - 1e-4).all()
    drawn = model.caption(x, torch.Generator().manual_seed(0), temperature=3.0)
    assert drawn == model.caption(x, torch.Generator().manual_seed(0), temperature=3.0)
    assert drawn != greedy


def test_resume_is_exact(data: Path, tmp_path: Path) -> None:
    settings = CaptionConfig.from_dict({**TINY, "steps": 9, "dropout": 0.1})
    options = TrainOptions(output=tmp_path, tensorboard=False, log_every=1, checkpoint_steps=3)
    whole = prepare("caption", data, settings, options)
    whole.train()
    short = prepare("caption", data, settings, options)
    short.trainer.observers.append(_Kill(5))
    with pytest.raises(_Killed):
        short.train()
    torch.manual_seed(999)
    resumed = prepare_resume(short.run.path, options)
    assert resumed.trainer.step == 3
    resumed.train()
    for name, tensor in whole.plugin.state_dict().items():
        assert torch.equal(tensor, resumed.plugin.state_dict()[name]), name
    losses = [[row["loss"] for row in run.read_metrics()] for run in (whole.run, resumed.run)]
    assert losses[0] == losses[1]
    again = open_run(resumed.run.path, device="cpu").plugin
    assert isinstance(again, Captioner)
    x, _ = squares(4, seed=5)
    assert again.caption(x) == whole.plugin.caption(x)  # type: ignore[operator]


class _Killed(Exception):
    pass


class _Kill:
    """Ends a training after a step without a word, as a kill does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __getattr__(self, name: str) -> Any:
        return lambda *args: None

    def on_step(self, trainer: Any, step: int) -> None:
        if step == self.step:
            raise _Killed


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 32, 32), (1, 28, 28), (3, 48, 80), (3, 8, 8), (3, 5, 5)])
def test_the_encoder_gives_a_grid_for_any_size(shape: tuple[int, int, int]) -> None:
    encoder = PictureEncoder(shape, width=20, grid=8, channels=8)
    cells = encoder(torch.rand(2, *shape))
    assert cells.shape == (2, 64, 20)
    assert torch.isfinite(cells).all()


def test_cells_stand_row_by_row() -> None:
    torch.manual_seed(0)
    encoder = PictureEncoder((3, 32, 32), width=12, grid=8, channels=8).eval()
    x = torch.rand(1, 3, 32, 32)
    changed = x.clone()
    changed[..., 0:2, 30:32] = 0
    moved = (encoder(x) - encoder(changed)).abs().sum(-1)[0].view(8, 8)
    assert int(moved.argmax()) == 7
    assert not moved[6:].any()


@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (2, 0), (-1, 0), (0, 3), (1, -2)])
def test_shifting_moves_pixels_and_repeats_edges(dx: int, dy: int) -> None:
    x = torch.rand(2, 3, 8, 9)
    got = shifted(x, dx, dy)
    rows = (torch.arange(8) - dy).clamp(0, 7)
    columns = (torch.arange(9) - dx).clamp(0, 8)
    assert torch.equal(got, x[:, :, rows][..., columns])


def test_bad_input_is_refused() -> None:
    with pytest.raises(StudioError, match="no captioned pictures"):
        Captioner(CaptionConfig.from_dict(TINY), DataInfo((2,))).initialize(
            load_dataset("toy:moons"), torch.Generator()
        )
    with pytest.raises(StudioError, match="no vocabulary"):
        Captioner(CaptionConfig.from_dict(TINY), DataInfo((3, 16, 16))).caption(torch.rand(1, 3, 16, 16))


def test_presets_build_and_are_described() -> None:
    assert set(CAPTION.presets) == set(CaptionConfig.PRESETS)
    assert CAPTION.problems() == []
    for name in CAPTION.presets:
        networks = Captioner(CaptionConfig.preset(name), DataInfo((3, 64, 64))).networks()
        assert set(networks) == {"encoder", "decoder"}
