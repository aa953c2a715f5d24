"""Meshes as files: what another program reads back."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from studio.export.mesh import Mesh, write_mesh

SRGB = [0.0, 0.02, 0.5, 0.75]
"""By IEC 61966-2-1: 0, 0.02 / 12.92 = 0.001548, ((0.5 + 0.055) / 1.055)^2.4 = 0.214041, and 0.522522."""
LINEAR = [0.0, 0.001548, 0.214041, 0.522522]


def tetrahedron() -> Mesh:
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    return Mesh(vertices, faces, torch.tensor(SRGB)[:, None].expand(4, 3))


def test_colours_of_glb_are_linear(tmp_path: Path) -> None:
    write_mesh(tmp_path / "x.glb", tetrahedron())
    raw = (tmp_path / "x.glb").read_bytes()
    (length,) = struct.unpack_from("<I", raw, 12)
    document = json.loads(raw[20 : 20 + length])
    (primitive,) = document["meshes"][0]["primitives"]
    accessor = document["accessors"][primitive["attributes"]["COLOR_0"]]
    assert (accessor["componentType"], accessor["normalized"], accessor["type"]) == (5123, True, "VEC4")
    start = 28 + length + document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    colors = np.frombuffer(raw, "<u2", 16, start).reshape(4, 4) / 65535
    np.testing.assert_allclose(colors[:, :3], np.tile(np.array(LINEAR)[:, None], 3), atol=1e-5)
    np.testing.assert_array_equal(colors[:, 3], 1)


@pytest.mark.parametrize("ending", ["glb", "ply", "obj", "stl"])
def test_another_program_reads_the_same_surface(tmp_path: Path, ending: str) -> None:
    write_mesh(tmp_path / f"x.{ending}", tetrahedron())
    found = trimesh.load(tmp_path / f"x.{ending}", force="mesh")
    assert found.is_watertight
    assert found.volume == pytest.approx(1 / 6, rel=1e-5)
    if ending == "ply":
        assert found.visual.vertex_colors[:, 0].tolist() == [round(255 * value) for value in SRGB]
