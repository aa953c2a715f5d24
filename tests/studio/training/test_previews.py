"""Previews: what is drawn, and that a preview that fails does not end a training."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_scenes import write_ring_scene
from torch import Tensor

from studio.errors import StudioError
from studio.plugin import DataInfo, Field, Generator, PluginConfig
from studio.registry import find_plugin, load_config_class
from studio.training.loop import Observer, Trainer
from studio.training.observers import Previews
from studio.training.previews import FieldPainter, GeneratorPainter, labelled_grid, scatter
from studio.training.start import TrainOptions, prepare


class Given(Generator):
    """Returns what it was given, and remembers the generator's first draw."""

    def __init__(self, shape: tuple[int, ...], samples: Tensor | list[str]) -> None:
        super().__init__(PluginConfig(), DataInfo(shape))
        self.samples = samples
        self.draws: list[float] = []

    def sample(self, n: int, condition: Any = None, generator: torch.Generator | None = None) -> Any:
        self.draws.append(float(torch.rand((), generator=generator)))
        return self.samples


class Nothing:
    """A data set whose samples are never asked for."""

    name, sample_shape, num_classes, class_names = "nothing", (1,), None, ()

    def __len__(self) -> int:
        return 0

    def batch(self, indices: Any) -> tuple[Tensor, None]:
        raise AssertionError


def test_pictures_are_a_grid_and_the_noise_is_always_the_same(tmp_path: Path) -> None:
    pictures = torch.zeros(4, 1, 10, 10)
    pictures[2] = 0.5
    plugin = Given((1, 10, 10), pictures)
    paint = GeneratorPainter(plugin, Nothing(), seed=3)
    for name in ("a.png", "b.png"):
        paint(tmp_path / name)
    assert plugin.draws[0] == plugin.draws[1]
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    assert pixels.shape[2] == 3
    assert (pixels == 128).all(axis=-1).sum() == 100


def test_texts_are_lines(tmp_path: Path) -> None:
    GeneratorPainter(Given((8,), ["one", "zwei"]), Nothing(), seed=0)(tmp_path / "step.png")
    assert (tmp_path / "step.txt").read_text(encoding="utf-8") == "one\nzwei\n"


def test_points_lie_where_they_belong() -> None:
    corners = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    picture = scatter(torch.tensor([[1.0, 1.0], [float("nan"), 0.0], [50.0, 0.0]]), corners, size=220)
    blue = (picture[..., 2] > picture[..., 0] + 0.2).nonzero().float()
    # The frame reaches 1.1 times as far as the data: x = 1 lies at 220 * (1 + 1 / 1.1) / 2 = 210, y up.
    torch.testing.assert_close(blue.mean(dim=0) + 0.5, torch.tensor([10.0, 210.0]), atol=0.5, rtol=0)


def test_a_field_is_drawn_beside_a_held_out_photo(toy_plugins: None, tmp_path: Path, tiny_scene: Path) -> None:
    config = load_config_class(find_plugin("toy-rays"))
    job = prepare("toy-rays", tiny_scene, config(), TrainOptions(output=tmp_path / "runs", tensorboard=False))
    assert job.scene is not None
    FieldPainter(job.plugin, job.scene)(tmp_path / "p.png")
    pixels = np.asarray(Image.open(tmp_path / "p.png"))
    held_out = np.asarray(Image.open(tiny_scene / "photo_08.png"))
    np.testing.assert_array_equal(pixels[-16:, :24], held_out)


def test_a_preview_that_fails_is_told_once_and_training_goes_on(
    toy_plugins: None, tmp_path: Path, tiny_scene: Path
) -> None:
    told: list[str] = []

    def draw(path: Path) -> None:
        raise StudioError("photo_08.png: gone.")

    config = load_config_class(find_plugin("toy-rays"))(steps=5)
    previews = Previews(draw, first_seconds=0.0, factor=1.0, tell=told.append)
    job = prepare(
        "toy-rays", tiny_scene, config, TrainOptions(output=tmp_path, tensorboard=False), observers=[previews]
    )
    assert job.train().step == 5
    assert told == ["note: no more previews: photo_08.png: gone."]


def test_slow_previews_are_further_apart(toy_plugins: None, tmp_path: Path, tiny_scene: Path) -> None:
    drawn: list[Path] = []

    def draw(path: Path) -> None:
        drawn.append(path)
        time.sleep(2.0 if len(drawn) == 1 else 0.0)

    config = load_config_class(find_plugin("toy-rays"))(steps=8)
    previews = Previews(draw, first_seconds=0.0, factor=1.0)
    options = TrainOptions(output=tmp_path, tensorboard=False)
    prepare("toy-rays", tiny_scene, config, options, observers=[previews]).train()
    # The first step's took two seconds, so that the next would be due 18 seconds later: there is only the last one.
    assert [path.stem for path in drawn] == ["step_00000001", "step_00000008"]


