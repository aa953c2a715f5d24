"""Point clouds written by us, read by others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from studio.export.pointcloud import write_point_cloud
from studio.reading.ply import read_ply_header, read_ply_vertices


def test_points_and_colours_arrive(tmp_path: Path) -> None:
    xyz, rgb = torch.randn(50, 3), torch.rand(50, 3) * 1.2 - 0.1
    write_point_cloud(tmp_path / "x.ply", xyz, rgb)
    expected = (rgb.clamp(0, 1) * 255).round().numpy()
    back = trimesh.load(tmp_path / "x.ply")
    np.testing.assert_array_equal(np.float32(back.vertices), xyz)
    np.testing.assert_array_equal(back.colors[:, :3], expected)
    table = read_ply_vertices(read_ply_header(tmp_path / "x.ply"))
    np.testing.assert_array_equal(np.stack([table[c] for c in ("red", "green", "blue")], axis=1), expected)
    assert table["x"].dtype == np.dtype("<f4")


def test_without_colours_and_with_wrong_shapes(tmp_path: Path) -> None:
    write_point_cloud(tmp_path / "x.ply", torch.randn(3, 3))
    assert len(read_ply_vertices(read_ply_header(tmp_path / "x.ply"))) == 3
    with pytest.raises(ValueError, match=r"\(N, 3\), got \(3, 3\) and \(2, 3\)"):
        write_point_cloud(tmp_path / "x.ply", torch.randn(3, 3), torch.rand(2, 3))
