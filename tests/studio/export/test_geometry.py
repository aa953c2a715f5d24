"""Meshes and points of fields in closed form: where they lie, closedness, colours, frames, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from solid_fields import CENTRE, RADIUS, DenseBall, ShownBall, color_at, ring, scene_of
from torch import Tensor

from studio.cameras import Cameras, Similarity
from studio.errors import MissingDependencyError, StudioError
from studio.export.geometry import GeometryOptions, export_geometry
from studio.export.mesh import Mesh, write_mesh
from studio.export.views import render_views, surface_points
from studio.export.volume import VoxelGrid, density_volume, marching_cubes
from studio.plugin.abilities import HasDensity

BOUNDS = torch.tensor([[-0.8, -0.8, -0.8], [0.8, 0.8, 0.8]])
TURNED = Similarity(
    3.0,
    torch.tensor([[0.0, -1.0, 0.0], [0.6, 0.0, -0.8], [0.8, 0.0, 0.6]], dtype=torch.float64),
    torch.tensor([10.0, -4.0, 2.0], dtype=torch.float64),
)
"""Input frame <- scene frame."""


def export(field: Any, path: Path, format: str = "mesh", *, bounds: Tensor | None = BOUNDS, **chosen: Any) -> list[str]:
    cameras = ring()
    scene = scene_of(cameras, TURNED.matrix, bounds=bounds)
    told: list[str] = []
    options = GeometryOptions(**{"resolution": 64, "views": 14, **chosen})
    export_geometry(field, format, path, scene=scene, cameras=cameras, options=options, tell=told.append)
    return told


def distances(points: np.ndarray) -> np.ndarray:
    """From the ball's centre, in scene units, of points in the frame of the input."""
    centre = TURNED.points(CENTRE.double()).numpy()
    return np.linalg.norm(points - centre, axis=1) / TURNED.scale


@pytest.mark.parametrize("field", [DenseBall(), ShownBall()], ids=["density", "depth"])
def test_marching_cubes_is_closed_in_the_input_frame_and_coloured(field: Any, tmp_path: Path) -> None:
    assert isinstance(field, HasDensity) == isinstance(field, DenseBall)
    export(field, tmp_path / "ball.ply")
    mesh = trimesh.load(tmp_path / "ball.ply")
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    voxel = 1.6 / 64
    np.testing.assert_allclose(distances(mesh.vertices), RADIUS, atol=1.2 * voxel)
    # Outward triangles: a positive volume, that of the ball.
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * RADIUS**3 * TURNED.scale**3, rel=0.06)
    expected = color_at(TURNED.inverse().points(torch.from_numpy(np.array(mesh.vertices)))).numpy()
    error = np.abs(mesh.visual.vertex_colors[:, :3] / 255 - expected)
    assert error.mean() < 0.02
    assert error.max() < 0.15


def test_fused_depth_lies_on_the_surface(tmp_path: Path) -> None:
    pytest.importorskip("open3d")
    field = DenseBall()
    export(field, tmp_path / "ball.obj", method="tsdf")
    mesh = trimesh.load(tmp_path / "ball.obj")
    np.testing.assert_allclose(np.median(distances(mesh.vertices)), RADIUS, atol=0.004)
    assert np.quantile(np.abs(distances(mesh.vertices) - RADIUS), 0.95) < 0.03
    outward = mesh.triangles_center - TURNED.points(CENTRE.double()).numpy()
    assert ((mesh.face_normals * outward).sum(axis=1) > 0).mean() > 0.98


@pytest.mark.parametrize("crop", [None, (8.0, -9.0, 0.0, 12.0, 0.0, 2.5)])
def test_points_lie_on_the_surface_and_in_the_crop(crop: Any, tmp_path: Path) -> None:
    export(ShownBall(), tmp_path / "ball.ply", "pointcloud", crop=crop, points=3000, bounds=None)
    cloud = trimesh.load(tmp_path / "ball.ply")
    xyz = np.asarray(cloud.vertices)
    assert 200 < len(xyz) <= 3000
    np.testing.assert_allclose(distances(xyz), RADIUS, atol=1e-4)
    expected = color_at(TURNED.inverse().points(torch.from_numpy(xyz))).numpy()
    np.testing.assert_allclose(np.asarray(cloud.colors)[:, :3] / 255, expected, atol=0.01)
    if crop is not None:
        assert (xyz >= np.array(crop[:3])).all()
        assert (xyz <= np.array(crop[3:])).all()


def test_a_crop_cuts_in_the_input_frame_and_closes_the_cut(tmp_path: Path) -> None:
    x, y, z = TURNED.points(CENTRE.double()).tolist()
    # The upper half of the ball in the frame of the input; the scene needs no bounds then.
    crop = (x - 2, y - 2, z, x + 2, y + 2, z + 2)
    export(DenseBall(), tmp_path / "half.glb", crop=crop, bounds=None)
    mesh = trimesh.load(tmp_path / "half.glb", force="mesh")
    assert mesh.is_watertight
    assert mesh.bounds[0, 2] == pytest.approx(z, abs=0.07)
    assert mesh.volume == pytest.approx(0.5 * 4 / 3 * math.pi * (RADIUS * TURNED.scale) ** 3, rel=0.08)


