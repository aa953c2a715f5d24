"""The loop: exact resume, interrupts, NaN guard, budget, data order, for a Field and a Generator alike."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_scenes import write_ring_scene

from studio.errors import StudioError
from studio.plugin import PhotoRequest, TrainingContext
from studio.registry import find_plugin, load_config_class
from studio.training.checkpoint import load_state
from studio.training.forecast import BudgetForecast
from studio.training.loaded import open_run
from studio.training.loop import NonFiniteLossError, Observer, Trainer
from studio.training.order import ShuffledOrder
from studio.training.run import RunFolder
from studio.training.start import TrainOptions, prepare, prepare_resume, train

JOBS = [("toy-rays", "scene"), ("toy-gauss", "toy:gaussians")]


class StopAt(Observer):
    """Interrupts the training as Ctrl-C does, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer: Trainer, step: int) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def options(tmp_path: Path, **changes: Any) -> TrainOptions:
    return TrainOptions(output=tmp_path / "runs", tensorboard=False, log_every=1, **changes)


def start(
    plugin: str, data: str | Path, opts: TrainOptions, observers: list[Observer] | None = None, **fields: Any
) -> Any:
    settings = load_config_class(find_plugin(plugin)).from_dict(fields)
    return prepare(plugin, data, settings, opts, observers=observers or [])


def where(data: str, tiny_scene: Path) -> str:
    return str(tiny_scene) if data == "scene" else data


