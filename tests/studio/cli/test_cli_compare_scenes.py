"""studio compare of scenes: the same views of several runs, side by side and wiped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from studio.cli.compare_scenes import wipe_share, wiped


@pytest.fixture(scope="module")
def same_ball(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ball of `ball_run` in a scene of the input's size: radius 0.5 there."""
    from studio.training.start import TrainOptions, train

    options = TrainOptions(output=tmp_path_factory.mktemp("same"), tensorboard=False, reader={"normalize": "none"})
    return train("ball", scene_folder, options=options, radius=0.5).path


def frames_of(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path), dtype=np.float64) / 255 for path in sorted(folder.glob("*.png"))]


def test_runs_are_seen_from_the_same_places(studio: Any, ball_run: Path, same_ball: Path) -> None:
    arguments = ("--frames", 3, "--width", 48, "--output", "pair", "--labels", "one", "two")
    done = studio("compare", ball_run, same_ball, *arguments)
    assert done.code == 0, done.err
    frames = frames_of(Path("pair"))
    assert len(frames) == 3
    for frame in frames:
        left, right = frame[-32:, :48], frame[-32:, -48:]
        assert left.std() > 0.05
        assert np.abs(left - right).mean() < 0.01
    assert studio("compare", ball_run, same_ball, "--frames", 2, "--show", "depth", "--output", "depth").code == 0
    (first, _) = frames_of(Path("depth"))
    middle = first.shape[1] // 2
    # Equal depths have equal colours, and the scales equal numbers, although one scene is half as large.
    assert np.abs(first[-16:, :24] - first[-16:, middle + 2 : middle + 26]).mean() < 0.02


def test_a_video_and_its_default_name(studio: Any, ball_run: Path, same_ball: Path) -> None:
    done = studio("compare", ball_run, same_ball, "--frames", 2, "--wipe")
    assert done.code == 0, done.err
    assert done.out.strip() == "comparison.mp4"
    assert Path("comparison.mp4").read_bytes()[4:8] == b"ftyp"


def test_a_wipe_shows_each_run_on_its_side() -> None:
    left, right = torch.zeros(20, 100, 3), torch.full((20, 100, 3), 0.5)
    frame = wiped(left, right, 0.3, ("a", "b"))
    assert frame.shape[1] == 100
    picture = frame[-20:]
    assert bool((picture[:, :29] == 0).all())
    assert bool((picture[:, 29:31] == 1).all())
    assert bool((picture[:, 31:] == 0.5).all())
    shares = [wipe_share(t / 10) for t in range(41)]
    assert shares[0] == pytest.approx(0.5)
    assert shares[40] == pytest.approx(0.5)
    assert 0 <= min(shares) < 0.1
    assert 0.9 < max(shares) <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--wipe",), "--wipe: goes between two runs, not 1."),
        (("--labels", "a", "b"), "--labels: 2 for 1 runs."),
        (("--show", "heat"), "does not render 'heat'"),
        (("--json",), "studio runs compare RUN RUN --json"),
        (("--path", "nowhere"), "There is no camera path 'nowhere'"),
    ],
)
def test_bad_requests(studio: Any, ball_run: Path, arguments: tuple[str, ...], message: str) -> None:
    done = studio("compare", ball_run, *arguments)
    assert done.code == 2
    assert message in done.err
