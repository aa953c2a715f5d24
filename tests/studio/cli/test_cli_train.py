"""`studio train`: finding the plugin, options of plugin and engine, runs, resuming after every kind of end."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from studio.cli.train_arguments import ReaderOptions, ResumeRequest, TrainRequest, read_train_arguments
from studio.errors import StudioError
from studio.readers import reader_names
from studio.scene.normalize import NORMALIZE_METHODS
from studio.training.checkpoint import load_state
from studio.training.loaded import open_run


def read(*argv: str) -> TrainRequest:
    request = read_train_arguments(argv)
    assert isinstance(request, TrainRequest)
    return request


def only_run(folder: Path) -> Path:
    (config,) = folder.glob("**/config.yaml")
    return config.parent


# ---- arguments ---------------------------------------------------------------------------------------------------
def test_the_order_of_arguments_never_matters() -> None:
    groups = [["ball"], ["DATA"], ["--preset", "big"], ["--hidden", "4", "5"], ["--no-smooth"], ["--budget", "2m"]]
    for order in itertools.islice(itertools.permutations(groups), 0, None, 17):
        argv = list(itertools.chain.from_iterable(order))
        if argv.index("DATA") < argv.index("ball"):
            # Behind a flag of several values, the plugin's name is told from them by its name, the data by its place.
            continue
        request = read(*argv)
        assert (request.plugin, request.data, request.run.preset, request.run.budget) == ("ball", "DATA", "big", 120)
        config: Any = request.settings
        assert (config.radius, config.steps, config.hidden, config.smooth) == (0.8, 4, (4, 5), False)
    assert read("DATA", "--seed", "1", "ball").data == "DATA"


def test_a_value_or_a_folder_may_be_called_like_a_plugin() -> None:
    assert read("--output", "ball", "toy-rays", "D").plugin == "toy-rays"
    assert read("--activation", "tanh", "toy-rays", "toy-gauss").data == "toy-gauss"
    # The value of a flag that only the plugin knows.
    assert read("toy-gauss", "--lr", "1", "ball").data == "ball"


def test_presets_are_defaults_and_single_options_win() -> None:
    config: Any = read(
        "ball", "D", "--preset=big", "--radius", "0.7", "--shade.ambient", "0.5", "--limit", "3"
    ).settings
    assert (config.radius, config.steps, config.shade.ambient, config.limit) == (0.7, 4, 0.5, 3)
    assert read("ball", "D").settings.steps == 3


def test_engine_options_reach_the_run() -> None:
    request = read(
        "ball", "D", "--seed", "5", "--downscale", "2", "--background", "black", "--eval-every", "3", "--test-file",
        "t.json", "--images", "images_2", "--format", "colmap", "--normalize", "none", "--colmap-model", "sparse/1",
    )  # fmt: skip
    assert (request.run.seed, request.scene.downscale, request.scene.background) == (5, 2.0, "black")
    assert request.scene.reader() == {
        "format": "colmap", "normalize": "none", "eval_every": 3, "test_file": "t.json", "images": "images_2",
        "masks": None, "model": "sparse/1", "ignore_distortion": False,
    }  # fmt: skip


def test_the_offered_choices_are_the_engines() -> None:
    assert get_args(get_type_hints(ReaderOptions)["normalize"]) == NORMALIZE_METHODS
    assert {"transforms", "blender", "colmap", "llff"} <= set(reader_names())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], r"Name a plugin and its data.*Plugins: ball"),
        (["bal", "D"], r"no plugin named 'bal'\. Did you mean 'ball'\?"),
        (["--seed", "3", "toy-ray", "D"], r"no plugin named 'toy-ray'\. Did you mean"),
        (["ball", "D", "--preset", "bgi"], r"no preset 'bgi'; presets: big\. Did you mean 'big'\?"),
        (["ball", "D", "--radios", "1"], r"'studio train ball' has no option '--radios'\. Did you mean '--radius'\?"),
        (["toy-gauss", "D", "--downscale", "2"], r"'studio train toy-gauss' has no option '--downscale'"),
        (["ball", "D", "E"], r"'E' is one argument too many"),
        (["clash", "D"], r"--seed of plugin 'clash' \(ball_config:ClashConfig\.seed\) clashes with the engine's own"),
        (["--resume", "nowhere"], r"nowhere: there is no such folder"),
        (["--resume", "R", "--seed", "3"], r"--seed cannot be given with --resume"),
        (["--resume", "R", "--downscale=3"], r"--downscale cannot be given with --resume"),
    ],
)
def test_bad_arguments_are_one_line(argv: list[str], message: str) -> None:
    with pytest.raises(StudioError, match=message) as caught:
        read_train_arguments(argv)
    assert "\n" not in str(caught.value)


def test_help_shows_the_plugins_own_options_and_presets(studio: Any) -> None:
    text = studio("train", "--help", "ball").out
    for part in ("--radius FLOAT", "In scene units. (default: 0.5)", "shade options", "--shade.ambient", "run options"):
        assert part in text
    assert "big  radius 0.8" in text
    assert "toy-rays options" in studio("train", "toy-rays", "--help").out
    assert "(default: 0.8)" in studio("train", "ball", "--preset", "big", "--help").out
    assert "--downscale" not in studio("train", "toy-gauss", "--help").out
    general = studio("train", "--help").out
    for name in ("ball", "toy-rays", "toy-gauss", "splat"):
        assert name in general


# ---- training ----------------------------------------------------------------------------------------------------
def test_training_a_field_says_all_that_matters(studio: Any, scene_folder: Path, tmp_path: Path) -> None:
    done = studio("train", "toy-rays", scene_folder, "--steps", 30, "--output", "my runs", "--no-tensorboard")
    assert (done.code, done.err) == (0, "")
    run = only_run(tmp_path / "my runs")
    shown = f"'{run.relative_to(tmp_path)}'"
    for part in (
        "toy-rays on ", "device: cpu", "step 1/30", "8 training photos, 2 held out, 24x16", f"run: {shown}", "it/s",
        "ETA", "PSNR", "done: 30 steps", f"preview: 'my runs/ring/toy-rays/{run.name}/previews/step_00000030.png'",
        f"studio render {shown} --path orbit", f"studio eval {shown}",
    ):  # fmt: skip
        assert part in done.out, part
    assert "studio export" not in done.out
    picture = Image.open(run / "previews" / "step_00000030.png")
    # Photo and render side by side, each under its caption.
    assert picture.width >= 2 * 24
    assert picture.height > 16
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["plugin"], config["config"]["steps"], config["data"]["path"]) == ("toy-rays", 30, str(scene_folder))


def test_training_a_generator_draws_its_points(studio: Any, tmp_path: Path) -> None:
    done = studio("train", "toy-gauss", "toy:moons", "--steps", 5, "--no-tensorboard")
    assert done.code == 0
    run = only_run(tmp_path / "runs")
    assert "samples of shape 2" in done.out
    assert f"studio train --resume runs/moons/toy-gauss/{run.name} --steps 10" in done.out
    pixels = np.asarray(Image.open(run / "previews" / "step_00000005.png").convert("RGB"))
    assert (pixels == [31, 90, 180]).all(axis=-1).any()


def test_previews_do_not_change_the_run(studio: Any, scene_folder: Path, tmp_path: Path) -> None:
    for folder, flag in (("a", "--previews"), ("b", "--no-previews")):
        assert studio("train", "toy-rays", scene_folder, "--steps", 12, "--output", folder, flag).code == 0
    runs = [only_run(tmp_path / name) for name in ("a", "b")]
    # How many there are depends on the speed of the machine.
    assert [bool(list((run / "previews").iterdir())) for run in runs] == [True, False]
    first, second = (load_state(next((run / "checkpoints").iterdir()))["plugin"] for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("toy-rays", "missing"), "missing: there is no such folder."),
        (("toy-rays", "RING", "--steps", 0), "steps: 0 is not a number of training steps."),
        (("toy-rays", "RING", "--device", "gpu"), "Unknown device 'gpu'."),
        (("toy-rays", "RING", "--format", "obj"), "There is no scene format 'obj'."),
        (("toy-rays", "RING", "--test-file", "no.json"), "no.json"),
        (("toy-gauss", "missing.npz"), "missing.npz: there is no such file"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    studio: Any, scene_folder: Path, tmp_path: Path, arguments: tuple[Any, ...], message: str
) -> None:
    done = studio("train", *(scene_folder if a == "RING" else a for a in arguments))
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_nan_ends_with_a_line_and_the_last_good_checkpoint(studio: Any, scene_folder: Path, tmp_path: Path) -> None:
    done = studio(
        "train", "toy-rays", scene_folder, "--steps", 40, "--explode-at", 25, "--checkpoint-steps", 10, "--log-every", 1
    )
    assert done.code == 2
    assert "the loss became nan at step 25" in done.err
    assert "step_00000020" in done.err
    assert open_run(only_run(tmp_path / "runs")).step == 20


# ---- resuming ----------------------------------------------------------------------------------------------------
def test_resuming_needs_no_plugin_and_no_data_and_keeps_its_new_length(
    studio: Any, scene_folder: Path, tmp_path: Path
) -> None:
    assert studio("train", "toy-rays", scene_folder, "--steps", 10, "--no-previews").code == 0
    done = studio("train", "--resume", "runs")
    assert done.code == 2
    assert "all 10 steps are done. Give more with --steps." in done.err
    done = studio("train", "--steps", 15, "toy-rays", scene_folder, "--resume", "runs", "--no-previews")
    assert done.code == 0
    run = only_run(tmp_path / "runs")
    assert "at step 10 of 15" in done.out
    assert open_run(run).step == 15
    assert yaml.safe_load((run / "config.yaml").read_text())["config"]["steps"] == 15
    assert "a run of 'toy-rays'" in studio("train", "toy-gauss", "--resume", "runs", "--steps", 20).err
    assert studio("train", "--resume", "runs", "--steps", "-1").code == 2


def test_a_spent_budget_is_told(studio: Any, tmp_path: Path) -> None:
    done = studio("train", "toy-gauss", "toy:moons", "--steps", 10**7, "--budget", "1s", "--no-previews")
    assert done.code == 0
    assert "the budget is used up" in done.out
    again = studio("train", "--resume", "runs")
    assert again.code == 2
    assert "its budget of 1 s is used up" in again.err


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "studio", "train", *map(str, arguments), "--no-tensorboard", "--no-previews"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("**/checkpoints/step_*.safetensors"))


def test_kill_9_then_resume_is_as_if_never_stopped(studio: Any, scene_folder: Path, tmp_path: Path) -> None:
    arguments = ("toy-rays", scene_folder, "--log-every", 1, "--checkpoint-steps", 10)
    process = start(*arguments, "--steps", 10**6)
    wait_for(lambda: len(checkpoints(tmp_path / "runs")) == 2, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    run = only_run(tmp_path / "runs")
    steps = open_run(run).step + 15
    assert studio("train", "--resume", run, "--steps", steps, "--log-every", 1, "--no-previews").code == 0
    whole = studio("train", *arguments, "--steps", steps, "--output", "whole", "--no-previews", "--no-tensorboard")
    assert whole.code == 0
    resumed, never_stopped = (load_state(checkpoints(folder)[-1]) for folder in (tmp_path / "runs", tmp_path / "whole"))
    assert resumed["step"] == never_stopped["step"] == steps
    for name, tensor in never_stopped["plugin"].items():
        assert torch.equal(tensor, resumed["plugin"][name]), name
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (run, only_run(tmp_path / "whole"))
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == steps


def test_ctrl_c_saves_and_says_how_to_resume(studio: Any, tmp_path: Path) -> None:
    process = start("toy-gauss", "toy:moons", "--steps", 10**7, "--log-every", 1)
    metrics = lambda: list((tmp_path / "runs").glob("**/metrics.jsonl"))  # noqa: E731
    wait_for(lambda: bool(metrics()) and metrics()[0].stat().st_size > 1000, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in out + err
    assert "all saved" in out
    command = next(line for line in out.splitlines() if "--resume" in line).split()
    assert command[:3] == ["studio", "train", "--resume"]
    step = open_run(only_run(tmp_path / "runs")).step
    assert studio(*command[1:], "--steps", step + 5, "--no-previews").code == 0
    assert open_run(only_run(tmp_path / "runs")).step == step + 5


def test_resume_arguments() -> None:
    with pytest.raises(StudioError):
        read_train_arguments(["--resume", "missing", "--budget", "5m"])


def test_resume_options_are_read(studio: Any, ball_run: Path) -> None:
    request = read_train_arguments(["--steps", "9", "--resume", str(ball_run), "--budget", "5m", "--device", "cpu"])
    assert isinstance(request, ResumeRequest)
    assert (request.path, request.steps, request.run.budget, request.run.device) == (ball_run, 9, 300, "cpu")
