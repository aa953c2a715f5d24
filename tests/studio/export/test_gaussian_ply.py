"""Splat PLY: the layout byte by byte, tolerant reading, and errors that name file and property."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from studio.errors import StudioError
from studio.export.gaussian_ply import gaussian_ply_properties, read_gaussian_ply, write_gaussian_ply
from studio.export.gaussians import GaussianCloud
from studio.reading.ply import read_ply_header, read_ply_vertices

FIELDS = ("means", "quats", "log_scales", "logit_opacities", "sh")


def make_cloud(count: int = 5, degree: int = 3, seed: int = 0) -> GaussianCloud:
    random = torch.Generator().manual_seed(seed)
    shapes = [(count, 3), (count, 4), (count, 3), (count,), (count, (degree + 1) ** 2, 3)]
    return GaussianCloud(*(torch.randn(*shape, generator=random) for shape in shapes))


def assert_equal(a: GaussianCloud, b: GaussianCloud) -> None:
    for name in FIELDS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def as_table(cloud: GaussianCloud) -> dict[str, np.ndarray]:
    """Every property by the published naming, written independently of the writer."""
    table = {name: cloud.means[:, i].numpy() for i, name in enumerate("xyz")}
    table |= {name: np.zeros(len(cloud), np.float32) for name in ("nx", "ny", "nz")}
    per_channel = cloud.sh.shape[1] - 1
    table |= {f"f_dc_{channel}": cloud.sh[:, 0, channel].numpy() for channel in range(3)}
    for channel in range(3):
        for k in range(per_channel):
            table[f"f_rest_{channel * per_channel + k}"] = cloud.sh[:, 1 + k, channel].numpy()
    table["opacity"] = cloud.logit_opacities.numpy()
    table |= {f"scale_{i}": cloud.log_scales[:, i].numpy() for i in range(3)}
    return table | {f"rot_{i}": cloud.quats[:, i].numpy() for i in range(4)}


def write_ply(
    path: Path,
    table: dict[str, np.ndarray],
    *,
    order: str = "<",
    types: dict[str, str] | None = None,
    before: tuple[str, bytes] = ("", b""),
    newline: str = "\n",
) -> Path:
    """A PLY writer of the tests' own: any order, type, byte order, and elements before the vertices."""
    types = types or {}
    codes = {"float": "f4", "double": "f8", "uchar": "u1"}
    count = len(next(iter(table.values())))
    name = {"<": "binary_little_endian", ">": "binary_big_endian", "": "ascii"}[order]
    lines = ["ply", f"format {name} 1.0", "comment made by a test", *before[0].splitlines(), f"element vertex {count}"]
    lines += [f"property {types.get(key, 'float')} {key}" for key in table]
    lines += ["element extra 1", "property int thing", "end_header", ""]
    if order:
        rows = np.empty(count, [(key, order + codes[types.get(key, "float")]) for key in table])
        for key, values in table.items():
            rows[key] = values
        data = rows.tobytes() + struct.pack(order + "i", 7)
    else:
        data = (
            "".join(" ".join(repr(float(v[i])) for v in table.values()) + "\n" for i in range(count)).encode() + b"7\n"
        )
    path.write_bytes(newline.join(lines).encode() + before[1] + data)
    return path


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_layout_is_the_published_one_byte_by_byte(tmp_path: Path, degree: int) -> None:
    cloud = make_cloud(3, degree)
    write_gaussian_ply(tmp_path / "x.ply", cloud)
    table = as_table(cloud)
    assert gaussian_ply_properties(degree) == list(table)
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 3\n"
    header += "".join(f"property float {name}\n" for name in table) + "end_header\n"
    data = b"".join(struct.pack(f"<{len(table)}f", *(values[i] for values in table.values())) for i in range(3))
    assert (tmp_path / "x.ply").read_bytes() == header.encode() + data
    assert_equal(read_gaussian_ply(tmp_path / "x.ply"), cloud)


def test_many_rows_and_none(tmp_path: Path) -> None:
    for count in (0, 150_001):
        cloud = make_cloud(count, 0)
        write_gaussian_ply(tmp_path / "x.ply", cloud)
        assert_equal(read_gaussian_ply(tmp_path / "x.ply"), cloud)


