"""render, eval, export, info, data info, plugins: what they write and print."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from studio.cameras import CameraPath, Cameras, look_at, write_camera_path
from studio.cli.render_path import PathOptions, make_path
from studio.training.loaded import open_run


# ---- render ------------------------------------------------------------------------------------------------------
def test_an_orbit_is_a_video_in_the_run_folder(studio: Any, ball_run: Path) -> None:
    done = studio("render", ball_run, "--frames", 5, "--fps", 10)
    assert done.code == 0
    video = Path(done.out.strip())
    assert video.resolve() == ball_run / "renders" / "orbit.mp4"
    frames = list(imageio.imiter(video, plugin="FFMPEG"))
    assert [frame.shape for frame in frames] == [(16, 24, 3)] * 5


def test_several_outputs_stand_side_by_side_or_have_folders(studio: Any, ball_run: Path, tmp_path: Path) -> None:
    assert studio("render", "--outputs", "rgb", "opacity", ball_run, "--output", "two.gif", "--frames", 2).code == 0
    assert Image.open("two.gif").width >= 2 * 24
    assert studio("render", ball_run, "--output", "f", "--outputs", "depth", "normals", "--frames", 3).code == 0
    assert [len(list((tmp_path / "f" / name).iterdir())) for name in ("depth", "normals")] == [3, 3]
    normals = np.asarray(Image.open("f/normals/frame_00000.png")).astype(float) / 255
    # In the middle the ball faces the camera, outside of it there is nothing.
    np.testing.assert_allclose(np.linalg.norm(normals[8, 12] * 2 - 1), 1, atol=0.02)
    np.testing.assert_array_equal(normals[0, 0], [1, 1, 1])


def test_depth_is_shown_in_units_of_the_input(ball_run: Path) -> None:
    from studio.cli.render_pictures import Pictures

    run = open_run(ball_run)
    # Normalising brings the ring of radius 2 to radius 1: half of what the input says.
    assert float(torch.linalg.det(run.scene.scene_from_input[:3, :3])) == pytest.approx(1 / 8, rel=1e-5)
    pictures = Pictures(run, run.cameras("train").rescale(8), ["depth"])
    low, high = pictures.limits["depth"]
    # A ball of radius r seen from distance 1, in scene units: from 1 - r up to 1 - r^2 at the silhouette.
    assert 2 * 0.75 <= low < 1.52
    assert 1.8 < high <= 2 * 0.9375


def test_paths_follow_their_options(ball_run: Path) -> None:
    run = open_run(ball_run)
    path = make_path(run, PathOptions(frames=8, radius=1.5, elevation_degrees=30), print)
    assert len(path.cameras) == 8
    distance = path.cameras.origins.norm(dim=-1)
    torch.testing.assert_close(distance, torch.full((8,), 1.5), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(path.cameras.origins[:, 2] / distance, torch.full((8,), 0.5), rtol=1e-4, atol=1e-4)
    assert len(make_path(run, PathOptions(seconds=2, fps=5), print).cameras) == 10
    for options, size in (
        (PathOptions(scale=2), (48, 32)),
        (PathOptions(width=48), (48, 32)),
        (PathOptions(height=8), (12, 8)),
        (PathOptions(width=30, height=30), (30, 30)),
    ):
        assert make_path(run, options, print).cameras.size == size
    test = make_path(run, PathOptions(path="test"), print)
    expected = run.cameras("test")
    torch.testing.assert_close(test.cameras.camera_to_world, expected.camera_to_world)
    assert not test.is_motion
    tour = make_path(run, PathOptions(path="interpolate", frames=64), print).cameras
    step = (tour.origins.roll(-1, 0) - tour.origins).norm(dim=-1)
    # Eight cameras on a ring, in order, closed: no jump across it.
    assert float(step.max()) < 0.3
    torch.testing.assert_close(tour.origins.norm(dim=-1), torch.ones(64), rtol=0.1, atol=0)


def test_a_camera_path_file_is_in_the_frame_of_the_input(studio: Any, ball_run: Path) -> None:
    run = open_run(ball_run)
    eyes = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 4.0]])
    up = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    poses = look_at(eyes, torch.zeros(3), up)
    cameras = Cameras.from_fov(poses, width=40, height=30, fov_y=math.radians(60))
    write_camera_path("way.json", CameraPath(cameras, fps=7.0))
    path = make_path(run, PathOptions(path="way.json"), print)
    # The scene is the input turned and halved about the ring's centre, which is the origin.
    torch.testing.assert_close(path.cameras.origins.norm(dim=-1), eyes.norm(dim=-1) / 2, rtol=1e-4, atol=1e-4)
    pixel, depth = path.cameras.project(torch.zeros(3, 1, 3))
    torch.testing.assert_close(pixel[:, 0], torch.tensor([[20.0, 15.0]]).expand(3, 2), rtol=0, atol=1e-3)
    torch.testing.assert_close(depth.flatten(), torch.tensor([1.5, 1.5, 2.0]), rtol=1e-4, atol=1e-4)
    assert path.fps == 7.0
    assert studio("render", ball_run, "--path", "way.json", "--output", "way").code == 0
    assert len(list(Path("way").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--path", "obrit"), "There is no camera path 'obrit'."),
        (("--path", "no.json"), "no.json: there is no such file."),
        (("--path", "val"), "no photos in the split 'val'"),
        (("--outputs", "rgb", "dept"), "'ball' does not render 'dept'. It renders rgb, depth, opacity, normals."),
        (("--output", "x.avi"), "x.avi: a video is written as .mp4, .gif, or into a folder"),
        (("--path", "spiral", "--elevation", "10"), "--elevation is for orbits"),
        (("--outputs", "depth", "--colormap", "turob"), "There is no colour map 'turob'."),
    ],
)
def test_bad_requests_to_render(studio: Any, ball_run: Path, arguments: tuple[str, ...], message: str) -> None:
    done = studio("render", ball_run, *arguments)
    assert done.code == 2
    assert message in done.err


def test_a_generator_does_not_render(studio: Any, gauss_run: Path) -> None:
    for command in ("render", "export"):
        done = studio(command, gauss_run)
        assert done.code == 2
        assert "toy-gauss" in done.err


# ---- eval --------------------------------------------------------------------------------------------------------
def test_eval_prints_writes_and_draws(studio: Any, ball_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STUDIO_LPIPS_WEIGHTS", raising=False)
    done = studio("eval", ball_run, "--json", "--lpips", "no")
    assert done.code == 0
    report = done.json
    assert set(report) == {"run", "plugin", "preset", "step", "mean", "protocol", "photos"}
    assert set(report["mean"]) == {"psnr", "ssim", "lpips", "seconds"}
    assert [photo["name"] for photo in report["photos"]] == ["photo_00.png", "photo_08.png"]
    assert set(report["protocol"]) >= {"split", "photos", "background", "resize", "masks", "lpips"}
    assert report["protocol"]["split"] == "test"
    assert (report["plugin"], report["step"], report["run"]) == ("ball", 3, str(ball_run))
    assert report["mean"]["psnr"] == pytest.approx(sum(photo["psnr"] for photo in report["photos"]) / 2)
    assert json.loads((ball_run / "eval.json").read_text()) == report
    assert sorted(path.name for path in (ball_run / "eval").iterdir()) == ["photo_00.png", "photo_08.png"]
    text = studio("eval", ball_run, "--split", "train", "--no-pictures", "--lpips", "no").out
    assert "photo_01.png" in text
    assert "8 photos of split 'train'" in " ".join(text.split())


def test_eval_figures_are_those_of_the_pictures(studio: Any, ball_run: Path, scene_folder: Path) -> None:
    report = studio("eval", ball_run, "--json", "--no-pictures", "--lpips", "no").json
    run = open_run(ball_run)
    (drawn,) = run.render(run.cameras("test")[:1])
    photo = np.asarray(Image.open(scene_folder / "photo_00.png")).astype(np.float64) / 255
    rendered = np.floor(drawn["rgb"].numpy().astype(np.float64) * 255 + 0.5) / 255
    expected = -10 * math.log10(((photo - rendered) ** 2).mean())
    assert report["photos"][0]["psnr"] == pytest.approx(expected, abs=1e-3)


def test_eval_names_the_folder_of_missing_photos(studio: Any, scene_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(scene_folder, tmp_path / "gone")
    assert studio("train", "ball", folder, "--no-previews").code == 0
    for photo in folder.glob("*.png"):
        photo.unlink()
    done = studio("eval", "runs")
    assert done.code == 2
    assert f"{folder}: 2 of the 2 photos of split 'test' are no longer there (first: {folder}/photo_00.png)" in done.err
    assert studio("render", "runs", "--frames", 2).code == 0


def test_eval_refuses_what_is_not_there(studio: Any, ball_run: Path) -> None:
    assert "there is no split 'all'" in studio("eval", ball_run, "--split", "all").err
    assert "no photos in the split 'val'" in studio("eval", ball_run, "--split", "val", "--lpips", "no").err
    assert "none.pth: no such file" in studio("eval", ball_run, "--lpips-weights", "none.pth").err


# ---- export ------------------------------------------------------------------------------------------------------
def test_export_lies_in_the_frame_of_the_input(studio: Any, ball_run: Path) -> None:
    done = studio("export", ball_run)
    assert done.code == 0
    target = Path(done.out.strip())
    assert target.resolve() == ball_run / "exports" / "ring.txt"
    # Radius 0.25 in a scene of half the input's size; the ring's centre is the origin of both.
    np.testing.assert_allclose(
        [float(x) for x in target.read_text(encoding="utf-8").split()], [0, 0, 0, 0.5], atol=1e-5
    )
    assert studio("export", ball_run, "--format", "pointcloud").out.strip().endswith("ring_pointcloud.ply")
    assert studio("export", ball_run, "--output", "deep/ball.txt").out == "deep/ball.txt\n"
    assert "centre and radius" in studio("export", ball_run, "--format", "list").out


def test_export_refuses_unknown_formats(studio: Any, ball_run: Path) -> None:
    done = studio("export", ball_run, "--format", "obj")
    assert done.code == 2
    assert "does not export 'obj'. It exports txt, pointcloud, mesh." in done.err


# ---- information -------------------------------------------------------------------------------------------------
def test_plugins_json_is_stable(studio: Any) -> None:
    listed = {entry["name"]: entry for entry in studio("plugins", "--json").json}
    assert {"ball", "clash", "toy-gauss", "toy-rays", "splat"} <= set(listed)
    for entry in listed.values():
        assert set(entry) == {
            "name", "kind", "version", "distribution", "summary", "capabilities", "devices", "presets", "status",
            "reason",
        }  # fmt: skip
    assert listed["ball"]["capabilities"] == ["render", "export"]
    assert listed["ball"]["presets"] == {"big": "radius 0.8"}
    assert "[at the" in studio("info", "ball").out


def test_a_broken_plugin_is_listed_and_harms_nothing(studio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDIO_PLUGINS", "ball=cli_plugins:BALL,broken=cli_plugins:NOTHING")
    listed = {entry["name"]: entry for entry in studio("plugins", "--json").json}
    assert (listed["ball"]["status"], listed["broken"]["status"]) == ("ok", "broken")
    assert "NOTHING" in listed["broken"]["reason"]
    assert "cannot be used" in studio("train", "broken", "x").err
    assert "cannot be used" in studio("train", "--help").out


def test_info_counts_every_network(studio: Any, ball_run: Path) -> None:
    told = studio("info", "ball", "--preset", "big", "--json").json
    assert told["networks"] == [{"name": "inner", "type": "Linear", "parameters": 20, "bytes": 80}]
    assert told["parameters"] == 21
    assert (told["config"]["radius"], told["preset"], told["kind"]) == (0.8, "big", "field")
    assert told["outputs"] == ["rgb", "depth", "opacity", "normals"]
    assert studio("info", ball_run, "--json").json["parameters"] == 21
    gauss = studio("info", "toy-gauss", "--json", "--sample-shape", "3").json
    assert gauss["parameters"] == 3 + 9
    assert "inner" in studio("info", "ball").out


def test_data_info(studio: Any, scene_folder: Path) -> None:
    told = studio("data", "info", scene_folder, "--json", "--eval-every", "5").json
    assert told["photos"] == {"train": 8, "val": 0, "test": 2}
    assert (told["format"], told["sizes"]) == ("transforms", {"24x16": 10})
    assert "24x16" in studio("data", "info", scene_folder).out
    moons = studio("data", "info", "toy:moons", "--json").json
    assert (moons["name"], moons["sample_shape"]) == ("moons", [2])
    assert "there is no such folder" in studio("data", "info", "nowhere").err


def test_doctor_json(studio: Any) -> None:
    done = studio("doctor", "--json")
    assert done.code == 0
    assert {finding["group"] for finding in done.json} == {"system", "device", "storage", "backend"}
