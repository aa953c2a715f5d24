"""studio train --timelapse: the film of a training from one camera."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studio.training.timelapse import frame_steps


def newest_run(root: Path) -> Path:
    return max(root.glob("*/*/*/config.yaml"), key=lambda path: path.stat().st_mtime).parent


def train(studio: Any, scene: Path, *more: object) -> Any:
    return studio("train", "toy-rays", scene, "--no-previews", "--no-tensorboard", *more)


def test_a_film_of_a_training(studio: Any, scene_folder: Path) -> None:
    done = train(studio, scene_folder, "--steps", 30, "--timelapse", "orbit")
    assert done.code == 0, done.err
    run = newest_run(Path("runs"))
    frames = sorted((run / "timelapse").glob("*.png"))
    assert [int(path.stem[5:]) for path in frames] == list(range(1, 31))
    first, last = (np.asarray(Image.open(path), dtype=np.float64)[-16:] for path in (frames[0], frames[-1]))
    # One camera, and a model that learns.
    assert first.shape == (16, 24, 3)
    assert np.abs(first - last).mean() > 1
    assert (run / "timelapse.mp4").read_bytes()[4:8] == b"ftyp"


def test_watching_changes_nothing_and_a_resumed_film_goes_on(studio: Any, scene_folder: Path) -> None:
    from studio.training.loaded import open_run

    assert train(studio, scene_folder, "--steps", 12, "--output", "plain").code == 0
    assert train(studio, scene_folder, "--steps", 6, "--output", "filmed", "--timelapse", "photo_03").code == 0
    run = newest_run(Path("filmed"))
    early = (run / "timelapse" / "step_00000003.png").read_bytes()
    assert studio("train", "--resume", run, "--steps", 12, "--timelapse", "photo_03", "--no-previews").code == 0
    assert (run / "timelapse" / "step_00000003.png").read_bytes() == early
    steps = [int(path.stem[5:]) for path in sorted((run / "timelapse").glob("*.png"))]
    assert steps == list(range(1, 13))
    plain, filmed = (open_run(path).plugin.state_dict() for path in (newest_run(Path("plain")), run))
    for name, value in plain.items():
        np.testing.assert_array_equal(value.numpy(), filmed[name].numpy())


def test_bad_views(studio: Any, scene_folder: Path) -> None:
    done = train(studio, scene_folder, "--steps", 2, "--timelapse", "phto_03.png")
    assert done.code == 2
    assert "--timelapse phto_03.png: there is no photo and no camera path of this name. Did you mean" in done.err
    # Nothing is left behind.
    assert not list(Path("runs").glob("*/*/*"))
    done = studio("train", "toy-gauss", "toy:moons", "--timelapse", "orbit")
    assert "--timelapse: films scenes, and 'toy-gauss' is a generator." in done.err


def test_steps_of_the_frames() -> None:
    steps = frame_steps(10_000, 100)
    assert steps[0] == 1
    assert steps[-1] == 10_000
    assert len(steps) <= 100
    gaps = np.diff(steps)
    assert (gaps > 0).all()
    late = np.array(steps[50:])
    # The ratio of neighbours is the same, as far as whole steps allow.
    np.testing.assert_allclose(late[1:] / late[:-1], 10_000 ** (1 / 99), rtol=0.02)
    assert frame_steps(1) == [1]
    assert frame_steps(5) == [1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="total must be at least 1"):
        frame_steps(0)