@pytest.mark.parametrize("order", ["<", ">", ""])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_reads_other_orders_types_and_extra_properties(tmp_path: Path, order: str, newline: str) -> None:
    cloud = make_cloud(4, 2)
    table = as_table(cloud)
    shuffled = {name: table[name] for name in sorted(table, reverse=True) if name not in ("nx", "ny", "nz")}
    shuffled["red"] = np.full(4, 200)
    types = {"x": "double", "opacity": "double", "red": "uchar"}
    assert_equal(
        read_gaussian_ply(write_ply(tmp_path / "x.ply", shuffled, order=order, types=types, newline=newline)), cloud
    )


def test_elements_before_the_vertices_are_skipped(tmp_path: Path) -> None:
    cloud = make_cloud(4, 1)
    header = "element camera 1\nproperty float fov\nelement face 2\nproperty list uchar int ids\nproperty float area"
    data = struct.pack("<f", 1.5) + struct.pack("<B3if", 3, 1, 2, 3, 0.5) + struct.pack("<B1if", 1, 9, 0.5)
    assert_equal(read_gaussian_ply(write_ply(tmp_path / "x.ply", as_table(cloud), before=(header, data))), cloud)
    ascii_data = b"1.5\n3 1 2 3 0.5\n\n1 9 0.5\n"
    path = write_ply(tmp_path / "y.ply", as_table(cloud), order="", before=(header, ascii_data))
    assert_equal(read_gaussian_ply(path), cloud)


@pytest.mark.parametrize("name", ["x", "f_dc_1", "opacity", "scale_1", "rot_3", "f_rest_4"])
def test_a_missing_property_is_named(tmp_path: Path, name: str) -> None:
    table = as_table(make_cloud(2, 1))
    del table[name]
    if name == "f_rest_4":
        table["f_rest_9"] = table["x"]
    with pytest.raises(StudioError, match=rf"x\.ply.*'{name}' is missing") as caught:
        read_gaussian_ply(write_ply(tmp_path / "x.ply", table))
    assert "\n" not in str(caught.value)


def test_a_wrong_number_of_coefficients_is_named(tmp_path: Path) -> None:
    table = as_table(make_cloud(2, 1))
    table["f_rest_9"] = table["x"]
    with pytest.raises(StudioError, match=r"10 properties 'f_rest_\*'.*0, 9, 24, 45, 72"):
        read_gaussian_ply(write_ply(tmp_path / "x.ply", table))


@pytest.mark.parametrize("order", ["<", ""])
def test_truncation_is_told_with_counts(tmp_path: Path, order: str) -> None:
    path = write_ply(tmp_path / "x.ply", as_table(make_cloud(10, 0)), order=order)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"end_header") + 11 + (5 * 17 * 4 if order else 0)])
    with pytest.raises(StudioError, match=r"x\.ply.*truncated.*10 of element 'vertex', there are [05]"):
        read_gaussian_ply(path)
    path.write_bytes(whole[:100])
    with pytest.raises(StudioError, match=r"header has no end"):
        read_gaussian_ply(path)


def test_values_that_are_not_numbers_are_told_but_infinite_logits_pass(tmp_path: Path) -> None:
    table = {name: values.copy() for name, values in as_table(make_cloud(4, 0)).items()}
    table["opacity"][1] = np.inf
    table["scale_0"][2] = -np.inf
    cloud = read_gaussian_ply(write_ply(tmp_path / "x.ply", table))
    assert torch.isposinf(cloud.logit_opacities[1])
    assert torch.isneginf(cloud.log_scales[2, 0])
    table["rot_2"][3] = np.nan
    with pytest.raises(StudioError, match=r"'rot_2' is not a number for 1 of 4 Gaussians \(first: 3\)"):
        read_gaussian_ply(write_ply(tmp_path / "x.ply", table))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a PLY file .it is empty"),
        (b"\x1f\x8b\x08\x00", "looks like a compressed SPZ"),
        (b"NGSP\x04", "looks like a compressed SPZ"),
        (b"PK\x03\x04", "zip archive"),
        (b"ply\nformat ascii 1.0\nelement vertex many\nend_header\n", "line 3.*'element vertex many'"),
        (b"ply\nformat ascii 2.0\nend_header\n", "line 2"),
        (b"ply\nelement vertex 0\nend_header\n", "no format"),
        (b"ply\nformat ascii 1.0\nproperty float x\nend_header\n", "line 3"),
        (b"ply\nformat ascii 1.0\nelement face 0\nend_header\n", "no element 'vertex' .elements: face"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n1 2\n", "'x' is a list"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float x\nend_header\n1 2\n", "twice"),
        (b"ply\nformat ascii 1.0\nelement vertex 2\nend_header\n\n\n", "'vertex' has no properties"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 2\nend_header\n", "'vertex' has no properties"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x.ply").write_bytes(content)
    with pytest.raises(StudioError, match=rf"x\.ply.*{words}"):
        read_gaussian_ply(tmp_path / "x.ply")


