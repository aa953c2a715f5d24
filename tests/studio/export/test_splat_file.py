"""The 32-byte .splat format, against its definition and a file that others wrote."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
import torch

from studio.errors import StudioError
from studio.export.gaussians import SH_C0, GaussianCloud
from studio.export.splat_file import read_splat, write_splat


def _cloud() -> GaussianCloud:
    return GaussianCloud(
        means=torch.tensor([[1.0, 2.0, 3.0], [-4.0, 5.0, -6.0]]),
        quats=torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, -3.0]]),
        log_scales=torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.4, 0.5]]).log(),
        logit_opacities=torch.tensor([0.0, 2.0]),
        sh=torch.tensor([[[0.0, 0.5, -0.5]], [[10.0, -10.0, 0.1]]]) / SH_C0,
    )


def test_bytes_by_hand_largest_first(tmp_path: Path) -> None:
    write_splat(tmp_path / "x.splat", _cloud())
    raw = (tmp_path / "x.splat").read_bytes()
    big = struct.unpack("<6f8B", raw[:32])
    assert big[:3] == (-4.0, 5.0, -6.0)
    assert big[3:6] == pytest.approx((0.2, 0.4, 0.5), rel=1e-6)
    assert big[6:] == (255, 0, 153, round(255 / (1 + math.exp(-2))), 128, 128, 128, 0)
    small = struct.unpack("<6f8B", raw[32:])
    assert small[6:] == (128, 255, 0, 128, 255, 128, 128, 128)


def test_round_trip_to_eight_bits(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    count = 200
    quats = torch.nn.functional.normalize(torch.randn(count, 4, generator=random), dim=1)
    cloud = GaussianCloud(
        means=torch.randn(count, 3, generator=random),
        quats=quats,
        log_scales=torch.randn(count, 3, generator=random),
        logit_opacities=torch.randn(count, generator=random),
        sh=(torch.rand(count, 4, 3, generator=random) - 0.5) / SH_C0,
    )
    write_splat(tmp_path / "x.splat", cloud)
    back = read_splat(tmp_path / "x.splat")
    order = (cloud.log_scales.double().sum(dim=1) + cloud.logit_opacities.double().sigmoid().log()).argsort(
        descending=True
    )
    assert torch.equal(back.means, cloud.means[order])
    torch.testing.assert_close(back.log_scales, cloud.log_scales[order], atol=1e-5, rtol=0)
    torch.testing.assert_close(back.base_colors, cloud.base_colors[order], atol=0.51 / 255, rtol=0)
    torch.testing.assert_close(
        back.logit_opacities.sigmoid(), cloud.logit_opacities[order].sigmoid(), atol=0.51 / 255, rtol=0
    )
    torch.testing.assert_close(back.quats, quats[order], atol=1 / 127, rtol=0)
    assert back.sh_degree == 0


def test_ends_of_the_ranges_stay_finite(tmp_path: Path) -> None:
    record = struct.pack("<6f8B", 0, 0, 0, 0, 1, 1, 0, 0, 0, 255, 255, 128, 128, 128)
    (tmp_path / "x.splat").write_bytes(record + struct.pack("<6f8B", 0, 0, 0, 1, 1, 1, 9, 9, 9, 0, 255, 128, 128, 128))
    cloud = read_splat(tmp_path / "x.splat")
    assert cloud.logit_opacities.isfinite().all()
    assert cloud.logit_opacities.sigmoid().tolist() == pytest.approx([254.5 / 255, 0.5 / 255])
    assert cloud.log_scales.isfinite().all()


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.splat"
    path.write_bytes(b"0" * 33)
    with pytest.raises(StudioError, match=r"x\.splat: has 33 bytes"):
        read_splat(path)
    path.write_bytes(struct.pack("<6f8B", math.nan, 0, 0, 1, 1, 1, *[0] * 8))
    with pytest.raises(StudioError, match="'mean' is not valid for 1 of 1"):
        read_splat(path)
    path.write_bytes(struct.pack("<6f8B", 0, 0, 0, 1, -1, 1, *[0] * 8))
    with pytest.raises(StudioError, match="'scale' is not valid for 1 of 1"):
        read_splat(path)
    with pytest.raises(StudioError, match="there is no such file"):
        read_splat(tmp_path / "absent.splat")


def test_a_file_that_others_wrote(data_dir: Path) -> None:
    cloud = read_splat(data_dir / "splats" / "fixtures" / "minimal.splat")
    assert cloud.means.tolist() == [[-1, 0, -1], [0, 0, -1], [-1, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(cloud.log_scales.exp(), torch.full((4, 3), 0.1))
    expected = torch.tensor([[85, 85, 128], [170, 85, 128], [85, 170, 128], [170, 170, 128]]) / 255
    torch.testing.assert_close(cloud.base_colors, expected)
    torch.testing.assert_close(cloud.logit_opacities.sigmoid(), torch.full((4,), 230 / 255))
