"""studio export of splat files and of runs of Gaussians: formats, what is left out on the way, and bad requests."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from gaussian_clouds import ball_cloud, nearest

from studio.export.splat_formats import HasGaussians, read_gaussians, write_gaussians

FORMATS = ["ply", "compressed-ply", "splat", "spz", "glb", "html"]


@pytest.fixture
def ply(tmp_path: Path) -> Path:
    write_gaussians(tmp_path / "ball.ply", ball_cloud(400), "ply")
    return tmp_path / "ball.ply"


@pytest.fixture
def cloud_run(ball_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a stranger's plugin that is made of Gaussians, in a scene of half the input's size."""
    from ball_field import BallField

    monkeypatch.setattr(BallField, "cloud", lambda self: ball_cloud(400), raising=False)
    return ball_run


def test_a_file_becomes_every_format(studio: Any, ply: Path) -> None:
    cloud = read_gaussians(ply)
    for format in FORMATS[1:]:
        done = studio("export", ply, "--format", format)
        assert done.code == 0, done.err
        target = Path(done.out.strip())
        assert target.name == {"compressed-ply": "ball.compressed.ply"}.get(format, f"ball.{format}")
        assert "400 Gaussians of degree 3" in done.err
    for name in ("ball.compressed.ply", "ball.spz", "ball.splat"):
        # And back, in the frame that they came from.
        assert studio("export", name, "--format", "ply", "--output", "back.ply").code == 0
        back = read_gaussians("back.ply")
        torch.testing.assert_close(back.means.mean(dim=0), cloud.means.mean(dim=0), atol=1e-3, rtol=0)
    assert studio("export", "ball.spz", "--output", "deep/x.compressed.ply").out == "deep/x.compressed.ply\n"
    assert (
        (Path("deep/x.compressed.ply")).read_bytes().startswith(b"ply\nformat binary_little_endian 1.0\nelement chunk")
    )
    listed = studio("export", ply, "--format", "list").out
    assert [line.split()[0] for line in listed.splitlines()] == FORMATS


def test_a_sog_scene_is_converted(studio: Any, data_dir: Path) -> None:
    folder = data_dir / "splats" / "playbot_3_0"
    done = studio("export", folder, "--output", "bot.spz", "--max-gaussians", 2000, "--sh-degree", 1)
    assert done.code == 0, done.err
    assert "2,000 of 31,000 Gaussians of degree 1" in done.err
    assert len(read_gaussians("bot.spz")) == 2000


def test_operations_on_the_way(studio: Any, ply: Path) -> None:
    crop = ("--crop", -0.4, -2, -2, 2, 2, 2)
    done = studio("export", ply, *crop, "--min-opacity", 0.5, "--sh-degree", 0, "--output", "less.ply")
    assert done.code == 0, done.err
    whole, less = read_gaussians(ply), read_gaussians("less.ply")
    kept = (whole.means[:, 0] >= -0.4) & (whole.means.abs() <= 2).all(dim=1) & (whole.logit_opacities >= 0)
    assert torch.equal(less.means, whole.means[kept])
    assert less.sh_degree == 0
    assert studio("export", ply, "--max-gaussians", 7, "--output", "few.ply").code == 0
    assert len(read_gaussians("few.ply")) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (),
            "the format to write is not named. A splat file can become ply, compressed-ply, splat, spz, glb, html",
        ),
        (("--format", "mesh"), "--format: 'mesh' is no splat format."),
        (("--output", "x.obj"), "the format to write is not named"),
        (("--format", "ply"), "ball.ply: is there already. Name the file to write with --output."),
        (("--format", "ply", "--output", "ball.ply"), "ball.ply: is the file to convert."),
        (("--format", "spz", "--crop", 1, 2, 3), "--crop: takes 6 numbers, got 3."),
        (("--format", "spz", "--crop", 5, 5, 5, 6, 6, 6), "--crop: none of 400 Gaussians remains."),
        (("--format", "spz", "--min-opacity", 2), "--min-opacity: 2 is not between 0 and 1."),
        (("--format", "spz", "--max-gaussians", 0), "0 must be 1 or more"),
    ],
)
def test_bad_requests_for_a_file(studio: Any, ply: Path, arguments: tuple[Any, ...], message: str) -> None:
    before = ply.read_bytes()
    done = studio("export", ply, *arguments)
    assert done.code == 2
    assert message in done.err
    assert ply.read_bytes() == before
    assert list(ply.parent.iterdir()) == [ply]