@pytest.mark.parametrize(
    ("kind", "length", "words"),
    [
        ("char", struct.pack("<b", -1), "the list 'ids' of face 0 has the length -1"),
        ("float", struct.pack("<f", math.nan), "the list 'ids' of face 0 has the length nan"),
        ("double", struct.pack("<d", 1e300), "promises 10 of element 'face', there are 0"),
        ("uint", struct.pack("<I", 2**32 - 1), "promises 10 of element 'face', there are 0"),
    ],
)
def test_lists_of_impossible_lengths(tmp_path: Path, kind: str, length: bytes, words: str) -> None:
    table = as_table(make_cloud(2, 0))
    before = (f"element face 10\nproperty list {kind} int ids", length + bytes(100))
    with pytest.raises(StudioError, match=words):
        read_gaussian_ply(write_ply(tmp_path / "x.ply", table, before=before))


def test_ascii_rows_that_are_not_numbers(tmp_path: Path) -> None:
    header = b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nend_header\n"
    (tmp_path / "x.ply").write_bytes(header + b"1 2\n3\n")
    with pytest.raises(StudioError, match="vertex 1 has not 2 numbers: '3'"):
        read_ply_vertices(read_ply_header(tmp_path / "x.ply"))
    (tmp_path / "x.ply").write_bytes(header + b"1 2\n3 four\n")
    with pytest.raises(StudioError, match="vertex 1 has not 2 numbers: '3 four'"):
        read_ply_vertices(read_ply_header(tmp_path / "x.ply"))


def test_point_clouds_and_meshes_are_called_so(tmp_path: Path) -> None:
    points = {name: np.zeros(2) for name in "xyz"}
    with pytest.raises(StudioError, match="is a point cloud, not a Gaussian splat: the property 'f_dc_0' is missing"):
        read_gaussian_ply(write_ply(tmp_path / "x.ply", points))
    face = ("element face 1\nproperty list uchar int ids", struct.pack("<B3i", 3, 0, 1, 1))
    with pytest.raises(StudioError, match="is a mesh"):
        read_gaussian_ply(write_ply(tmp_path / "x.ply", points, before=face))
    with pytest.raises(StudioError, match=r"absent\.ply: there is no such file"):
        read_gaussian_ply(tmp_path / "absent.ply")


def test_a_real_compressed_ply_is_named(data_dir: Path) -> None:
    with pytest.raises(StudioError, match=r"biker\.compressed\.ply: is a SuperSplat compressed PLY"):
        read_gaussian_ply(data_dir / "splats" / "biker.compressed.ply")
    with pytest.raises(StudioError, match=r"biker\.spz: is not a PLY file but looks like a compressed SPZ"):
        read_gaussian_ply(data_dir / "splats" / "biker.spz")


