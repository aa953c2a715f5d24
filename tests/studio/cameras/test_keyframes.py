"""Paths of keyframes: editing, timing, easing, and the file that `studio render` takes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.cameras import CameraPath, Keyframe, KeyframePath, read_camera_path, write_camera_path
from studio.cameras.keyframes import EASINGS, ease
from studio.cameras.poses import look_at, make_pose, so3_exp
from studio.errors import StudioError

SIZE = {"width": 64, "height": 48}


def key(x: float, seconds: float = 2.0, easing: Any = "none", fov: float = 1.0, turn: float = 0.0) -> Keyframe:
    rotation = so3_exp(torch.tensor([0.0, turn, 0.0], dtype=torch.float64))
    return Keyframe(make_pose(rotation, torch.tensor([x, 0.0, 0.0], dtype=torch.float64)), fov, seconds, easing)


def xs(path: KeyframePath, times: list[float]) -> list[float]:
    return path.at(times, **SIZE).origins[:, 0].tolist()


STRAIGHT = KeyframePath((key(0.0), key(1.0, 1.0), key(3.0, 2.0)))
"""At the same speed of 1 all the way, so that the spline is a straight line in time."""


def test_lengths_and_times() -> None:
    assert STRAIGHT.seconds == 3.0
    assert STRAIGHT.times == (0.0, 1.0, 3.0)
    closed = KeyframePath(STRAIGHT.keyframes, closed=True)
    assert closed.seconds == 5.0
    assert KeyframePath().seconds == KeyframePath((key(0.0),)).seconds == 0.0


def test_keyframes_are_passed_at_their_times() -> None:
    path = KeyframePath((key(0.0, turn=0.1), key(1.0, 0.5, fov=0.5, turn=0.7), key(-1.0, 4.0, "in-out", 2.0, -1.0)))
    cameras = path.at(torch.tensor(path.times), **SIZE)
    for camera, keyframe in zip(cameras, path.keyframes, strict=True):
        torch.testing.assert_close(camera.camera_to_world.double(), keyframe.camera_to_world, atol=1e-6, rtol=0)
        assert 2 * math.atan(24 / float(camera.fy)) == pytest.approx(keyframe.fov_y, abs=1e-5)


def test_without_easing_the_motion_is_even() -> None:
    assert xs(STRAIGHT, [0.0, 0.25, 1.0, 1.5, 3.0]) == pytest.approx([0.0, 0.25, 1.0, 1.5, 3.0], abs=1e-5)
    assert xs(STRAIGHT, [-5.0, 9.0]) == pytest.approx([0.0, 3.0])


@pytest.mark.parametrize(
    ("easing", "middle"),
    [("none", 0.5), ("in", 0.375), ("out", 0.625), ("in-out", 0.5)],  # u^2 (2 - u) at 1/2 is 3/8
)
def test_easing_bends_time_and_not_the_curve(easing: Any, middle: float) -> None:
    path = STRAIGHT.replaced(1, key(1.0, 1.0, easing))
    assert xs(path, [0.5]) == pytest.approx([middle], abs=1e-5)
    assert xs(path, [1.0, 2.0]) == pytest.approx([1.0, 2.0], abs=1e-5)


@pytest.mark.parametrize(("easing", "start", "end"), [("none", 1, 1), ("in", 0, 1), ("out", 1, 0), ("in-out", 0, 0)])
def test_easing_rests_at_the_ends_that_it_names(easing: Any, start: float, end: float) -> None:
    step = 1e-6
    values = ease(torch.tensor([0.0, step, 1 - step, 1.0], dtype=torch.float64), easing)
    assert values[0] == 0
    assert values[3] == 1
    assert float(values[1] - values[0]) / step == pytest.approx(start, abs=1e-4)
    assert float(values[3] - values[2]) / step == pytest.approx(end, abs=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(EASINGS), st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_easing_never_goes_back(easing: Any, shares: list[float]) -> None:
    eased = ease(torch.tensor(sorted(shares), dtype=torch.float64), easing)
    assert bool((eased.diff() >= -1e-12).all())
    assert float(eased.min()) >= 0
    assert float(eased.max()) <= 1 + 1e-12


def test_frames_of_open_and_closed_paths() -> None:
    frames = STRAIGHT.frames(10, **SIZE)
    assert len(frames) == 30
    assert frames.origins[[0, -1], 0].tolist() == pytest.approx([0.0, 3.0], abs=1e-5)
    closed = KeyframePath(STRAIGHT.keyframes, closed=True).frames(10, **SIZE)
    assert len(closed) == 50
    first, last = closed.origins[0], closed.origins[-1]
    assert float((first - last).norm()) > 1e-3  # the first is not repeated
    assert len(KeyframePath((key(2.0),)).frames(30, **SIZE)) == 1
    assert xs(KeyframePath(STRAIGHT.keyframes, closed=True), [0.0, 5.0, 10.0]) == pytest.approx([0.0] * 3, abs=1e-5)


def test_editing() -> None:
    path = KeyframePath().inserted(0, key(0.0)).inserted(1, key(2.0)).inserted(1, key(1.0))

    def order(path: KeyframePath) -> list[float]:
        return [float(k.camera_to_world[0, 3]) for k in path.keyframes]

    assert order(path) == [0, 1, 2]
    assert order(path.moved(0, 2)) == [1, 2, 0]
    assert order(path.moved(2, 0)) == [2, 0, 1]
    assert order(path.without(1)) == [0, 2]
    assert order(path.replaced(2, key(9.0))) == [0, 1, 9]
    assert order(path) == [0, 1, 2]
    for edit in (lambda: path.without(3), lambda: path.moved(0, 3), lambda: path.inserted(5, key(0.0))):
        with pytest.raises(ValueError, match="index must be 0 to"):
            edit()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"seconds": 0.0}, "seconds"),
        ({"seconds": math.inf}, "seconds"),
        ({"fov_y": 3.2}, "fov_y"),
        ({"easing": "bounce"}, "easing"),
        ({"camera_to_world": torch.eye(3)}, "camera_to_world"),
    ],
)
def test_impossible_keyframes(fields: dict[str, Any], match: str) -> None:
    good = {"camera_to_world": torch.eye(4), "fov_y": 1.0}
    with pytest.raises(ValueError, match=match):
        Keyframe(**{**good, **fields})


def test_impossible_paths() -> None:
    with pytest.raises(ValueError, match="at least one keyframe"):
        KeyframePath().frames(30, **SIZE)
    with pytest.raises(ValueError, match="fps"):
        STRAIGHT.frames(0, **SIZE)
    with pytest.raises(ValueError, match="frames"):
        KeyframePath((key(0.0), key(1.0, 3600.0))).frames(120, **SIZE)


# ---- files ---------------------------------------------------------------------------------------------------------
def saved(tmp_path: Path, path: KeyframePath = STRAIGHT) -> Path:
    file = tmp_path / "path.json"
    write_camera_path(file, CameraPath(path.frames(10, **SIZE), 10.0, path.closed, path.keyframes))
    return file


def test_files_keep_keyframes_times_easings_and_frames(tmp_path: Path) -> None:
    eye = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    pose = look_at(eye, torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    path = KeyframePath((Keyframe(pose, 0.7, 1.5, "out"), key(1.0, 0.25, "in-out", 1.2, 0.4)), closed=True)
    read = read_camera_path(saved(tmp_path, path))
    assert read.closed
    assert read.fps == 10
    torch.testing.assert_close(read.cameras.camera_to_world, path.frames(10, **SIZE).camera_to_world)
    assert len(read.keyframes) == 2
    for after, before in zip(read.keyframes, path.keyframes, strict=True):
        torch.testing.assert_close(after.camera_to_world.double(), before.camera_to_world, atol=1e-9, rtol=0)
        assert after.fov_y == pytest.approx(before.fov_y)
        assert (after.seconds, after.easing) == (before.seconds, before.easing)


def test_frames_alone_have_keyframes_for_other_viewers(tmp_path: Path) -> None:
    file = tmp_path / "path.json"
    write_camera_path(file, CameraPath(STRAIGHT.frames(10, **SIZE), 10.0))
    written = json.loads(file.read_text())
    assert 2 <= len(written["keyframes"]) <= 16
    read = read_camera_path(file)
    assert len(read.keyframes) == len(written["keyframes"])
    assert all(k.seconds == pytest.approx(written["default_transition_sec"]) for k in read.keyframes)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"keyframes": 3}, "keyframes must be a list"),
        ({"keyframes": [3]}, r"keyframes\[0\] must be an object"),
        ({"matrix": [1, 2]}, r"keyframes\[1\]: matrix must have 16 numbers"),
        ({"matrix": [0.0] * 16}, r"keyframes\[1\]"),
        ({"fov": 0}, r"keyframes\[1\]: fov"),
        ({"override_transition_sec": -1}, r"keyframes\[1\]: its time"),
        ({"override_transition_sec": "x"}, r"keyframes\[1\]: override_transition_sec"),
        ({"easing": "bounce"}, r"keyframes\[1\]: easing"),
    ],
)
def test_damaged_keyframes_are_named(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    file = saved(tmp_path)
    data = json.loads(file.read_text())
    data.update(change) if "keyframes" in change else data["keyframes"][1].update(change)
    file.write_text(json.dumps(data))
    with pytest.raises(StudioError, match=match):
        read_camera_path(file)


def test_keyframes_of_old_viewers_do_not_keep_a_path_from_being_rendered(tmp_path: Path) -> None:
    file = saved(tmp_path)
    data = json.loads(file.read_text())
    data["keyframes"] = [{"matrix": json.dumps(data["keyframes"][0]["matrix"]), "fov": 50, "properties": "[]"}]
    file.write_text(json.dumps(data))
    assert len(read_camera_path(file).cameras) == 30
    assert read_camera_path(file).keyframes == ()
