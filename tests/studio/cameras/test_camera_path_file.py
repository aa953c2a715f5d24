"""nerfstudio's camera-path JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from studio.cameras import CameraPath, Cameras, orbit, read_camera_path, write_camera_path
from studio.errors import StudioError


def viewer_file() -> dict[str, Any]:
    """As nerfstudio 1.1's viewer saves a path of two keyframes, one second at 4 frames per second."""
    poses = [[1.0, 0, 0, x, 0, 0, -1.0, -4.0, 0, 1.0, 0, 0.5, 0, 0, 0, 1] for x in (0.0, 0.1, 0.2, 0.3)]
    key = {"fov": 60.0, "aspect": 1.5, "override_transition_enabled": False, "override_transition_sec": None}
    return {
        "default_fov": 60.0,
        "default_transition_sec": 1.0,
        "keyframes": [{"matrix": poses[0], **key}, {"matrix": poses[3], **key}],
        "camera_type": "perspective",
        "render_height": 600.0,
        "render_width": 900.0,
        "fps": 4.0,
        "seconds": 1.0,
        "is_cycle": False,
        "smoothness_value": 0.0,
        "camera_path": [{"camera_to_world": p, "fov": 60.0, "aspect": 1.5} for p in poses],
    }


def save(folder: Path, data: Any) -> Path:
    path = folder / "path.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_reads_what_the_viewer_writes(tmp_path) -> None:
    """A camera at (x, -4, 0.5) that looks along +y with +z up, 60 degrees high."""
    path = read_camera_path(save(tmp_path, viewer_file()))
    cameras = path.cameras
    assert cameras.shape == (4,)
    assert cameras.size == (900, 600)
    assert cameras.model == "pinhole"
    assert cameras.dtype == torch.float32
    torch.testing.assert_close(cameras.origins[3], torch.tensor([0.3, -4.0, 0.5]))
    torch.testing.assert_close(cameras.forward[0], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(cameras.up[0], torch.tensor([0.0, 0.0, 1.0]))
    torch.testing.assert_close(cameras.fx, torch.full((4,), 300 / math.tan(math.radians(30))))
    assert torch.equal(cameras.fx, cameras.fy)
    # 30 degrees up is the top edge of the picture.
    top, _ = cameras[0].project(torch.tensor([0.0, 0.0, 0.5 + 4 * math.tan(math.radians(30))]))
    torch.testing.assert_close(top, torch.tensor([450.0, 0.0]), atol=1e-3, rtol=0)
    assert (path.fps, path.seconds, path.closed) == (4.0, 1.0, False)


def test_equirectangular_and_fisheye_focal_lengths(tmp_path) -> None:
    around = read_camera_path(save(tmp_path, viewer_file() | {"camera_type": "equirectangular"})).cameras
    assert (around.model, float(around.fx[0]), float(around.fy[0])) == ("equirectangular", 450.0, 600.0)
    fish = read_camera_path(save(tmp_path, viewer_file() | {"camera_type": "fisheye"})).cameras
    assert fish.model == "fisheye"
    assert float(fish.fx[0]) == pytest.approx(300 / math.tan(math.radians(30)))


@pytest.mark.parametrize(
    ("changes", "fps"),
    [
        ({"seconds": 2.0}, 2.0),  # slowed down by hand
        ({"fps": 4.2, "seconds": 1.0}, 4.2),  # int(4.2) frames
        ({"seconds": None}, 4.0),
        ({"fps": None}, 4.0),
        ({"fps": None, "seconds": None}, 24.0),
    ],
)
def test_speed(tmp_path, changes, fps) -> None:
    data = {k: v for k, v in (viewer_file() | changes).items() if v is not None}
    assert read_camera_path(save(tmp_path, data)).fps == pytest.approx(fps)


@pytest.mark.parametrize("model", ["pinhole", "fisheye", "equirectangular"])
@pytest.mark.parametrize("frames", [1, 2, 40])
def test_round_trip(tmp_path, model, frames) -> None:
    eye = torch.eye(4)
    lens = (
        Cameras.make(eye, width=640, height=320, fx=320.0, fy=320.0, model=model)
        if model == "equirectangular"
        else Cameras.make(eye, width=640, height=480, fx=500.0, model=model)
    )
    cameras = orbit(lens, frames, center=(1, 2, 3), radius=2.0, elevation=0.4)
    write_camera_path(tmp_path / "new" / "path.json", CameraPath(cameras, fps=30.0, closed=True))
    again = read_camera_path(tmp_path / "new" / "path.json")
    torch.testing.assert_close(again.cameras.camera_to_world, cameras.camera_to_world, atol=1e-6, rtol=0)
    for field in ("fx", "fy", "cx", "cy", "width", "height"):
        torch.testing.assert_close(getattr(again.cameras, field), getattr(cameras, field))
    assert again.cameras.model == model
    assert (again.fps, again.closed) == (30.0, True)
    assert again.seconds == pytest.approx(frames / 30)


def test_off_centre_cameras_survive(tmp_path) -> None:
    camera = Cameras.make(torch.eye(4)[None], width=640, height=480, fx=500.0, fy=450.0, cx=300.0, cy=250.0)
    write_camera_path(tmp_path / "path.json", CameraPath(camera))
    again = read_camera_path(tmp_path / "path.json").cameras
    torch.testing.assert_close(again.intrinsics, camera.intrinsics)


def test_written_files_have_what_nerfstudio_reads(tmp_path) -> None:
    cameras = orbit(Cameras.make(torch.eye(4), width=640, height=480, fx=500.0), 100, center=(0, 0, 0), radius=2.0)
    write_camera_path(tmp_path / "path.json", CameraPath(cameras, fps=25.0))
    data = json.loads((tmp_path / "path.json").read_text())
    assert (data["camera_type"], data["render_width"], data["render_height"]) == ("perspective", 640, 480)
    assert (data["seconds"], data["fps"]) == (4.0, 25.0)
    assert len(data["camera_path"]) == 100
    first = data["camera_path"][0]
    assert set(first) == {"camera_to_world", "fov", "aspect"}
    assert first["fov"] == pytest.approx(math.degrees(2 * math.atan(240 / 500)))
    opengl = torch.tensor(first["camera_to_world"]).reshape(4, 4)
    torch.testing.assert_close(-opengl[:3, 2], cameras.forward[0])
    assert 2 <= len(data["keyframes"]) <= 16
    assert data["keyframes"][-1]["matrix"] == data["camera_path"][-1]["camera_to_world"]


def test_what_the_format_cannot_say_is_refused(tmp_path) -> None:
    camera = Cameras.make(torch.eye(4)[None], width=8, height=8, fx=5.0, model="opencv", distortion=[0.1])
    with pytest.raises(StudioError, match="opencv cameras"):
        write_camera_path(tmp_path / "path.json", CameraPath(camera))
    with pytest.raises(StudioError, match="fisheye cameras with distortion"):
        write_camera_path(tmp_path / "path.json", CameraPath(replace(camera, model="fisheye")))
    assert not (tmp_path / "path.json").exists()
    with pytest.raises(ValueError, match="fps"):
        CameraPath(camera, fps=0.0)
    with pytest.raises(ValueError, match="at least one"):
        CameraPath(camera[0])


def entry(**changes: Any) -> dict[str, Any]:
    data = viewer_file()
    data["camera_path"][2].update(changes)
    return data


def without(*keys: str) -> dict[str, Any]:
    return {k: v for k, v in viewer_file().items() if k not in keys}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ('{"fps": 4,\n "seconds": }', r"line 2, column 13 \(Expecting value\): \"seconds\": }"),
        ("", "line 1, column 1"),
        ("[1]", "the top level must be an object, got a list"),
        (without("render_width"), "the field render_width is missing"),
        (viewer_file() | {"render_height": 0}, "render_height must be a whole number"),
        (viewer_file() | {"render_height": "tall"}, "render_height must be a number, got a string"),
        (viewer_file() | {"camera_type": "vr180"}, "camera_type \"vr180\" is not supported"),
        (without("camera_path"), "camera_path must be a list"),
        (viewer_file() | {"camera_path": []}, "camera_path must be a list of at least one"),
        (viewer_file() | {"fps": -4}, "fps must be above zero"),
        (viewer_file() | {"camera_path": [7]}, r"camera_path\[0\] must be an object"),
        (entry(fov=180), r"camera_path\[2\]: fov must lie between 0.0001 and 180 degrees, got 180"),
        (entry(fov=None), r"camera_path\[2\]: fov must be a number, got nothing"),
        (entry(camera_to_world=[1.0] * 12), r"camera_path\[2\]: camera_to_world must have 16 numbers"),
        (entry(camera_to_world=[math.nan] * 16), r"camera_path\[2\]: camera_to_world\[0\] is nan"),
        (entry(camera_to_world=[2.0] * 12 + [0, 0, 0, 1]), r"frame 'camera_path\[2\]': camera_to_world is not a rot"),
        ('{"camera_path":' + "[" * 100_000, "nested deeper than"),
        ('{"fps": 1, "fps": 2}', "has the name 'fps' twice"),
        (entry(fov=10**400), r"camera_path\[2\]: fov is inf"),
        (entry(fov=1e-320), r"camera_path\[2\]: fov must lie between"),
        (entry(fl_x=1e300), r"camera_path\[2\]: fl_x is 1e\+300, beyond all measure"),
        (viewer_file() | {"render_width": 2**40}, "render_width must be a whole number of pixels from 1 to 1,048,576"),
        (viewer_file() | {"render_width": 10**6, "render_height": 10**6}, "are 1,000,000,000,000 pixels; at most"),
        (viewer_file() | {"seconds": 1e-320}, "(fps and )?seconds make inf frames a second"),
        (viewer_file() | {"camera_type": ["perspective"]}, "camera_type a list is not supported"),
        (entry(fl_x=-3.0), r"frame 'camera_path\[2\]': fx must be a positive number"),
    ],
)  # fmt: skip
def test_errors_name_file_and_field(tmp_path, data, words) -> None:
    path = save(tmp_path, data)
    with pytest.raises(StudioError, match=words) as caught:
        read_camera_path(path)
    assert caught.value.message.startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(StudioError, match=r"nothing\.json: there is no such file"):
        read_camera_path(tmp_path / "nothing.json")