def test_open3d_reads_ours_and_we_read_its(tmp_path: Path) -> None:
    try:
        import open3d
    except (ImportError, OSError) as error:
        pytest.skip(f"open3d cannot load: {error}")
    cloud = make_cloud(6, 3)
    write_gaussian_ply(tmp_path / "x.ply", cloud)
    theirs = open3d.t.io.read_point_cloud(str(tmp_path / "x.ply"))
    np.testing.assert_array_equal(theirs.point.positions.numpy(), cloud.means)
    np.testing.assert_array_equal(theirs.point["f_dc"].numpy(), cloud.sh[:, 0])
    np.testing.assert_array_equal(theirs.point["f_rest"].numpy(), cloud.sh[:, 1:])
    np.testing.assert_array_equal(theirs.point["opacity"].numpy()[:, 0], cloud.logit_opacities)
    # Open3D activates the scale when it reads and takes the logarithm again when it writes.
    np.testing.assert_allclose(theirs.point["scale"].numpy(), cloud.log_scales.exp(), rtol=1e-6)
    np.testing.assert_allclose(theirs.point["rot"].numpy(), cloud.quats, rtol=1e-6)
    for ascii_text in (False, True):
        open3d.t.io.write_point_cloud(str(tmp_path / "o3d.ply"), theirs, write_ascii=ascii_text)
        back = read_gaussian_ply(tmp_path / "o3d.ply")
        for name in FIELDS:
            torch.testing.assert_close(
                getattr(back, name), getattr(cloud, name), atol=1e-5 if ascii_text else 1e-6, rtol=0
            )


def test_trimesh_sees_the_points(tmp_path: Path) -> None:
    import trimesh

    cloud = make_cloud(6, 1)
    write_gaussian_ply(tmp_path / "x.ply", cloud)
    np.testing.assert_array_equal(np.float32(trimesh.load(tmp_path / "x.ply").vertices), cloud.means)


def test_flat_gaussians_get_a_thin_third_axis(tmp_path: Path) -> None:
    path = tmp_path / "flat.ply"
    write_rows(path, {**splat_columns(3), "scale_2": None})
    cloud = read_gaussian_ply(path)
    torch.testing.assert_close(cloud.log_scales[:, 2], torch.full((3,), math.log(1e-6)))
    assert "flat (2DGS)" in cloud.notes[0]


def test_the_filter_of_mip_splatting_is_fused(tmp_path: Path) -> None:
    """s' = sqrt(s² + f²), o' = o prod(s / s'), by hand for one Gaussian."""
    path = tmp_path / "mip.ply"
    columns = {f"scale_{i}": np.log([s]) for i, s in enumerate((0.03, 0.04, 0.12))}
    write_rows(path, {**splat_columns(1), **columns, "opacity": np.zeros(1), "filter_3D": np.full(1, 0.05)})
    cloud = read_gaussian_ply(path)
    smoothed = [math.hypot(s, 0.05) for s in (0.03, 0.04, 0.12)]
    torch.testing.assert_close(cloud.log_scales.exp()[0], torch.tensor(smoothed))
    opacity = 0.5 * math.prod(s / t for s, t in zip((0.03, 0.04, 0.12), smoothed, strict=True))
    assert float(cloud.logit_opacities.sigmoid()) == pytest.approx(opacity)
    assert "filter_3D" in cloud.notes[0]


def test_a_few_rows_of_no_numbers_are_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "nan.ply"
    columns = splat_columns(200)
    columns["x"][3] = np.nan
    columns["opacity"][5] = np.nan
    write_rows(path, columns)
    cloud = read_gaussian_ply(path)
    assert len(cloud) == 198
    assert cloud.notes == ("2 of 200 Gaussians have values that are no numbers: left out",)
    np.testing.assert_array_equal(cloud.means[3:5, 0].numpy(), columns["x"][[4, 6]].astype(np.float32))


def test_half_floats_and_long_comments(tmp_path: Path) -> None:
    path = tmp_path / "half.ply"
    columns = splat_columns(5)
    write_rows(path, columns, kind="half", comment="x" * 9000)
    cloud = read_gaussian_ply(path)
    np.testing.assert_array_equal(cloud.means[:, 1].numpy(), columns["y"].astype(np.float16).astype(np.float32))
    assert cloud.notes == ()


def splat_columns(count: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {name: random.normal(size=count) for name in gaussian_ply_properties(0) if not name.startswith("n")}


def write_rows(path: Path, columns: dict[str, Any], kind: str = "float", comment: str = "a test") -> None:
    columns = {name: values for name, values in columns.items() if values is not None}
    count = len(columns["x"])
    header = ["ply", "format binary_little_endian 1.0", f"comment {comment}", f"element vertex {count}"]
    header += [*(f"property {kind} {name}" for name in columns), "end_header", ""]
    table = np.stack(list(columns.values()), axis=1).astype("<f2" if kind == "half" else "<f4")
    path.write_bytes("\n".join(header).encode() + table.tobytes())