def test_an_interrupted_training_ends_without_another_preview(
    toy_plugins: None, tmp_path: Path, tiny_scene: Path
) -> None:
    class Interrupt(Observer):
        def on_step(self, trainer: Trainer, step: int) -> None:
            if step == 3:
                os.kill(os.getpid(), signal.SIGTERM)

    drawn: list[Path] = []
    config = load_config_class(find_plugin("toy-rays"))(steps=8)
    watchers = [Previews(drawn.append, first_seconds=1e9), Interrupt()]
    job = prepare("toy-rays", tiny_scene, config, TrainOptions(output=tmp_path, tensorboard=False), observers=watchers)
    assert job.train().reason == "interrupted"
    assert drawn == []


def test_what_is_slow_to_draw_is_drawn_small(
    toy_plugins: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_ring_scene(tmp_path / "ring", photos=9, width=480, height=320)
    config = load_config_class(find_plugin("toy-rays"))(steps=1)
    job = prepare("toy-rays", folder, config, TrainOptions(output=tmp_path / "runs", tensorboard=False))
    assert isinstance(job.plugin, Field)
    assert job.scene is not None
    clock, cost, sizes = [0.0], [1e-8], []
    monkeypatch.setattr("studio.training.previews.time.perf_counter", lambda: clock[0])

    def render(camera: Any, outputs: Any = ("rgb",), *, background: Any = None) -> dict[str, Tensor]:
        width, height = camera.size
        sizes.append((width, height))
        clock[0] += cost[0] * width * height
        return {"rgb": torch.zeros(height, width, 3)}

    monkeypatch.setattr(job.plugin, "render", render)
    paint = FieldPainter(job.plugin, job.scene)
    paint(tmp_path / "a.png")
    assert sizes == [(16, 11), (48, 32), (480, 320)], "tried small, and then drawn whole"
    cost[0] = 1e-3
    paint(tmp_path / "b.png")
    paint(tmp_path / "c.png")
    # A picture took minutes, so the next one is small: of 2.5 minutes' pixels, 1.5 seconds' would be fewer still.
    assert sizes[-2:] == [(480, 320), (48, 32)]
    assert Image.open(tmp_path / "c.png").size[0] >= 2 * 288, "enlarged, to be seen"
    cost[0] = 1.5 / (240 * 160)
    paint(tmp_path / "d.png")
    paint(tmp_path / "e.png")
    assert sizes[-1] == (240, 160), "as large as a second and a half allows"


def test_class_and_caption_labels_need_larger_pictures() -> None:
    samples = torch.rand(4, 1, 8, 8)
    assert labelled_grid(samples, None).shape[:2] == (20, 20)
    assert labelled_grid(samples, ["a"] * 4).shape[1] == 2 * 56 + 4
    assert labelled_grid(samples, ["a small red cube"] * 4).shape[1] == 2 * 256 + 4


def test_conditional_previews_show_every_class_in_a_row(tmp_path: Path) -> None:
    asked: list[Any] = []

    class Classes(Given):
        def sample(self, n: int, condition: Any = None, generator: torch.Generator | None = None) -> Any:
            asked.append(condition)
            return torch.zeros(n, 1, 8, 8)

    plugin = Classes((1, 8, 8), [])
    plugin.data_info = DataInfo((1, 8, 8), 3, ("a", "b", "c"))
    GeneratorPainter(plugin, Nothing(), seed=0)(tmp_path / "p.png")
    assert asked == [[0] * 6 + [1] * 6 + [2] * 6]
    assert Image.open(tmp_path / "p.png").size[0] == 6 * 56 + 5 * 4


def test_other_errors_of_a_preview_are_not_hidden(toy_plugins: None, tmp_path: Path, tiny_scene: Path) -> None:
    def draw(path: Path) -> None:
        raise ZeroDivisionError

    config = load_config_class(find_plugin("toy-rays"))(steps=2)
    job = prepare(
        "toy-rays",
        tiny_scene,
        config,
        TrainOptions(output=tmp_path, tensorboard=False),
        observers=[Previews(draw, 0.0)],
    )
    with pytest.raises(ZeroDivisionError):
        job.train()
