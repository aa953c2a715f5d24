"""SuperSplat's compressed PLY: bits by hand, a file of SuperSplat's, and damage."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gaussian_clouds import ball_cloud, nearest, same_turn

from studio.errors import StudioError
from studio.export.compressed_ply import read_compressed_ply, write_compressed_ply
from studio.export.gaussians import SH_C0, GaussianCloud
from studio.reading.ply import read_ply_element, read_ply_header

RANGES = "min_x min_y min_z max_x max_y max_z " + " ".join(
    f"{end}_scale_{axis}" for end in ("min", "max") for axis in "xyz"
)
COLORS = " min_r min_g min_b max_r max_g max_b"
PACKED = "packed_position packed_rotation packed_scale packed_color"


def write_by_hand(
    path: Path,
    chunks: list[list[float]],
    rows: list[list[int]],
    sh: list[list[int]] | None = None,
    *,
    tail: bytes = b"",
) -> Path:
    names = (RANGES + (COLORS if chunks and len(chunks[0]) == 18 else "")).split()
    lines = ["ply", "format binary_little_endian 1.0", f"element chunk {len(chunks)}"]
    lines += [f"property float {name}" for name in names]
    lines += [f"element vertex {len(rows)}", *(f"property uint {name}" for name in PACKED.split())]
    if sh is not None:
        lines += [f"element sh {len(sh)}", *(f"property uchar f_rest_{i}" for i in range(len(sh[0])))]
    data = b"".join(struct.pack(f"<{len(chunk)}f", *chunk) for chunk in chunks)
    data += b"".join(struct.pack("<4I", *row) for row in rows) + b"".join(map(bytes, sh or [])) + tail
    path.write_bytes("\n".join([*lines, "end_header", ""]).encode() + data)
    return path


CHUNK = [-1.0, 0, 2, 1, 4, 2, -5, -5, -5, -1, -3, -5]
ROW = [2047 << 21 | 511 << 11 | 0, 2 << 30 | 1023 << 20 | 511 << 10 | 0, 0 << 21 | 1023 << 11 | 7, 0xFF8000C0]


def test_bits_by_hand(tmp_path: Path) -> None:
    cloud = read_compressed_ply(write_by_hand(tmp_path / "x.ply", [CHUNK], [ROW]))
    assert cloud.means.tolist()[0] == pytest.approx([1, 4 * 511 / 1023, 2])
    assert cloud.log_scales.tolist()[0] == pytest.approx([-5, -3, -5])
    assert (0.5 + SH_C0 * cloud.sh[0, 0]).tolist() == pytest.approx([1, 128 / 255, 0], abs=1e-6)
    assert float(cloud.logit_opacities.sigmoid()) == pytest.approx(0xC0 / 255)
    # 2 names y as the largest of w, x, y, z.
    w, x, z = ((step / 1023 - 0.5) * math.sqrt(2) for step in (1023, 511, 0))
    assert cloud.quats.tolist()[0] == pytest.approx([w, x, math.sqrt(max(1 - w * w - x * x - z * z, 0)), z], abs=1e-3)
    colored = read_compressed_ply(write_by_hand(tmp_path / "y.ply", [[*CHUNK, -1, 0, 0.25, 3, 1, 0.25]], [ROW]))
    assert (0.5 + SH_C0 * colored.sh[0, 0]).tolist() == pytest.approx([3, 128 / 255, 0.25], abs=1e-6)


def test_coefficients_run_channel_by_channel(tmp_path: Path) -> None:
    path = write_by_hand(tmp_path / "x.ply", [CHUNK], [ROW], [[0, 255, 128, 127, 64, 1, 2, 3, 4]])
    cloud = read_compressed_ply(path)
    assert cloud.sh_degree == 1
    red, blue = cloud.sh[0, 1:, 0].tolist(), cloud.sh[0, 1:, 2].tolist()
    # Middles of steps of 1/32, but for the ends.
    assert red == pytest.approx([-4, 4, 1 / 64])
    assert blue == pytest.approx([-4 + 2.5 / 32, -4 + 3.5 / 32, -4 + 4.5 / 32])


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_round_trip_within_quantisation(tmp_path: Path, degree: int) -> None:
    cloud = ball_cloud(1000, degree, seed=degree)
    write_compressed_ply(tmp_path / "x.ply", cloud)
    header = read_ply_header(tmp_path / "x.ply")
    assert [(e.name, e.count) for e in header.elements] == [("chunk", 4), ("vertex", 1000), ("sh", 1000)][
        : 2 + (degree > 0)
    ]
    back = read_compressed_ply(tmp_path / "x.ply")
    order = nearest(cloud, back.means)
    assert len(order.unique()) == 1000
    sorted_ = cloud.select(order)
    chunks = read_ply_element(header, "chunk")

    def half_step(names: str, steps: list[int]) -> torch.Tensor:
        low, high = (
            torch.tensor([chunks[f"{end}_{name}"].tolist() for name in names.split()]).T for end in ("min", "max")
        )
        width = (high - low) / torch.tensor(steps) / 2
        return width.repeat_interleave(256, dim=0)[:1000] * 1.001 + 2e-6

    assert ((back.means - sorted_.means).abs() <= half_step("x y z", [2047, 1023, 2047])).all()
    scale_step = half_step("scale_x scale_y scale_z", [2047, 1023, 2047])
    assert ((back.log_scales - sorted_.log_scales).abs() <= scale_step).all()
    colors = SH_C0 * (back.sh[:, 0] - sorted_.sh[:, 0]).abs()
    assert (colors <= half_step("r g b", [255, 255, 255])).all()
    # Three parts with half a step of sqrt(2) / 1023 each, and the largest that follows from them.
    assert float(same_turn(back.quats, sorted_.quats).max()) < 2 * 2 * math.sqrt(3) * math.sqrt(0.5) / 1023
    assert float((back.logit_opacities.sigmoid() - sorted_.logit_opacities.sigmoid()).abs().max()) <= 0.5 / 255 + 1e-6
    if degree:
        assert float((back.sh[:, 1:] - sorted_.sh[:, 1:]).abs().max()) <= 1 / 64 + 1e-6


def test_ends_of_the_ranges(tmp_path: Path) -> None:
    cloud = ball_cloud(3, 4)
    cloud = replace(
        cloud,
        log_scales=torch.tensor([[-math.inf, 0, 1], [40, 0, 0], [0, 0, 0]]),
        logit_opacities=torch.tensor([math.inf, -math.inf, 0]),
        quats=torch.zeros(3, 4),
    )
    write_compressed_ply(tmp_path / "x.ply", cloud)
    back = read_compressed_ply(tmp_path / "x.ply")
    assert back.sh_degree == 3
    assert sorted(back.log_scales.flatten().tolist())[::8] == pytest.approx([-20, 20])
    torch.testing.assert_close(back.quats, torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4), atol=2e-3, rtol=0)
    write_compressed_ply(tmp_path / "empty.ply", cloud.select(torch.zeros(0, dtype=torch.int64)))
    assert len(read_compressed_ply(tmp_path / "empty.ply")) == 0


def test_a_file_of_supersplat_survives_being_written_again(tmp_path: Path, data_dir: Path) -> None:
    first = read_compressed_ply(data_dir / "splats" / "biker.compressed.ply")
    assert (len(first), first.sh_degree) == (152_746, 0)
    write_compressed_ply(tmp_path / "x.ply", first)
    again = read_compressed_ply(tmp_path / "x.ply")
    # Both are in an order in space; as sets they agree within a step of the ranges of both.
    for name in ("means", "log_scales", "logit_opacities"):
        a, b = (getattr(cloud, name).double() for cloud in (first, again))
        torch.testing.assert_close(a.mean(dim=0), b.mean(dim=0), atol=1e-3, rtol=0)
    size = (tmp_path / "x.ply").stat().st_size
    assert abs(size - (data_dir / "splats" / "biker.compressed.ply").stat().st_size) < 500


def _cloud_bytes(tmp_path: Path) -> tuple[Path, bytes]:
    write_compressed_ply(tmp_path / "x.ply", ball_cloud(300, 1))
    return tmp_path / "x.ply", (tmp_path / "x.ply").read_bytes()


def test_damage_is_told(tmp_path: Path) -> None:
    path, whole = _cloud_bytes(tmp_path)
    path.write_bytes(whole[:-5])
    with pytest.raises(StudioError, match=r"x\.ply: the file is truncated: .* 300 of element 'sh', there are 299"):
        read_compressed_ply(path)
    path.write_bytes(whole.replace(b"element chunk 2", b"element chunk 1"))
    with pytest.raises(StudioError, match="has 1 chunks; 300 Gaussians have 2"):
        read_compressed_ply(path)
    path.write_bytes(whole.replace(b"element vertex 300", b"element vertex 999999999999"))
    with pytest.raises(StudioError, match="promises 999,999,999,999 of element 'vertex', there are"):
        read_compressed_ply(path)
    path.write_bytes(whole.replace(b"uint packed_scale", b"uint packed_girth"))
    with pytest.raises(StudioError, match="vertex property 'packed_scale' of a compressed PLY is missing"):
        read_compressed_ply(path)
    path.write_bytes(whole.replace(b"float max_g", b"float max_q"))
    with pytest.raises(StudioError, match="has only min_r, min_g, min_b, max_r, max_b of its range of colours"):
        read_compressed_ply(path)
    path.write_bytes(whole.replace(b"property uchar f_rest_8\n", b""))
    with pytest.raises(StudioError, match="must have 9, 24 or 45 properties"):
        read_compressed_ply(path)
    path.write_bytes(whole.replace(b"uint packed_color", b"float packed_color"))
    with pytest.raises(StudioError, match="'packed_color' must be a uint"):
        read_compressed_ply(path)
    for value in (math.nan, math.inf):
        chunk = list(CHUNK)
        chunk[3] = value
        with pytest.raises(StudioError, match=r"'min_x\.\.max_z' is not a finite number for 1 of 1 chunks"):
            read_compressed_ply(write_by_hand(path, [chunk], [ROW]))


def test_a_range_beyond_float32_is_told(tmp_path: Path) -> None:
    chunk = [*CHUNK, 0, 0, 0, 3e38, 3e38, 3e38]
    with pytest.raises(StudioError, match="the field 'sh' is not a finite number"):
        read_compressed_ply(write_by_hand(tmp_path / "x.ply", [chunk], [[*ROW[:3], 0xFFFFFFFF]]))


def test_a_cloud_needs_no_certain_order(tmp_path: Path) -> None:
    cloud: GaussianCloud = ball_cloud(700, 2)
    shuffled = cloud.select(torch.randperm(700, generator=torch.Generator().manual_seed(4)))
    for name, each in (("a", cloud), ("b", shuffled)):
        write_compressed_ply(tmp_path / name, each)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
