"""All splat formats together: told by content, the same scene from two programs, and pictures after a round trip."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gaussian_clouds import ball_cloud, nearest, picture, same_turn

from studio.errors import StudioError
from studio.export.splat_formats import (
    SPLAT_FORMATS,
    is_splat_path,
    looks_different,
    read_gaussians,
    splat_format_of,
    write_gaussians,
)
from studio.export.spz import write_spz
from studio.metrics import psnr

READABLE = [name for name in SPLAT_FORMATS if name not in ("glb", "html")]


@pytest.mark.parametrize("format", READABLE)
def test_pictures_survive_a_round_trip(tmp_path: Path, format: str) -> None:
    cloud = ball_cloud(1500, 0 if format == "splat" else 3)
    write_gaussians(tmp_path / "x.splat", cloud, format)
    back = read_gaussians(tmp_path / "x.splat")
    assert (len(back), back.sh_degree) == (len(cloud), cloud.sh_degree)
    least = 50 if format == "ply" else 35
    assert float(psnr(picture(back), picture(cloud)).clamp(max=200)) >= least
    # The bound tells something: the same bound without view-dependent colour fails.
    if cloud.sh_degree:
        assert float(psnr(picture(cloud.truncated(0)), picture(cloud))) < 35


@pytest.mark.parametrize("format", ["ply", "compressed-ply", "spz"])
@pytest.mark.parametrize("marked", [True, False])
def test_the_mark_of_anti_aliased_gaussians_is_kept(tmp_path: Path, format: str, marked: bool) -> None:
    cloud = replace(ball_cloud(20, 1), antialiased=marked)
    write_gaussians(tmp_path / "x", cloud, format)
    assert read_gaussians(tmp_path / "x").antialiased == marked
    assert cloud.select(torch.arange(3)).antialiased == marked
    assert cloud.truncated(0).antialiased == marked
    assert cloud.transformed(torch.eye(4)).antialiased == marked
    raw = (tmp_path / "x").read_bytes()
    if format == "spz":
        assert gzip.decompress(raw)[14] == int(marked)
        write_spz(tmp_path / "y", cloud, version=4)
        assert (tmp_path / "y").read_bytes()[14] == int(marked)
        assert read_gaussians(tmp_path / "y").antialiased == marked
    else:
        assert (b"comment SplatRenderMode: mip\n" in raw) == marked


def test_pages_draw_as_the_mark_says(tmp_path: Path) -> None:
    for marked in (True, False):
        write_gaussians(tmp_path / "x.html", replace(ball_cloud(20, 0), antialiased=marked), "html")
        assert f'"antialiased": {str(marked).lower()}' in (tmp_path / "x.html").read_text(encoding="utf-8")


def test_what_other_viewers_will_draw_differently_is_told() -> None:
    cloud = ball_cloud(5, 0)
    assert looks_different(cloud, "ply") is None
    assert looks_different(cloud, "ply", 0.3) is None
    assert "0.1 square pixels" in str(looks_different(cloud, "ply", 0.1))
    assert looks_different(cloud, "html", 0.1) is None, "the page says how it was trained"
    marked = replace(cloud, antialiased=True)
    assert [name for name in SPLAT_FORMATS if looks_different(marked, name, 0.3)] == ["splat", "glb"]


@pytest.mark.parametrize("format", ["ply", "compressed-ply", "spz"])
def test_pictures_of_a_real_scene_survive(tmp_path: Path, data_dir: Path, format: str) -> None:
    cloud = read_gaussians(data_dir / "splats" / "playbot_3_0")
    write_gaussians(tmp_path / "x", cloud, format)
    found = psnr(picture(read_gaussians(tmp_path / "x")), picture(cloud))
    assert float(found) >= (50 if format == "ply" else 35)


def test_two_programs_wrote_the_same_scene(data_dir: Path) -> None:
    packed = read_gaussians(data_dir / "splats" / "biker.compressed.ply")
    spz = read_gaussians(data_dir / "splats" / "biker.spz")
    assert len(packed) == len(spz) == 152_746
    for angle in (0.5, 2.6, 4.7):
        assert float(psnr(picture(packed, angle=angle), picture(spz, angle=angle))) >= 35
    # As sets: each has its like in the other, within half a step of both. SPZ's steps are 1/4096, 1/16 and 1/255.
    index = nearest(spz, packed.means)
    distance = (spz.means[index] - packed.means).norm(dim=1)
    assert float(distance.max()) < 3e-4
    alone = distance < 0.2 * (spz.means[nearest_but_one(spz.means, packed.means)] - packed.means).norm(dim=1)
    assert int(alone.sum()) > 100_000
    a, b = packed.select(alone), spz.select(index[alone])
    assert float((a.log_scales - b.log_scales).abs().quantile(0.99)) < 0.5 / 16 + 0.005
    assert float((a.base_colors - b.base_colors).abs().max()) < 0.01
    assert float((a.logit_opacities.sigmoid() - b.logit_opacities.sigmoid()).abs().max()) < 1.01 / 255
    assert float(same_turn(a.quats, b.quats).quantile(0.99)) < 0.01


def nearest_but_one(means: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    from scipy.spatial import cKDTree

    return torch.from_numpy(cKDTree(means.numpy()).query(points.numpy(), k=2)[1][:, 1])


def test_the_four_gaussians_of_the_fixtures_agree(data_dir: Path) -> None:
    fixtures = data_dir / "splats" / "fixtures"
    a, b = read_gaussians(fixtures / "minimal.splat"), read_gaussians(fixtures / "minimal-v3.spz")
    assert a.means.tolist() == b.means.tolist()
    torch.testing.assert_close(a.base_colors, b.base_colors, atol=0.005, rtol=0)
    torch.testing.assert_close(a.log_scales, b.log_scales, atol=0.5 / 16, rtol=0)
    assert torch.equal(a.logit_opacities, b.logit_opacities)


def test_endings() -> None:
    named = {"a.ply": "ply", "a.compressed.ply": "compressed-ply", "A.SPZ": "spz", "b/c.splat": "splat", "x.glb": "glb"}
    assert {name: splat_format_of(name) for name in named} == named
    assert splat_format_of("a.obj") is None
    assert splat_format_of("ply") is None


def test_what_is_a_file_and_what_a_run(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"1")
    (tmp_path / "sog").mkdir()
    (tmp_path / "sog" / "meta.json").write_text("{}")
    assert [is_splat_path(tmp_path / name) for name in ("x.bin", "sog", ".", "absent")] == [True, True, False, False]


@pytest.mark.parametrize("content", [b"", b"glTF\x02\0\0\0", b"\x89PNG\r\n\x1a\n", b"x" * 64, b"\0" * 32])
def test_foreign_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.dat").write_bytes(content)
    with pytest.raises(StudioError, match=r"x\.dat: is no splat file that is known .*Known are \.ply"):
        read_gaussians(tmp_path / "x.dat")


def test_values_that_are_not_numbers_are_not_written(tmp_path: Path) -> None:
    cloud = ball_cloud(5)
    spoilt = replace(cloud, means=torch.full((5, 3), torch.nan))
    for format in SPLAT_FORMATS:
        with pytest.raises(StudioError, match=r"x: the field 'means' is not a finite number for 5 of 5"):
            write_gaussians(tmp_path / "x", spoilt, format)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="format must be one of ply"):
        write_gaussians(tmp_path / "x", cloud, "obj")
