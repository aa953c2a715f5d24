"""Splat files against PlayCanvas's splat-transform, both ways, and glTF against the validator of Khronos.

Both are programs of npm; NPM_PEERS names the folder that they are installed in.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gaussian_clouds import ball_cloud, same_turn

from studio.cameras.poses import quaternion_to_matrix
from studio.export.gaussians import GaussianCloud
from studio.export.mesh import Mesh, write_mesh
from studio.export.splat_formats import read_gaussians, write_gaussians

NODE = Path(os.environ.get("NPM_PEERS", "."))
DEGREES = [0, 1, 2, 3]

Bounds = dict[str, float]
EXACT: Bounds = {"means": 1e-6, "log_scales": 1e-6, "turn": 1e-5, "opacity": 1e-6, "base": 1e-6, "rest": 1e-6}
ENDINGS = {"ply": ".ply", "compressed-ply": ".compressed.ply", "splat": ".splat", "spz": ".spz"}
PACKED: dict[str, Bounds] = {
    "ply": EXACT,
    # 11, 10, 11 bits within the box of 256 Gaussians, 2 + 3 x 10 bits of rotation, 8 bits of colour.
    "compressed-ply": {"means": 4e-3, "log_scales": 6e-3, "turn": 3e-3, "opacity": 3e-3, "base": 5e-2, "rest": 5e-2},
    # Floats, but rotations, colours and opacities of 8 bits, and no colours that depend on the direction. They read
    # a rotation's byte b as b / 127.5 - 1, the format's first program and we as (b - 128) / 128.
    "splat": {"means": 1e-6, "log_scales": 1e-5, "turn": 2.6e-2, "opacity": 3e-3, "base": 9e-3},
    # 24-bit fixed point, scales in steps of 1/16, coefficients of 8 bits.
    "spz": {"means": 1e-3, "log_scales": 3.3e-2, "turn": 5e-3, "opacity": 3e-3, "base": 3e-2, "rest": 9e-2},
}


def transform(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["node", str(NODE / "node_modules/@playcanvas/splat-transform/bin/cli.mjs"), "-q", "-w", *map(str, arguments)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def matched(cloud: GaussianCloud, like: GaussianCloud) -> GaussianCloud:
    """Formats may sort; each Gaussian of `like` finds its nearest, and none is taken twice."""
    index = torch.cdist(like.means.double(), cloud.means.double()).argmin(dim=1)
    assert len(index.unique()) == len(like) == len(cloud)
    return cloud.select(index)


def assert_alike(got: GaussianCloud, expected: GaussianCloud, bounds: Bounds) -> None:
    got = matched(got, expected)

    def worst(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0

    assert worst(got.means, expected.means) <= bounds["means"]
    assert worst(got.log_scales, expected.log_scales) <= bounds["log_scales"]
    assert float(same_turn(got.quats, expected.quats).abs().max()) <= bounds["turn"]
    assert worst(got.logit_opacities.sigmoid(), expected.logit_opacities.sigmoid()) <= bounds["opacity"]
    assert worst(got.sh[:, 0], expected.sh[:, 0]) <= bounds["base"]
    if "rest" in bounds:
        assert got.sh.shape == expected.sh.shape
        assert worst(got.sh[:, 1:], expected.sh[:, 1:]) <= bounds["rest"]


def small(degree: int, seed: int = 0) -> GaussianCloud:
    return ball_cloud(300, degree, seed)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("format", ENDINGS)
def test_they_read_what_we_write(format: str, degree: int, tmp_path: Path) -> None:
    """Our file, through their reader, as a plain PLY."""
    cloud = small(degree)
    ours, plain = tmp_path / f"ours{ENDINGS[format]}", tmp_path / "plain.ply"
    write_gaussians(ours, cloud, format)
    transform(ours, plain)
    assert_alike(read_gaussians(plain), cloud, PACKED[format])
    # What both readers make of the same bytes differs by rounding only.
    turn = 2e-2 if format == "splat" else 1e-3
    assert_alike(read_gaussians(plain), read_gaussians(ours), {**EXACT, "turn": turn, "opacity": 1e-5, "means": 1e-5})


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("format", ["ply", "compressed-ply", "spz", "spz-3"])
def test_we_read_what_they_write(format: str, degree: int, tmp_path: Path) -> None:
    cloud = small(degree, 1)
    plain, theirs = tmp_path / "plain.ply", tmp_path / f"theirs{ENDINGS[format.removesuffix('-3')]}"
    write_gaussians(plain, cloud, "ply")
    transform(*(["--spz-version", "3"] if format == "spz-3" else []), plain, theirs)
    assert_alike(read_gaussians(theirs), cloud, PACKED[format.removesuffix("-3")])


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("bundled", [True, False])
def test_we_read_their_sog(bundled: bool, degree: int, tmp_path: Path) -> None:
    """Its palettes are learnt from the data, so what its file says is known from their own reader."""
    cloud = small(degree, 2)
    plain, again = tmp_path / "plain.ply", tmp_path / "again.ply"
    sog = tmp_path / ("out.sog" if bundled else "folder/meta.json")
    sog.parent.mkdir(exist_ok=True)
    write_gaussians(plain, cloud, "ply")
    transform("-g", "cpu", plain, sog)
    transform(sog, again)
    assert_alike(read_gaussians(sog), read_gaussians(again), {**EXACT, "turn": 1e-3, "opacity": 1e-5, "means": 1e-5})


def validate(path: Path) -> dict[str, object]:
    script = (
        "const v = require('gltf-validator'), fs = require('fs');"
        "v.validateBytes(new Uint8Array(fs.readFileSync(process.argv[1])))"
        ".then(r => console.log(JSON.stringify(r)), e => { console.error(e); process.exit(1); });"
    )
    done = subprocess.run(
        ["node", "-e", script, str(path)], cwd=NODE, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, object] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("degree", [*DEGREES, 4])
def test_gaussians_are_valid_gltf(degree: int, tmp_path: Path) -> None:
    """All but the extension's own attributes, whose names with a colon this validator does not know yet."""
    write_gaussians(tmp_path / "cloud.glb", small(degree), "glb")
    issues: dict[str, Any] = validate(tmp_path / "cloud.glb")["issues"]  # type: ignore[assignment]
    unknown = [m for m in issues["messages"] if "KHR_gaussian_splatting:" in m["pointer"]]
    assert {m["code"] for m in unknown} <= {"MESH_PRIMITIVE_INVALID_ATTRIBUTE"}
    assert issues["numErrors"] == len(unknown), issues
    assert issues["numWarnings"] == 0, issues


