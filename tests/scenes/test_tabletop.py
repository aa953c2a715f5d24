"""The bundled scene `scenes/tabletop` is complete, small, and exact: photos, poses and points belong together."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import trimesh
from PIL import Image

Array = npt.NDArray[np.float64]

SCENES = Path(__file__).resolve().parents[2] / "scenes"
ROOT = SCENES / "tabletop"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads((ROOT / "transforms.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def photos(document: dict[str, Any]) -> dict[str, Array]:
    """Every listed photo by name, (H, W, 3) in [0, 1]."""
    names = [frame["file_path"] for frame in document["frames"]]
    return {name: np.asarray(Image.open(ROOT / name), np.float64) / 255 for name in names}


@pytest.fixture(scope="module")
def points(document: dict[str, Any]) -> tuple[Array, Array]:
    """Positions (N, 3), colours (N, 3) in [0, 1]."""
    cloud: Any = trimesh.load(ROOT / document["ply_file_path"], file_type="ply", process=False)
    return np.asarray(cloud.vertices), np.asarray(cloud.colors)[:, :3] / 255


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """`scenes/make_tabletop.py`, which imports Mitsuba only where it renders."""
    spec = importlib.util.spec_from_file_location("make_tabletop", SCENES / "make_tabletop.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def project(document: dict[str, Any], camera_to_world: Array, xyz: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Pixel positions (N, 2), the first pixel's centre at (0.5, 0.5), and whether each lies inside by a margin.

    The file's cameras look along -z with y up (OpenGL); the image's y axis points down.
    """
    local = (xyz - camera_to_world[:3, 3]) @ camera_to_world[:3, :3]
    depth = -local[:, 2]
    front = depth > 1e-6
    x = document["cx"] + document["fl_x"] * local[:, 0] / np.where(front, depth, 1)
    y = document["cy"] - document["fl_y"] * local[:, 1] / np.where(front, depth, 1)
    inside = front & (x > 4) & (x < document["w"] - 4) & (y > 4) & (y < document["h"] - 4)
    return np.stack([x, y], -1), inside


def sample(photo: Array, pixels: Array) -> Array:
    """Bilinear colours (N, 3) at pixel positions (N, 2)."""
    corner = np.floor(pixels - 0.5).astype(int)
    u, v = (pixels - 0.5 - corner).T[..., None]
    x, y = corner.T
    upper = photo[y, x] * (1 - u) + photo[y, x + 1] * u
    lower = photo[y + 1, x] * (1 - u) + photo[y + 1, x + 1] * u
    return upper * (1 - v) + lower * v


def agreement(
    document: dict[str, Any],
    photos: dict[str, Array],
    points: tuple[Array, Array],
    names: list[str],
    shift: tuple[float, float] = (0.0, 0.0),
    change: Array | None = None,
) -> float:
    """How well the photos show the points' colours at their projections, in [0, 1], over all points and photos.

    Each pair of point and photo adds 1 for the same colour, falling to 0 at a difference of 0.15 and for a point
    outside the photo. Far from 1 even for perfect poses: points are hidden in some photos and shine in others. `shift`
    moves the projections by pixels; `change` (4, 4) multiplies the cameras from the right.
    """
    xyz, rgb = points
    chosen, total = set(names), 0.0
    for frame in document["frames"]:
        if frame["file_path"] in chosen:
            camera = np.array(frame["transform_matrix"]) @ (np.eye(4) if change is None else change)
            pixels, inside = project(document, camera, xyz)
            seen = sample(photos[frame["file_path"]], pixels[inside] + np.array(shift))
            total += np.maximum(1 - np.abs(seen - rgb[inside]).mean(-1) / 0.15, 0).sum()
    return float(total / (len(chosen) * len(xyz)))


def test_all_files_are_there_and_nothing_else(document: dict[str, Any]) -> None:
    listed = {frame["file_path"] for frame in document["frames"]}
    assert len(listed) == len(document["frames"])
    present = {path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()}
    assert present == listed | {"transforms.json", "points.ply", "README.md"}


def test_it_is_under_eight_megabytes() -> None:
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) < 8_000_000


def test_the_splits_partition_the_photos(document: dict[str, Any]) -> None:
    listed = [frame["file_path"] for frame in document["frames"]]
    train, test = document["train_filenames"], document["test_filenames"]
    assert (len(train), len(test)) == (60, 12)
    assert sorted(train + test) == sorted(listed)
    assert document["val_filenames"] == test


def test_photos_have_the_stated_size_and_are_well_exposed(document: dict[str, Any], photos: dict[str, Array]) -> None:
    assert min(document["w"], document["h"]) >= 256
    for name, photo in photos.items():
        assert photo.shape == (document["h"], document["w"], 3), name
        assert 0.25 < photo.mean() < 0.65, name
        assert photo.std() > 0.1, name
        assert (photo > 0.995).all(-1).mean() < 0.03, f"{name} is burnt out"


