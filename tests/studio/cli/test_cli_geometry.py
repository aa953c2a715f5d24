"""studio export of meshes and points, studio inspect: what any field can do through the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

CROP = ("--crop", -0.8, -0.8, -0.8, 0.8, 0.8, 0.8)
"""In the frame of the input; the ball there has radius 0.5."""


def test_every_field_is_offered_meshes_and_points(studio: Any, ball_run: Path) -> None:
    listed = studio("export", ball_run, "--format", "list").out
    assert [line.split()[0] for line in listed.splitlines()] == ["txt", "pointcloud", "mesh"]
    # The plugin's own format of the same name wins.
    assert "one point" in listed
    assert "coloured points on the surfaces" not in listed


def test_a_mesh_of_rendered_depth(studio: Any, ball_run: Path) -> None:
    done = studio(
        "export", ball_run, "--format", "mesh", "--resolution", 48, *CROP, "--views", 8, "--output", "ball.ply"
    )
    assert (done.code, done.out) == (0, "ball.ply\n")
    mesh = trimesh.load("ball.ply")
    assert mesh.is_watertight
    # Cameras of 24x16 pixels on a ring see the ball's equator best.
    equator = np.abs(mesh.vertices[:, 2]) < 0.1
    assert np.median(np.linalg.norm(mesh.vertices[equator], axis=1)) == pytest.approx(0.5, abs=0.04)
    assert studio("export", ball_run, *CROP, "--resolution", 32, "--output", "ball.stl").code == 0
    assert trimesh.load("ball.stl").is_watertight


def test_a_field_without_formats_of_its_own_exports_a_mesh(studio: Any, scene_folder: Path) -> None:
    assert studio("train", "toy-rays", scene_folder, "--steps", 2, "--no-previews").code == 0
    done = studio("export", "runs", *CROP)
    assert done.code == 2
    assert "mesh" in studio("export", "runs", "--format", "list").out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "mesh"), "the scene has no bounds, so that there is no box to take a mesh from. Give one"),
        (("--format", "mesh", "--crop", 0, 0, 0), "--crop: takes 6 numbers, got 3."),
        (("--format", "mesh", *CROP, "--output", "x.fbx"), "meshes are written as .ply, .obj, .glb, .stl"),
        (
            ("--format", "mesh", "--resolution", 16, "--crop", 5, 5, 5, 6, 6, 6),
            "No render sees into the box of the export.",
        ),
        (("--format", "gltf"), "'ball' does not export 'gltf'. It exports txt, pointcloud, mesh."),
    ],
)
def test_bad_requests_for_geometry(studio: Any, ball_run: Path, arguments: tuple[Any, ...], message: str) -> None:
    done = studio("export", ball_run, *arguments)
    assert done.code == 2
    assert message in done.err


# ---- inspect -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def nerf_run(scene_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from studio.training.start import TrainOptions, train

    options = TrainOptions(output=tmp_path_factory.mktemp("nerf_runs"), tensorboard=False, device="cpu")
    return train(
        "nerf", scene_folder, options=options, steps=2, batch_samples=256, samples_across=32, grid_resolution=8
    ).path


def test_inspect_draws_the_ray_beside_the_picture(studio: Any, nerf_run: Path) -> None:
    done = studio("inspect", nerf_run, "--ray", 12, 8)
    assert done.code == 0, done.err
    assert "samples, opacity" in done.err
    target = Path(done.out.strip())
    assert target.resolve() == nerf_run / "renders" / "ray_photo_00_12_8.png"
    width, height = Image.open(target).size
    assert width > height > 400
    for photo, name in (("1", "photo_08"), ("photo_03.png", "photo_03"), ("photo_05", "photo_05")):
        done = studio("inspect", nerf_run, "--photo", photo, "--output", f"{name}.png")
        assert (done.code, done.out) == (0, f"{name}.png\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ray", 30, 2), "--ray: (30, 2) is outside of the picture, which is 24x16. Give 0 to 24 and 0 to 16."),
        (("--ray", 1), "--ray: takes 2 numbers, got 1."),
        (("--photo", "7"), "there is no photo 7 in the split 'test'. Give a number from 0 to 1"),
        (("--photo", "nothing.png"), "there is no photo 'nothing.png'"),
        (("--output", "ray.txt"), "a ray is drawn as .png, .pdf, .svg"),
    ],
)
def test_bad_requests_to_inspect(studio: Any, nerf_run: Path, arguments: tuple[Any, ...], message: str) -> None:
    done = studio("inspect", nerf_run, *arguments)
    assert done.code == 2
    assert message in done.err


def test_inspect_says_who_cannot(studio: Any, ball_run: Path, gauss_run: Path) -> None:
    done = studio("inspect", ball_run)
    assert done.code == 2
    assert "the plugin 'ball' cannot tell what lies along a ray (capability 'inspect')" in done.err
    assert studio("inspect", gauss_run).code == 2


def test_a_mesh_of_an_untrained_run(studio: Any, nerf_run: Path) -> None:
    done = studio("export", nerf_run, "--format", "mesh", "--resolution", 16, *CROP)
    assert done.code == 2
    assert "No density is above the threshold" in done.err
    assert "Train the run further" in done.err
    assert not (nerf_run / "exports").exists()
