"""KHR_gaussian_splatting: the container and every attribute, read back by the glTF specification."""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gaussian_clouds import ball_cloud, picture, same_turn

from studio.errors import StudioError
from studio.export.gaussian_glb import write_gaussian_glb
from studio.export.gaussians import GaussianCloud
from studio.export.spz import half_turned, write_spz
from studio.metrics import psnr

PREFIX = "KHR_gaussian_splatting:"


def read_glb(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A reader of the tests' own: the JSON, and each attribute of the only primitive."""
    raw = path.read_bytes()
    magic, version, total = struct.unpack_from("<4sII", raw)
    assert (magic, version, total) == (b"glTF", 2, len(raw))
    length, kind = struct.unpack_from("<I4s", raw, 12)
    assert kind == b"JSON"
    assert length % 4 == 0
    document = json.loads(raw[20 : 20 + length])
    size, kind = struct.unpack_from("<I4s", raw, 20 + length)
    assert kind == b"BIN\0"
    assert 28 + length + size == len(raw)
    assert document["buffers"] == [{"byteLength": size}]
    data = raw[28 + length :]
    (primitive,) = document["meshes"][0]["primitives"]
    attributes = {}
    for name, number in primitive["attributes"].items():
        accessor = document["accessors"][number]
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0
        dtype = {5126: "<f4", 5123: "<u2"}[accessor["componentType"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        values = np.frombuffer(data, dtype, accessor["count"] * width, view["byteOffset"])
        assert values.nbytes == view["byteLength"]
        attributes[name] = values.reshape(accessor["count"], width)
    return document, attributes


@pytest.mark.parametrize("degree", [0, 2, 3])
def test_every_attribute_of_the_extension(tmp_path: Path, degree: int) -> None:
    cloud = ball_cloud(50, degree)
    write_gaussian_glb(tmp_path / "x.glb", cloud)
    cloud = half_turned(cloud)
    document, attributes = read_glb(tmp_path / "x.glb")
    (primitive,) = document["meshes"][0]["primitives"]
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    assert primitive["mode"] == 0
    assert primitive["extensions"] == {
        "KHR_gaussian_splatting": {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    }
    assert document["nodes"] == [{"mesh": 0}]
    np.testing.assert_array_equal(attributes["POSITION"], cloud.means)
    position = document["accessors"][primitive["attributes"]["POSITION"]]
    assert position["min"] == cloud.means.min(dim=0).values.tolist()
    assert position["max"] == cloud.means.max(dim=0).values.tolist()
    rotation = torch.from_numpy(attributes[PREFIX + "ROTATION"].copy())
    torch.testing.assert_close(rotation.norm(dim=1), torch.ones(50))
    # (x, y, z, w)
    assert float(same_turn(rotation.roll(1, dims=1), cloud.quats).max()) < 1e-6
    np.testing.assert_allclose(attributes[PREFIX + "SCALE"], cloud.log_scales.exp(), rtol=1e-6)
    np.testing.assert_allclose(attributes[PREFIX + "OPACITY"][:, 0], cloud.logit_opacities.sigmoid(), rtol=1e-6)
    names = [f"{PREFIX}SH_DEGREE_{d}_COEF_{i}" for d in range(degree + 1) for i in range(2 * d + 1)]
    for number, name in enumerate(names):
        np.testing.assert_array_equal(attributes[name], cloud.sh[:, number])
    assert len(attributes) == 5 + len(names)


def test_fallback_colours_are_linear(tmp_path: Path) -> None:
    cloud = ball_cloud(3, 0)
    sh = (torch.tensor([[[0.5, 1.0, 0.0]]]) - 0.5).expand(3, 1, 3) / 0.28209479177387814
    write_gaussian_glb(tmp_path / "x.glb", replace(cloud, sh=sh, logit_opacities=torch.zeros(3)))
    document, attributes = read_glb(tmp_path / "x.glb")
    color = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    assert color["normalized"]
    # sRGB 0.5 is 0.21404 in linear light.
    np.testing.assert_allclose(attributes["COLOR_0"][0] / 65535, [0.21404, 1, 0, 0.5], atol=2e-5)


def test_it_is_lossless(tmp_path: Path) -> None:
    cloud = ball_cloud()
    write_gaussian_glb(tmp_path / "x.glb", cloud)
    _, read = read_glb(tmp_path / "x.glb")
    tensors = {name: torch.from_numpy(values.copy()) for name, values in read.items()}
    back = GaussianCloud(
        tensors["POSITION"],
        tensors[PREFIX + "ROTATION"].roll(1, dims=1),
        tensors[PREFIX + "SCALE"].log(),
        tensors[PREFIX + "OPACITY"][:, 0].logit(),
        torch.stack([tensors[f"{PREFIX}SH_DEGREE_{d}_COEF_{i}"] for d in range(4) for i in range(2 * d + 1)], dim=1),
    )
    assert float(psnr(picture(half_turned(back)), picture(cloud))) > 70


def test_it_lies_the_same_way_up_as_spz(tmp_path: Path) -> None:
    # Down in a splat PLY is +y. glTF and SPZ say that +y is up: the lowest Gaussian must lie lowest there.
    cloud = ball_cloud(40, 1)
    write_gaussian_glb(tmp_path / "x.glb", cloud)
    _, attributes = read_glb(tmp_path / "x.glb")
    lowest = int(cloud.means[:, 1].argmax())
    assert int(attributes["POSITION"][:, 1].argmin()) == lowest
    write_spz(tmp_path / "x.spz", cloud)
    raw = gzip.decompress((tmp_path / "x.spz").read_bytes())
    steps = np.frombuffer(raw, np.uint8, 40 * 9, 16).reshape(40, 3, 3).astype(np.int64) @ [1, 256, 65536]
    places = (steps - (steps >= 1 << 23) * (1 << 24)) / 2.0 ** raw[13]
    ordered = places[np.lexsort(places.T)]
    np.testing.assert_allclose(
        ordered, attributes["POSITION"][np.lexsort(attributes["POSITION"].T)], atol=1e-3, err_msg="as SPZ stores them"
    )


def test_limits(tmp_path: Path) -> None:
    cloud = ball_cloud(4, 4)
    write_gaussian_glb(tmp_path / "x.glb", replace(cloud, logit_opacities=torch.tensor([torch.inf, -torch.inf, 0, 0])))
    _, attributes = read_glb(tmp_path / "x.glb")
    assert PREFIX + "SH_DEGREE_3_COEF_6" in attributes
    assert PREFIX + "SH_DEGREE_4_COEF_0" not in attributes
    assert attributes[PREFIX + "OPACITY"][:, 0].tolist() == [1, 0, 0.5, 0.5]
    with pytest.raises(StudioError, match="no Gaussian is left"):
        write_gaussian_glb(tmp_path / "y.glb", cloud.select(torch.zeros(0, dtype=torch.int64)))


def test_programs_that_do_not_know_the_extension_see_points(tmp_path: Path) -> None:
    import trimesh

    cloud = ball_cloud(20, 1)
    write_gaussian_glb(tmp_path / "x.glb", cloud)
    (points,) = trimesh.load(tmp_path / "x.glb").geometry.values()
    np.testing.assert_array_equal(np.float32(points.vertices), half_turned(cloud).means)