def test_files_that_are_no_splats(studio: Any, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    done = studio("export", "x.txt", "--format", "spz")
    assert done.code == 2
    assert "x.txt: is no splat file that is known" in done.err


def test_a_run_of_gaussians_lies_in_the_frame_of_the_input(studio: Any, cloud_run: Path) -> None:
    listed = studio("export", cloud_run, "--format", "list").out
    assert [line.split()[0] for line in listed.splitlines()] == ["txt", "pointcloud", *FORMATS, "mesh"]
    scene = ball_cloud(400)
    for format in FORMATS[:-2]:
        done = studio("export", cloud_run, "--format", format)
        assert done.code == 0, done.err
        target = Path(done.out.strip())
        ending = "compressed.ply" if format == "compressed-ply" else format
        assert target.resolve() == cloud_run / "exports" / f"ring.{ending}"
        back = read_gaussians(target)
        index = nearest(scene, back.means / 2)
        # Twice as large as in the scene, around the same origin.
        torch.testing.assert_close(back.means, 2 * scene.means[index], atol=4e-3, rtol=0)
        torch.testing.assert_close(back.log_scales, math.log(2) + scene.log_scales[index], atol=0.04, rtol=0)
    done = studio("export", cloud_run, "--crop", 0, -9, -9, 9, 9, 9, "--max-gaussians", 20, "--output", "half.spz")
    assert done.code == 0, done.err
    half = read_gaussians("half.spz")
    assert len(half) == 20
    assert float(half.means[:, 0].min()) > -0.01
    assert studio("export", cloud_run, "--output", "x.glb").code == 0
    assert b"KHR_gaussian_splatting" in Path("x.glb").read_bytes()
    assert studio("export", cloud_run, "--output", "x.compressed.ply").code == 0
    assert b"packed_position" in Path("x.compressed.ply").read_bytes()


def test_a_page_opens_where_the_photos_look_from(studio: Any, cloud_run: Path) -> None:
    done = studio("export", cloud_run, "--output", "x.html", "--crop", 0, -9, -9, 9, 9, 9, "--sh-degree", 1)
    assert done.code == 0, done.err
    assert "Gaussians of degree 1" in done.err
    text = Path("x.html").read_text(encoding="utf-8")
    facts = json.loads(text.partition('id="facts">')[2].partition("</script>")[0])
    data = base64.b64decode(text.partition('id="data">')[2].partition("</script>")[0])
    assert facts["degree"] == 1
    whole = ball_cloud(400)
    origin = 2 * whole.means[whole.means[:, 0] >= 0].median(dim=0).values
    # The photos stand on a ring of radius 2 around the origin of the input's frame, and look at it.
    eye = torch.tensor(facts["eye"]) + origin
    assert 1.5 < float(eye.norm()) < 2.5
    forward = torch.tensor(facts["axes"][6:])
    torch.testing.assert_close(forward, -eye / eye.norm(), atol=0.05, rtol=0)
    assert facts["near"] == pytest.approx(0.02)
    assert (facts["size"], facts["eps2d"]) == ([24, 16], 0.3)
    assert len(data) > 1000
    assert "<title>ring: ball</title>" in text


def test_the_splat_plugin_is_made_of_gaussians() -> None:
    from studio.plugin import SceneInfo
    from studio_splat.config import SplatConfig
    from studio_splat.field import SplatField

    field = SplatField(SplatConfig(sh_degree=2), SceneInfo())
    assert isinstance(field, HasGaussians)
    assert (len(field.cloud()), field.cloud().sh_degree) == (0, 2)


def test_options_of_gaussians_are_refused_elsewhere(studio: Any, cloud_run: Path) -> None:
    done = studio("export", cloud_run, "--max-gaussians", 5)
    assert done.code == 2
    assert "--max-gaussians: is of Gaussians, 'txt' has none." in done.err
    done = studio("export", cloud_run, "--format", "mesh", "--sh-degree", 0)
    assert "--sh-degree: is of Gaussians, 'mesh' has none." in done.err