def attributes_of(path: Path) -> dict[str, np.ndarray]:
    """The vertex attributes of the one primitive of a .glb, by name."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    document = json.loads(data[20 : 20 + length])
    binary = data[28 + length :]
    (mesh,) = document["meshes"]
    (primitive,) = mesh["primitives"]
    found = {}
    for name, number in primitive["attributes"].items():
        accessor = document["accessors"][number]
        view = document["bufferViews"][accessor["bufferView"]]
        kind = {5126: "<f4", 5123: "<u2", 5121: "u1"}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
        assert view.get("byteStride") in (None, np.dtype(kind).itemsize * width)
        values = np.frombuffer(binary, kind, accessor["count"] * width, start).reshape(-1, width)
        scale = np.iinfo(values.dtype).max if accessor.get("normalized") else 1
        found[name] = values.astype(np.float64) / scale
    return found


@pytest.mark.parametrize("degree", DEGREES)
def test_gaussians_in_gltf_are_theirs(degree: int, tmp_path: Path) -> None:
    """The attributes of the extension, by name and number, in what both write of the same Gaussians.

    What captures have at the top is up in glTF: they turn PLY by half a turn about z, we about x, as SPZ does. So
    theirs are ours after half a turn about y.
    """
    cloud = small(degree)
    write_gaussians(tmp_path / "plain.ply", cloud, "ply")
    write_gaussians(tmp_path / "ours.glb", cloud.transformed(torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))), "glb")
    transform(tmp_path / "plain.ply", tmp_path / "theirs.glb")
    ours, theirs = (attributes_of(tmp_path / f"{name}.glb") for name in ("ours", "theirs"))
    assert set(ours) == set(theirs)
    order = np.linalg.norm(theirs["POSITION"][:, None] - ours["POSITION"][None], axis=-1).argmin(axis=0)
    assert len(set(order.tolist())) == len(cloud)
    # A Gaussian is the same after half a turn about an axis of its own, by which the two programs' rotations differ:
    # what the scales' axes are, up to their signs, is compared.
    turns = [torch.as_tensor(np.roll(a["KHR_gaussian_splatting:ROTATION"], 1, axis=1)) for a in (ours, theirs)]
    axes = [quaternion_to_matrix(turn / turn.norm(dim=-1, keepdim=True)) for turn in (turns[0], turns[1][order])]
    assert float(((axes[0] * axes[1]).sum(dim=-2).abs() - 1).abs().max()) < 1e-5
    for name in ours:
        if not name.startswith("COLOR") and not name.endswith("ROTATION"):
            np.testing.assert_allclose(ours[name], theirs[name][order], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("coloured", [False, True])
def test_meshes_are_valid_gltf(coloured: bool, tmp_path: Path) -> None:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    colors = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) if coloured else None
    write_mesh(tmp_path / "mesh.glb", Mesh(vertices, faces, colors))
    report = validate(tmp_path / "mesh.glb")
    issues: dict[str, Any] = report["issues"]  # type: ignore[assignment]
    assert issues["numErrors"] == 0, issues
    assert report["info"]["totalTriangleCount"] == 4  # type: ignore[index]
