"""What a run survives: kills at its end, damaged checkpoints, changed data, full disks, deleted folders, signals."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from studio.catalog import on_different_data, read_run
from studio.errors import StudioError
from studio.files import DiskFullError
from studio.plugin.base import Generator
from studio.registry import find_plugin, load_config_class, load_plugin_class
from studio.training import loop
from studio.training.checkpoint import load_state, save_state
from studio.training.labels import ENDED, read_labels
from studio.training.loaded import open_run
from studio.training.loop import NonFiniteLossError, Observer, RunFolderGoneError, Trainer
from studio.training.run import RunFolder
from studio.training.start import Prepared, TrainingInterruptedError, TrainOptions, prepare, prepare_resume, train

GAUSS, DATA = "toy-gauss", "toy:gaussians"
pytestmark = pytest.mark.usefixtures("toy_plugins")


class _Killed(BaseException):
    """Ends a training as a kill does: nothing more is saved."""


class Do(Observer):
    """Something done to a training after a step."""

    def __init__(self, step: int, what: Callable[[Trainer], Any]) -> None:
        self.step, self.what = step, what

    def on_step(self, trainer: Trainer, step: int) -> None:
        if step == self.step:
            self.what(trainer)


def options(tmp_path: Path, **changes: Any) -> TrainOptions:
    return TrainOptions(output=tmp_path / "runs", **{"tensorboard": False, "log_every": 1, **changes})


def start(tmp_path: Path, *observers: Observer, plugin: str = GAUSS, data: Any = DATA, **fields: Any) -> Prepared:
    every = fields.pop("every", None)
    settings = load_config_class(find_plugin(plugin)).from_dict(fields)
    return prepare(plugin, data, settings, options(tmp_path, checkpoint_steps=every), observers=observers)


def interrupted(tmp_path: Path, **fields: Any) -> RunFolder:
    """A run of 12 steps that was stopped after 9, with checkpoints of 6 and 9."""
    job = start(tmp_path, Do(9, lambda t: os.kill(os.getpid(), signal.SIGINT)), steps=12, every=3, **fields)
    assert job.train().reason == "interrupted"
    return job.run


def test_one_order_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    cls = load_plugin_class(find_plugin(GAUSS))
    names = ("initialize", "prepare_state", "load_state_dict", "setup_training", "load_training_state",
             "finish_training")  # fmt: skip
    for name in names:
        before = getattr(cls, name)

        def spy(self: Any, *args: Any, _name: str = name, _before: Any = before, **kwargs: Any) -> Any:
            calls.append(_name)
            return _before(self, *args, **kwargs)

        monkeypatch.setattr(cls, name, spy)
    run = interrupted(tmp_path)
    assert calls == ["initialize", "setup_training"]
    calls.clear()
    prepare_resume(run.path, options(tmp_path)).train()
    assert calls == ["prepare_state", "load_state_dict", "setup_training", "load_training_state", "finish_training"]


def test_a_kill_before_the_end_is_settled_leaves_a_run_that_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = load_plugin_class(find_plugin(GAUSS))

    def settle(self: Any) -> None:
        with torch.no_grad():
            next(self.parameters()).mul_(2.0)

    monkeypatch.setattr(cls, "finish_training", settle)
    whole = start(tmp_path, steps=12, every=3)
    whole.train()

    def die(self: Any) -> None:
        raise _Killed

    monkeypatch.setattr(cls, "finish_training", die)
    cut = start(tmp_path, steps=12, every=3)
    with pytest.raises(_Killed):
        cut.train()
    assert read_run(cut.run.path).status == "stopped"
    assert open_run(cut.run.path).reason == "interrupted"
    monkeypatch.setattr(cls, "finish_training", settle)
    resumed = prepare_resume(cut.run.path, options(tmp_path, checkpoint_steps=3))
    assert resumed.train().reason == "finished"
    for name, tensor in whole.plugin.state_dict().items():
        assert torch.equal(tensor, resumed.plugin.state_dict()[name]), name
    assert read_labels(resumed.run.latest_checkpoint())[ENDED] == "finished"
    assert read_run(cut.run.path).status == "finished"
    assert open_run(cut.run.path).reason == "finished"
    with pytest.raises(StudioError, match="all 12 steps are done"):
        prepare_resume(cut.run.path, options(tmp_path))


def test_a_run_that_stands_at_its_last_step_unsettled_is_settled_on_resume(tmp_path: Path) -> None:
    run = interrupted(tmp_path)
    state = load_state(run.latest_checkpoint())
    save_state(run.latest_checkpoint(), {**state, "step": 12})
    resumed = prepare_resume(run.path, options(tmp_path))
    assert resumed.train().reason == "finished"
    assert load_state(run.latest_checkpoint())["ended"] == "finished"


def _set(state: dict[str, Any], path: str, change: Callable[[Any], Any]) -> None:
    *above, last = path.split("/")
    for key in above:
        state = state[int(key) if key.isdigit() and int(key) in state else key]
    state[last] = change(state[last])


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("step", lambda v: -1),
        ("step", lambda v: float("nan")),
        ("step", lambda v: "nine"),
        ("seconds", lambda v: float("nan")),
        ("plugin", lambda v: [1, 2]),
        ("training", lambda v: None),
        ("source", lambda v: {}),
        ("source/position", lambda v: -3),
        ("source/windows", lambda v: v[:10]),
        ("generator", lambda v: v.float()),
        ("random", lambda v: {"python": 3}),
    ],
)
def test_every_field_of_a_checkpoint_is_checked(tmp_path: Path, field: str, change: Callable[[Any], Any]) -> None:
    run = interrupted(tmp_path)
    path = run.latest_checkpoint()
    state = load_state(path)
    _set(state, field, change)
    save_state(path, state)
    with pytest.raises(StudioError) as refused:
        prepare_resume(run.path, options(tmp_path))
    text = str(refused.value)
    assert str(path) in text
    assert f"'{field.split('/')[0]}'" in text
    assert "step_00000006.safetensors" in text
    path.unlink()
    assert prepare_resume(run.path, options(tmp_path)).trainer.step == 6


@pytest.mark.parametrize("missing", ["step", "plugin", "training", "source", "generator", "random"])
def test_a_missing_field_is_named(tmp_path: Path, missing: str) -> None:
    run = interrupted(tmp_path)
    state = load_state(run.latest_checkpoint())
    del state[missing]
    save_state(run.latest_checkpoint(), state)
    with pytest.raises(StudioError, match=f"'{missing}' is missing"):
        prepare_resume(run.path, options(tmp_path))


@pytest.mark.parametrize("change", [lambda t: t.reshape(*t.shape, 1), lambda t: t.to(torch.int64)])
def test_tensors_of_another_shape_or_type_are_refused(tmp_path: Path, change: Callable[[Tensor], Tensor]) -> None:
    run = interrupted(tmp_path)
    state = load_state(run.latest_checkpoint())
    name = next(name for name, tensor in state["plugin"].items() if tensor.is_floating_point())
    state["plugin"][name] = change(state["plugin"][name])
    save_state(run.latest_checkpoint(), state)
    for opening in (lambda: prepare_resume(run.path, options(tmp_path)), lambda: open_run(run.path)):
        with pytest.raises(StudioError, match=f"plugin/{name}"):
            opening()


def test_moments_of_another_shape_are_refused(tmp_path: Path) -> None:
    run = interrupted(tmp_path)
    state = load_state(run.latest_checkpoint())

    def stretch(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: v[..., None] if k == "exp_avg" else stretch(v) for k, v in node.items()}
        return [stretch(v) for v in node] if isinstance(node, list) else node

    save_state(run.latest_checkpoint(), {**state, "training": stretch(state["training"])})
    with pytest.raises(StudioError, match="exp_avg"):
        prepare_resume(run.path, options(tmp_path))


def test_a_changed_byte_is_found_and_old_checkpoints_open(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = interrupted(tmp_path)
    path = run.latest_checkpoint()
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(StudioError, match=r"damaged.*checksum.*step_00000006"):
        open_run(run.path)
    data[-5] ^= 1
    # Under another name: as if it had been written before there were checksums.
    path.write_bytes(bytes(data).replace(b'"sha256"', b'"no-sum"', 1))
    assert open_run(run.path).step == 9
    assert "checksum" in caplog.text


# ---- data --------------------------------------------------------------------------------------------------------
def test_changed_photos_stop_a_resume_and_are_named(tmp_path: Path, tiny_scene: Path) -> None:
    run = interrupted(tmp_path, plugin="toy-rays", data=tiny_scene)
    shutil.copy(tiny_scene / "photo_01.png", tiny_scene / "photo_02.png")
    with pytest.raises(StudioError, match=r"photo_02\.png: another content.*--accept-changes"):
        prepare_resume(run.path, options(tmp_path))
    said: list[str] = []
    resumed = prepare_resume(run.path, options(tmp_path, accept_changes=True), announce=said.append)
    assert any("photo_02.png" in line for line in said)
    assert resumed.trainer.step == 9
    # Accepted once, it is what the run is trained on from then on.
    prepare_resume(run.path, options(tmp_path)).train()


def test_a_changed_text_and_a_changed_version_stop_a_resume(tmp_path: Path) -> None:
    from studio.training.fingerprint import changes, load_fingerprint

    run = interrupted(tmp_path)
    before = load_fingerprint(run.data_file)
    assert before is not None
    assert changes(before, before) == []
    newer = replace(before, versions={**before.versions, "torch": "99"})
    (told,) = changes(before, newer)
    assert "torch" in told
    assert "99" in told
    assert changes(before, replace(before, items=before.items[:-1])) != []
    assert changes(before, replace(before, parts={**before.parts, "labels": "x"})) == ["the labels"]


def test_a_run_without_a_fingerprint_goes_on_with_a_note(tmp_path: Path) -> None:
    run = interrupted(tmp_path)
    run.data_file.unlink()
    said: list[str] = []
    assert prepare_resume(run.path, options(tmp_path), announce=said.append).train().reason == "finished"
    assert any("cannot be told" in line for line in said)
    assert run.data_file.is_file()


def test_runs_on_different_data_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [train(GAUSS, DATA, options=options(tmp_path, reader={"samples": n}), steps=2) for n in (50, 50, 60)]
    records = [read_run(run.path) for run in runs]
    assert not on_different_data(records[:2])
    assert on_different_data(records)


# ---- disk --------------------------------------------------------------------------------------------------------
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_under_the_figures_is_one_line_and_a_last_save(tmp_path: Path) -> None:
    job = start(tmp_path, steps=9)
    job.run.metrics_file.symlink_to("/dev/full")
    with pytest.raises(StudioError, match=r"metrics\.jsonl: the disk is full.*step_00000001"):
        job.train()
    assert job.run.latest_checkpoint().name == "step_00000001.safetensors"


def test_older_checkpoints_make_room_for_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, full = loop.save_state, [True]

    def save(path: Path, state: Any, labels: Any = None) -> None:
        if path.name == "step_00000009.safetensors" and full:
            full.clear()
            raise DiskFullError("full")
        real(path, state, labels)

    monkeypatch.setattr(loop, "save_state", save)
    job = start(tmp_path, Do(10, lambda t: os.kill(os.getpid(), signal.SIGINT)), steps=12, every=3)
    job.train()
    assert [path.name[:13] for path in job.run.list_checkpoints()] == ["step_00000009", "step_00000010"]


def test_a_deleted_run_folder_is_said_at_once_and_not_made_again(tmp_path: Path) -> None:
    job = start(tmp_path, Do(4, lambda t: shutil.rmtree(t.run.path)), steps=20)
    with pytest.raises(RunFolderGoneError, match="after step 5"):
        job.train()
    assert not job.run.path.exists()


def test_events_that_cannot_be_written_are_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    trained = train(GAUSS, DATA, options=options(tmp_path, tensorboard=True), steps=3)
    assert len(trained.run.read_metrics()) == 3
    assert caplog.text.count("no more TensorBoard events") == 1


def test_steps_agree_between_the_figures_and_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained = train(GAUSS, DATA, options=options(tmp_path, tensorboard=True), steps=4)
    events = EventAccumulator(str(trained.path / "events"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [row["step"] for row in trained.run.read_metrics()]


# ---- numbers -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("where", ["parameter", "moment"])
def test_what_is_not_finite_is_not_saved(tmp_path: Path, where: str) -> None:
    def spoil(trainer: Trainer) -> None:
        with torch.no_grad():
            if where == "parameter":
                next(trainer.plugin.parameters()).fill_(float("inf"))
        trainer.plugin.training_step = lambda batch, step: {"loss": 1.0}  # type: ignore[method-assign]
        if where == "moment":
            trainer.plugin.training_state = lambda: {"exp_avg": torch.tensor([1.0, float("nan")])}  # type: ignore[method-assign]

    job = start(tmp_path, Do(4, spoil), steps=9, every=3)
    with pytest.raises(NonFiniteLossError, match=r"no longer finite.*step_00000003"):
        job.train()
    assert job.run.latest_checkpoint().name == "step_00000003.safetensors"


@pytest.mark.parametrize(
    ("plugin", "field", "value"),
    [
        ("splat", "lr_means", -1.0),
        ("splat", "lr_opacities", float("nan")),
        ("splat", "refine_every", 0),
        ("ngp", "levels", 6),
        ("nerf", "rays", 0),
        ("diffusion", "batch", 0),
        ("diffusion", "timesteps", 1),
        ("diffusion", "channels", 7),
        ("diffusion", "head_dim", 5),
        ("diffusion", "multipliers", (1, 0)),
        ("gan", "beta1", 1.0),
        ("vae", "lr", float("inf")),
        ("gpt", "dropout", 2.0),
        ("caption", "lr", -1e-3),
    ],
)
def test_numbers_out_of_range_are_refused_before_training(plugin: str, field: str, value: Any) -> None:
    config = load_config_class(find_plugin(plugin))
    with pytest.raises(StudioError, match=field):
        config.from_dict({**config().to_dict(), **config.CHECK, field: value}).check()
    for preset in (None, *config.PRESETS):
        config.preset(preset).check()


# ---- starts and ends ---------------------------------------------------------------------------------------------
def test_a_failed_start_leaves_no_folder_that_hides_the_good_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = train(GAUSS, DATA, options=options(tmp_path), steps=2)
    cls = load_plugin_class(find_plugin(GAUSS))

    def fail(*args: Any) -> None:
        raise StudioError("no")

    for method in ("setup_training", "training_step"):
        with monkeypatch.context() as patch:
            patch.setattr(cls, method, fail)
            with pytest.raises(StudioError):
                train(GAUSS, DATA, options=options(tmp_path), steps=2)
        assert [path.parent for path in (tmp_path / "runs").glob("**/config.yaml")] == [good.path]


def test_a_run_without_a_checkpoint_does_not_hide_one_that_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = train(GAUSS, DATA, options=options(tmp_path), steps=2)
    killed = start(tmp_path, steps=2)
    os.utime(killed.run.config_file, (2e9, 2e9))
    assert RunFolder.open(tmp_path / "runs").path == good.path
    assert str(killed.run.path) in caplog.text


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="has no SIGHUP")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_save_and_say_why_training_ended(tmp_path: Path, name: str) -> None:
    stop = Do(3, lambda t: os.kill(os.getpid(), getattr(signal, name)))
    trained = train(GAUSS, DATA, options=options(tmp_path), observers=[stop], steps=9)
    assert (trained.reason, trained.step) == ("interrupted", 3)
    assert open_run(trained.path).reason == "interrupted"
    with pytest.raises(TrainingInterruptedError, match=r"step 3 of 9.*--resume"):
        train(GAUSS, DATA, options=options(tmp_path), observers=[stop], raise_on_interrupt=True, steps=9)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="has no SIGHUP")
def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = Do(3, lambda t: os.kill(os.getpid(), signal.SIGHUP))
        assert train(GAUSS, DATA, options=options(tmp_path), observers=[stop], steps=5).reason == "finished"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_samples_do_not_depend_on_the_batch() -> None:
    from studio.plugin.noise import SampleGenerator, normal, numbers_of, rows_of, uniform

    def draw(batch: int) -> tuple[Tensor, list[int]]:
        noise, drawn, numbers = SampleGenerator(3), [], []
        for first in range(0, 12, batch):
            noise.turn_to(first, batch)
            numbers += list(numbers_of(noise, batch))
            for part in range(0, batch, 2):
                own = rows_of(noise, part, 2)
                drawn.append(normal((2, 5), own) + uniform((2, 5), own))
        return torch.cat(drawn), numbers

    first, second = draw(12), draw(4)
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1] == list(range(12))
    assert len(torch.unique(first[0])) == 60
    plain = torch.Generator().manual_seed(1)
    assert torch.equal(normal((2, 3), plain), torch.randn(2, 3, generator=torch.Generator().manual_seed(1)))
    assert issubclass(load_plugin_class(find_plugin(GAUSS)), Generator)
