"""Watching a training changes nothing about it, and a pause does not use up its time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tiny_scenes import write_ring_scene

from studio.kernels import building
from studio.plugin import PluginConfig
from studio.registry import find_plugin, load_config_class
from studio.training.start import Prepared, TrainOptions, prepare
from studio.viewer.access import Access
from studio.viewer.live import Curve, TrainingViewer
from studio.viewer.turns import TurnsOver

STEPS = 30


def prepared(tmp_path: Path, name: str) -> Prepared:
    data = tmp_path / "ring"
    if not data.exists():
        write_ring_scene(data)
    cls: type[PluginConfig] = load_config_class(find_plugin("splat"))
    settings = cls.from_dict({**cls.preset(None).to_dict(), **cls.CHECK, "steps": STEPS}, source="test")
    return prepare("splat", data, settings, TrainOptions(output=tmp_path / name, log_every=1, tensorboard=False))


def losses(run: Prepared) -> list[float]:
    return [row["loss"] for row in run.run.read_metrics()]


def test_watching_changes_nothing(tmp_path: Path) -> None:
    alone = prepared(tmp_path, "alone")
    alone.train()
    watched = prepared(tmp_path, "watched")
    viewer = TrainingViewer(watched, Access.make("127.0.0.1", None), 0)
    watched.trainer.observers.append(viewer)
    stage = viewer._stage
    assert stage.drawer is not None
    camera, sizes, stop = watched.loaded().cameras("train")[0], [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            sizes.append(tuple(stage.drawer.draw(camera, stage.look).shape))  # type: ignore[union-attr]

    looker = threading.Thread(target=look)
    looker.start()
    try:
        result = watched.train()
        # Pictures go on when the training has ended.
        count = len(sizes)
        end = time.monotonic() + 20
        while len(sizes) <= count and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        stop.set()
        looker.join(20)
        viewer.close()
    assert result.step == STEPS
    assert len(sizes) > count > 0
    assert losses(watched) == losses(alone)
    assert "finished" in viewer._status.content
    assert viewer._curves["psnr"].steps[-1] == STEPS


def test_a_pause_is_no_training(tmp_path: Path) -> None:
    run = prepared(tmp_path, "paused")
    viewer = TrainingViewer(run, Access.make("127.0.0.1", None), 0)
    run.trainer.observers.append(viewer)
    viewer._toggle()
    seen: list[int] = []
    ended = threading.Event()

    def go_on() -> None:
        # However long the first step takes; then nothing may happen for a while.
        while run.trainer.step == 0 and not ended.is_set():
            time.sleep(0.01)
        seen.append(run.trainer.step)
        time.sleep(0.4)
        seen.append(run.trainer.step)
        viewer._toggle()

    left_out: list[float] = []
    leave_out = run.trainer.leave_out
    run.trainer.leave_out = lambda seconds: (left_out.append(seconds), leave_out(seconds))[1]  # type: ignore[method-assign]
    waker = threading.Thread(target=go_on)
    waker.start()
    try:
        result = run.train()
    finally:
        ended.set()
        waker.join(20)
        viewer.close()
    assert seen == [1, 1]
    assert result.step == STEPS
    assert len(left_out) == 1
    assert left_out[0] > 0
    before = run.trainer.elapsed
    run.trainer.leave_out(1000.0)
    assert run.trainer.elapsed < before - 900


def test_the_page_says_that_kernels_are_compiled(tmp_path: Path) -> None:
    run = prepared(tmp_path, "compiling")
    viewer = TrainingViewer(run, Access.make("127.0.0.1", None), 0)
    try:
        with building.announced("a kernel of somebody"):
            assert viewer._status.content == "compiling kernels 1/1 for this processor, once"
    finally:
        viewer.close()
    assert not building._listeners


def test_a_training_that_fails_ends_the_viewer(tmp_path: Path) -> None:
    run = prepared(tmp_path, "failed")
    viewer = TrainingViewer(run, Access.make("127.0.0.1", None), 0)
    told: list[bool] = []

    def ask() -> None:
        try:
            viewer._turns.run(lambda: None)
        except TurnsOver:
            told.append(True)

    waiting = threading.Thread(target=ask)
    waiting.start()
    viewer.close()
    waiting.join(20)
    assert told == [True]


def test_curves_stay_small_and_keep_their_ends() -> None:
    curve = Curve(most=100)
    for step in range(10_000):
        curve.add(step, float(step))
    assert len(curve.steps) <= 101
    assert curve.steps[0] == 0
    assert curve.steps[-1] > 9_800
    assert curve.steps == curve.values == sorted(curve.values)