def test_threshold_is_per_unit_of_the_input(tmp_path: Path) -> None:
    # A hundredth (scene units) below the surface the density is 50 per scene unit: 50 / 3 per unit of the input.
    export(DenseBall(), tmp_path / "deep.ply", threshold=500 / TURNED.scale)
    np.testing.assert_allclose(distances(trimesh.load(tmp_path / "deep.ply").vertices), RADIUS - 0.1, atol=0.012)


def test_cameras_within_the_bounds_export_what_they_look_at(tmp_path: Path) -> None:
    room = torch.tensor([[-5.0, -5.0, -5.0], [5.0, 5.0, 5.0]])
    told = export(DenseBall(), tmp_path / "ball.ply", bounds=room)
    assert any("the cameras stand within the scene" in line for line in told)
    mesh = trimesh.load(tmp_path / "ball.ply")
    np.testing.assert_allclose(distances(mesh.vertices), RADIUS, atol=0.06)


def test_fragments_are_dropped() -> None:
    big, small = trimesh.creation.icosphere(subdivisions=3), trimesh.creation.icosphere(subdivisions=0)
    small.apply_translation([5, 0, 0])
    both = trimesh.util.concatenate([big, small])
    mesh = Mesh(
        torch.from_numpy(both.vertices.copy()).float(),
        torch.from_numpy(both.faces.copy()).long(),
        torch.rand(len(both.vertices), 3),
    )
    assert mesh.components().bincount().tolist() == [len(big.faces), len(small.faces)]
    kept = mesh.without_fragments(0.1)
    assert len(kept.faces) == len(big.faces)
    assert float(kept.vertices[:, 0].max()) <= 1.0001
    assert mesh.without_fragments(0.001).faces.shape == mesh.faces.shape
    halved = mesh.cropped(torch.tensor([[-2.0, -2, -2], [2.0, 2, 0]]))
    assert 0 < len(halved.faces) < len(big.faces)
    assert float(halved.vertices[:, 2].max()) <= 0


def test_surfaces_that_touch_the_box_are_closed_by_it() -> None:
    grid = VoxelGrid.of_box(torch.tensor([[0.0, 0, 0], [2.0, 1.0, 1.0]]), 10)
    assert (grid.shape, grid.side) == ((10, 5, 5), pytest.approx(0.2))
    mesh = marching_cubes(density_volume(lambda points: torch.full((len(points),), 9.0), grid, 1.0), grid)
    solid = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy())
    assert solid.is_watertight
    # The box but for its bevelled edges.
    assert solid.volume == pytest.approx(2.0, rel=0.05)
    np.testing.assert_allclose(solid.bounds, [[0, 0, 0], [2, 1, 1]], atol=0.11)


def test_points_that_only_one_view_claims_are_dropped() -> None:
    cameras = ring(8)
    views = render_views(ShownBall(), cameras, count=8)
    # A floater before one camera.
    views[0].depth[:10, :10] = 0.7
    views[0].solid[:10, :10] = True
    xyz, _ = surface_points(views)
    np.testing.assert_allclose((xyz - CENTRE).norm(dim=-1).numpy(), RADIUS, atol=1e-4)


# ---- bad input ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("field", "chosen", "message"),
    [
        (DenseBall(0.0), {}, "No density is above the threshold .* Train the run further"),
        (ShownBall(0.0), {}, "Nothing in 14 renders is opaque"),
        (ShownBall(0.0), {"method": "tsdf"}, "Nothing in 14 renders is opaque"),
        (DenseBall(), {"bounds": None}, "the scene has no bounds, .* --crop X0 Y0 Z0 X1 Y1 Z1"),
        (DenseBall(), {"crop": (0.0, 0.0, 0.0, 1.0, 0.0, 1.0)}, "--crop: the box .* has no volume"),
        (DenseBall(), {"crop": (90.0, 90.0, 90.0, 91.0, 91.0, 91.0)}, "No density is above"),
        (DenseBall(), {"threshold": 0.0}, "--threshold: 0 is no density above 0"),
        (DenseBall(), {"resolution": 4}, "--resolution: 4 is not between"),
    ],
)
def test_what_has_no_mesh_is_said(field: Any, chosen: dict[str, Any], message: str, tmp_path: Path) -> None:
    if chosen.get("method") == "tsdf":
        pytest.importorskip("open3d")
    with pytest.raises(StudioError, match=message):
        export(field, tmp_path / "none.ply", **chosen)
    assert not list(tmp_path.iterdir())


def test_an_untrained_density_is_told_before_any_render(tmp_path: Path) -> None:
    field = DenseBall(0.0)
    with pytest.raises(StudioError):
        export(field, tmp_path / "none.ply")
    assert field.renders == 0


@pytest.mark.parametrize(("method", "package"), [("marching-cubes", "scikit-image"), ("tsdf", "open3d")])
def test_a_missing_extra_is_one_line(
    method: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    field = ShownBall()
    with pytest.raises(MissingDependencyError, match=rf"'{package}'.*pip install 'neural-studio\[mesh\]'"):
        export(field, tmp_path / "x.ply", method=method)
    assert field.renders == 0


def test_other_endings_and_cameras_are_refused(tmp_path: Path) -> None:
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]))
    with pytest.raises(StudioError, match=r"meshes are written as \.ply, \.obj, \.glb, \.stl"):
        write_mesh(tmp_path / "x.fbx", mesh)
    around = Cameras.make(torch.eye(4), width=8, height=4, fx=8 / (2 * math.pi), model="equirectangular")
    with pytest.raises(StudioError, match="geometry is taken from perspective views"):
        render_views(ShownBall(), around[None])