@pytest.mark.parametrize(("plugin", "data"), JOBS)
def test_resume_is_exact(toy_plugins: None, tmp_path: Path, tiny_scene: Path, plugin: str, data: str) -> None:
    whole = start(plugin, where(data, tiny_scene), options(tmp_path), steps=40)
    whole.train()
    cut = start(plugin, where(data, tiny_scene), options(tmp_path), [StopAt(17)], steps=40)
    assert cut.train().reason == "interrupted"
    torch.manual_seed(999)
    resumed = prepare_resume(cut.run.path, options(tmp_path))
    assert resumed.trainer.step == 17
    result = resumed.train()
    assert (result.reason, result.step) == ("finished", 40)
    for name, tensor in whole.plugin.state_dict().items():
        assert torch.equal(tensor, resumed.plugin.state_dict()[name]), name
    losses = [[row["loss"] for row in run.read_metrics()] for run in (whole.run, resumed.run)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 40
    first, second = (load_state(run.latest_checkpoint()) for run in (whole.run, resumed.run))
    assert torch.equal(first["random"]["torch"], second["random"]["torch"])
    assert torch.equal(first["generator"], second["generator"])


@pytest.mark.parametrize(("plugin", "data"), JOBS)
def test_equal_seeds_give_equal_runs_and_others_do_not(
    toy_plugins: None, tmp_path: Path, tiny_scene: Path, plugin: str, data: str
) -> None:
    runs = [start(plugin, where(data, tiny_scene), options(tmp_path, seed=seed), steps=5) for seed in (3, 3, 4)]
    finals = []
    for run in runs:
        run.train()
        finals.append(torch.cat([p.detach().flatten() for p in run.plugin.parameters()]))
    assert torch.equal(finals[0], finals[1])
    assert not torch.equal(finals[0], finals[2])


def test_training_lowers_the_loss_and_the_run_opens_again(toy_plugins: None, tmp_path: Path, tiny_scene: Path) -> None:
    trained = train("toy-rays", tiny_scene, options=options(tmp_path), steps=300)
    rows = trained.run.read_metrics()
    assert sum(r["loss"] for r in rows[-10:]) < 0.5 * sum(r["loss"] for r in rows[:10])
    again = open_run(trained.path)
    camera = again.scene.frames[0].camera[None]
    (a,), (b,) = list(again.render(camera)), list(trained.render(camera))
    assert torch.equal(a["rgb"], b["rgb"])
    report = again.evaluate()
    assert report.protocol.split == "test"
    assert [score.name for score in report.scores] == ["photo_00.png", "photo_08.png"]
    assert report.psnr > 10


def test_rendering_needs_no_photos_but_evaluation_names_what_is_missing(
    toy_plugins: None, tmp_path: Path, tiny_scene: Path
) -> None:
    trained = train("toy-rays", tiny_scene, options=options(tmp_path), steps=3)
    for photo in tiny_scene.glob("*.png"):
        photo.unlink()
    again = open_run(trained.path)
    assert next(iter(again.render(again.scene.frames[0].camera[None])))["rgb"].shape == (16, 24, 3)
    with pytest.raises(StudioError, match=r"photo_00\.png"):
        again.evaluate()


def test_nan_stops_at_once_names_the_step_and_keeps_the_last_good_checkpoint(
    toy_plugins: None, tmp_path: Path, tiny_scene: Path
) -> None:
    job = start("toy-rays", tiny_scene, options(tmp_path, checkpoint_steps=10), steps=60, explode_at=33)
    with pytest.raises(NonFiniteLossError, match=r"step 33.*step_00000030") as caught:
        job.train()
    assert caught.value.exit_code == 2
    state = load_state(job.run.latest_checkpoint())
    assert state["step"] == 30
    assert all(torch.isfinite(t).all() for t in state["plugin"].values())


def test_a_nan_between_logs_never_reaches_a_checkpoint(toy_plugins: None, tmp_path: Path, tiny_scene: Path) -> None:
    opts = TrainOptions(output=tmp_path / "runs", tensorboard=False, log_every=1000, checkpoint_steps=10)
    job = start("toy-rays", tiny_scene, opts, steps=60, explode_at=9)
    with pytest.raises(NonFiniteLossError, match="step 9"):
        job.train()
    assert job.run.list_checkpoints() == []


def test_a_budget_ends_training_and_drives_progress(toy_plugins: None, tmp_path: Path, tiny_scene: Path) -> None:
    job = start("toy-rays", tiny_scene, options(tmp_path, budget_seconds=0.6), steps=10**7)
    result = job.train()
    assert result.reason == "budget"
    assert 0 < result.step < 10**7
    assert job.trainer.context.progress(result.step) == pytest.approx(1.0)


def test_compiling_kernels_does_not_use_up_the_budget(
    toy_plugins: None, tmp_path: Path, tiny_scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start("toy-rays", tiny_scene, options(tmp_path), steps=1)
    elapsed = job.trainer.elapsed
    monkeypatch.setattr("studio.kernels.compile_time.seconds_since", lambda moment: 1000.0)
    assert job.trainer.elapsed == pytest.approx(elapsed - 1000.0, abs=100.0)


class Dawdler(Observer):
    """Takes its time outside of the training, after each step."""

    def on_step(self, trainer: Trainer, step: int) -> None:
        with trainer.outside():
            time.sleep(0.15)


def test_what_happens_outside_does_not_use_up_the_budget(toy_plugins: None, tmp_path: Path, tiny_scene: Path) -> None:
    job = start("toy-rays", tiny_scene, options(tmp_path, budget_seconds=60.0), steps=4)
    job.trainer.observers.append(Dawdler())
    began, before = time.perf_counter(), job.trainer.elapsed
    result = job.train()
    assert time.perf_counter() - began > 0.6
    assert result.seconds - before < time.perf_counter() - began - 0.55


def test_a_budget_used_up_by_reading_is_refused_with_a_command_that_works(
    toy_plugins: None, tmp_path: Path, tiny_scene: Path
) -> None:
    with pytest.raises(StudioError, match="before the first step") as caught:
        start("toy-rays", tiny_scene, options(tmp_path, budget_seconds=1e-6), steps=4)
    assert not (tmp_path / "runs").exists(), "nothing is left behind"
    fix = caught.value.fix
    assert fix is not None
    command = fix.split("(")[1].split(")")[0].split()
    assert command[:4] == ["studio", "train", "toy-rays", str(tiny_scene)]
    assert command[4:] == ["--budget", "2m"]


def test_a_budget_that_ends_at_once_still_trains_a_step(toy_plugins: None, tmp_path: Path, tiny_scene: Path) -> None:
    job = start("toy-rays", tiny_scene, options(tmp_path, budget_seconds=60.0), steps=10**7)
    job.trainer.leave_out(-100.0)
    assert job.train().step == 1


def test_large_photos_are_reduced_unless_told_otherwise(toy_plugins: None, tmp_path: Path) -> None:
    folder = write_ring_scene(tmp_path / "large", photos=3, width=1700, height=40)
    told: list[str] = []
    config = load_config_class(find_plugin("toy-rays")).from_dict({"steps": 1})
    job = prepare("toy-rays", folder, config, options(tmp_path), announce=told.append)
    assert job.photos is not None
    assert job.photos[0].size == (1600, 38)
    assert job.config.data.downscale == pytest.approx(1700 / 1600)
    assert "note: photos of 1700x40 are reduced to 1600x38; --downscale 1 keeps their size" in told
    kept = prepare("toy-rays", folder, config, options(tmp_path, downscale=1.0))
    assert kept.photos is not None
    assert kept.photos[0].size == (1700, 40)


@pytest.mark.parametrize(("cost", "advice"), [(0.02, True), (0.0001, False)])
def test_the_first_steps_tell_what_a_budget_buys(
    toy_plugins: None, tmp_path: Path, tiny_scene: Path, monkeypatch: pytest.MonkeyPatch, cost: float, advice: bool
) -> None:
    job = start("toy-rays", tiny_scene, options(tmp_path, budget_seconds=20.0), steps=10**6)
    monkeypatch.setattr(type(job.plugin), "batch_request", lambda self, step: PhotoRequest())
    told: list[str] = []
    forecast = BudgetForecast(told.append, downscale=2.0)
    clock = [1.0]
    monkeypatch.setattr(Trainer, "elapsed", property(lambda self: clock[0]))
    job.trainer.context.start_seconds = 1.0
    forecast.on_start(job.trainer)
    for step in range(1, 40_000):
        clock[0] += cost
        job.trainer.step = step
        forecast.on_step(job.trainer, step)
    steps = round(19.0 / cost)
    expected = f"about {950 if advice else 190_000:,} steps in 20 s"
    assert steps in (950, 190_000)
    assert len(told) == 1
    assert expected in told[0]
    assert ("--downscale 4" in told[0]) == advice


def test_only_so_many_checkpoints_are_kept(toy_plugins: None, tmp_path: Path) -> None:
    job = start("toy-gauss", "toy:moons", options(tmp_path, checkpoint_steps=5), steps=30)
    job.train()
    assert [p.name for p in job.run.list_checkpoints()] == ["step_00000025.safetensors", "step_00000030.safetensors"]


def test_training_outside_the_main_thread(toy_plugins: None, tmp_path: Path) -> None:
    job = start("toy-gauss", "toy:moons", options(tmp_path), steps=5)
    results = []
    thread = threading.Thread(target=lambda: results.append(job.train()))
    thread.start()
    thread.join()
    assert results[0].step == 5


def test_a_window_of_photos_bounds_the_rays_of_many(toy_plugins: None, tmp_path: Path) -> None:
    folder = write_ring_scene(tmp_path / "many", photos=40)
    job = start("toy-rays", folder, options(tmp_path, cache_gb=10 * 24 * 16 * 5 / 2**30), steps=400)
    assert job.photos.capacity == 10
    seen: set[int] = set()
    for step in range(400):
        batch = job.trainer.source.next(job.plugin.batch_request(step))
        seen |= set(batch.indices.tolist())
        assert len(set(batch.indices.tolist())) <= 10
        assert job.photos.cached_bytes <= 10 * 24 * 16 * 5
    assert len(seen) == len(job.photos)


def test_rays_carry_the_colours_of_their_pixels(toy_plugins: None, tmp_path: Path) -> None:
    folder = write_ring_scene(tmp_path / "alpha", alpha=True)
    job = start("toy-rays", folder, options(tmp_path), steps=1)
    batch = job.trainer.source.next(job.plugin.batch_request(0))
    for i in range(0, 256, 16):
        photo = job.photos[int(batch.indices[i])]
        x, y = batch.pixels[i]
        row, column = int(y - 0.5), int(x - 0.5)
        expected = photo.image[row, column].float() / 255
        assert torch.equal(torch.cat([batch.rgb[i], batch.alpha[i]]), expected)
        pixel, depth = photo.camera.project(batch.origins[i] + 3 * batch.directions[i])
        assert depth > 0
        assert torch.allclose(pixel, batch.pixels[i], atol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_order_visits_each_index_once_an_epoch_and_restarts_anywhere(n: int) -> None:
    order = ShuffledOrder(n, seed=5)
    taken = order.take(4 * n)
    for epoch in range(4):
        assert sorted(taken[epoch * n : (epoch + 1) * n]) == list(range(n))
    again = ShuffledOrder(n, seed=5)
    again.position = n + n // 2
    assert again.take(n) == taken[n + n // 2 : 2 * n + n // 2]


def test_a_damaged_run_is_told_in_one_line(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "data", "plugin")
    with pytest.raises(StudioError, match="there is no such folder"):
        RunFolder.open(tmp_path / "nowhere")
    folder.config_file.write_text("plugin: [unclosed")
    with pytest.raises(StudioError, match=r"config\.yaml") as caught:
        folder.read_config()
    assert "\n" not in str(caught.value)


def test_config_yaml_runs_no_code(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "data", "plugin")
    folder.config_file.write_text("plugin: !!python/object/apply:os.system ['touch pwned']")
    with pytest.raises(StudioError):
        folder.read_config()
    assert not Path("pwned").exists()


def test_metrics_are_plain_json_lines(toy_plugins: None, tmp_path: Path) -> None:
    job = start("toy-gauss", "toy:moons", options(tmp_path), steps=3)
    job.train()
    rows = [json.loads(line) for line in job.run.metrics_file.read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert all(set(row) >= {"step", "seconds", "loss"} for row in rows)


def test_bad_input_leaves_no_run_folder(toy_plugins: None, tmp_path: Path, tiny_scene: Path) -> None:
    opts = options(tmp_path)
    for plugin, data, fields in [
        ("toy-rays", tmp_path / "missing", {}),
        ("toy-rays", tiny_scene, {"steps": 0}),
        ("no-such", tiny_scene, {}),
        ("toy-gauss", tmp_path / "missing.npz", {}),
    ]:
        with pytest.raises(StudioError):
            start(plugin, data, opts, **fields)
    assert not (tmp_path / "runs").exists()


def test_a_budget_follows_the_cost_of_steps() -> None:
    """Steps that get four times slower after half of the training: a fifth of the time is half of the steps."""
    context = TrainingContext(total_steps=10**9, budget_seconds=100.0, step_cost=lambda p: 1.0 if p < 0.5 else 4.0)
    for elapsed, expected in [(0, 0.0), (10, 0.25), (20, 0.5), (60, 0.75), (100, 1.0), (200, 1.0)]:
        context.elapsed_seconds = elapsed
        assert context.progress(0) == pytest.approx(expected)
    even = TrainingContext(total_steps=100, budget_seconds=10.0, elapsed_seconds=2.5)
    assert even.progress(0) == pytest.approx(0.25)
    assert even.progress(60) == pytest.approx(0.6)


def test_a_budget_expects_as_many_steps_as_the_pace_allows() -> None:
    context = TrainingContext(total_steps=1000)
    assert context.expected_steps(10) == 1000
    context = TrainingContext(total_steps=10**6, budget_seconds=100.0, start_seconds=20.0, elapsed_seconds=20.0)
    assert context.expected_steps(0) == 10**6, "nothing is known yet"
    # 50 steps in 10 of the 80 seconds there are for steps.
    context.elapsed_seconds = 30.0
    assert context.expected_steps(50) == pytest.approx(400)
    assert context.progress(50) == pytest.approx(0.125), "preparing is no progress"
    context.total_steps = 300
    assert context.expected_steps(50) == 300
    late = TrainingContext(total_steps=10**6, budget_seconds=100.0, start_seconds=120.0, elapsed_seconds=120.0)
    assert late.progress(0) == 1