def test_poses_are_rigid_level_and_around_the_table(document: dict[str, Any]) -> None:
    poses = np.array([frame["transform_matrix"] for frame in document["frames"]])
    rotation, centre = poses[:, :3, :3], poses[:, :3, 3]
    np.testing.assert_allclose(
        rotation @ rotation.transpose(0, 2, 1), np.broadcast_to(np.eye(3), rotation.shape), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(rotation), 1, atol=1e-9)
    np.testing.assert_array_equal(poses[:, 3], np.broadcast_to([0, 0, 0, 1], (len(poses), 4)))
    np.testing.assert_allclose(rotation[:, 2, 0], 0, atol=1e-9)  # x is level
    assert (rotation[:, 2, 1] > 0).all()  # y points up
    assert (centre[:, 2] > 0.1).all()  # above the table, whose top is z = 0
    looking = -rotation[:, :, 2]
    nearest = centre - (centre * looking).sum(-1, keepdims=True) * looking
    assert (np.linalg.norm(nearest, axis=-1) < 0.15).all()  # every optical axis passes close to the still life


def test_held_out_views_lie_within_the_training_views(document: dict[str, Any]) -> None:
    held_out = set(document["test_filenames"])
    centres: dict[bool, list[list[float]]] = {True: [], False: []}
    for frame in document["frames"]:
        centres[frame["file_path"] in held_out].append([row[3] for row in frame["transform_matrix"][:3]])
    train, test = np.array(centres[False]), np.array(centres[True])
    assert train[:, 2].min() < test[:, 2].min()
    assert test[:, 2].max() < train[:, 2].max()
    gap = np.linalg.norm(test[:, None] - train[None], axis=-1).min(1)
    assert gap.max() < 0.25  # a training photo is near ...
    assert gap.min() > 0.02  # ... but none is the same


def test_points_lie_where_several_photos_see_them(document: dict[str, Any], points: tuple[Array, Array]) -> None:
    xyz, rgb = points
    assert xyz.shape == rgb.shape
    assert 5000 <= len(xyz) <= 8000
    assert np.isfinite(xyz).all()
    seen = np.zeros(len(xyz), int)
    for frame in document["frames"]:
        seen += project(document, np.array(frame["transform_matrix"]), xyz)[1]
    assert np.mean(seen >= 3) > 0.98
    on_table = np.abs(xyz).max(-1) < 0.5
    assert on_table.mean() > 0.6


@pytest.mark.parametrize("split", ["train_filenames", "test_filenames"])
def test_photos_show_the_points_colours_where_the_poses_put_them(
    split: str, document: dict[str, Any], photos: dict[str, Array], points: tuple[Array, Array]
) -> None:
    names = document[split]
    right = agreement(document, photos, points, names)
    wrong = {
        "OpenCV axes": np.diag([1.0, -1.0, -1.0, 1.0]),
        "mirrored": np.diag([-1.0, 1.0, 1.0, 1.0]),
        "upside down": np.diag([-1.0, -1.0, 1.0, 1.0]),
        "looking backwards": np.diag([1.0, 1.0, -1.0, 1.0]),
    }
    for label, change in wrong.items():
        assert agreement(document, photos, points, names, change=change) < 0.5 * right, label
    assert right > 0.25


def test_poses_and_pixel_centres_are_exact(
    document: dict[str, Any], photos: dict[str, Array], points: tuple[Array, Array]
) -> None:
    """The agreement is best without any shift: a parabola through three shifts has its vertex within 0.15 pixels of 0.

    A pixel centre at an integer position, or a principal point beside the middle, would move it by half a pixel.
    """
    names = [frame["file_path"] for frame in document["frames"]]
    for axis in ((1.0, 0.0), (0.0, 1.0)):
        low, middle, high = (
            agreement(document, photos, points, names, shift=(axis[0] * step, axis[1] * step))
            for step in (-1.5, 0.0, 1.5)
        )
        assert middle > max(low, high)
        vertex = 1.5 * 0.5 * (low - high) / (low - 2 * middle + high)
        assert abs(vertex) < 0.15


def test_the_script_states_these_cameras(document: dict[str, Any], script: ModuleType) -> None:
    again = script.describe(script.shots(np.random.default_rng([script.SEED, 99])), document["w"])
    assert {k: v for k, v in again.items() if k != "frames"} == {k: v for k, v in document.items() if k != "frames"}
    for mine, theirs in zip(again["frames"], document["frames"], strict=True):
        assert mine["file_path"] == theirs["file_path"]
        np.testing.assert_allclose(mine["transform_matrix"], theirs["transform_matrix"], atol=1e-9)


def test_developing_is_the_srgb_curve_with_a_soft_shoulder(script: ModuleType) -> None:
    linear = np.array([0.0, 0.002, 0.18, 0.5])[:, None] / (script.EXPOSURE * np.array(script.WHITE_BALANCE))
    # IEC 61966-2-1 by hand: 12.92 x below 0.0031308, else 1.055 x^(1/2.4) - 0.055, times 255.
    assert script.develop(linear).tolist() == [[value] * 3 for value in (0, 7, 118, 188)]
    ramp = script.develop(np.linspace(0, 4, 4000)[:, None] * np.ones(3))
    assert (np.diff(ramp.astype(int), axis=0) >= 0).all()
    assert script.develop(np.full(3, 1.0 / script.EXPOSURE)).max() < 250
