"""SPZ: bytes by hand in every version, files that others wrote, axes, and headers that lie."""

from __future__ import annotations

import gzip
import math
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import zstandard
from gaussian_clouds import ball_cloud, nearest, same_turn

from studio.cameras.poses import quaternion_to_matrix
from studio.errors import StudioError
from studio.export.gaussians import GaussianCloud
from studio.export.spz import half_turned, read_spz, write_spz

POSITION = b"\x00\x10\x00" + b"\x00\xf8\xff" + b"\x01\x00\x80"
"""4096, -2048 and -8388607 in 24 bits."""
OPACITY, COLOR, SCALE = b"\x33", b"\x00\x80\xff", b"\x00\x10\xff"


def header(version: int, count: int = 1, degree: int = 0, fraction: int = 12, flags: int = 0) -> bytes:
    return struct.pack("<4sIIBBBB", b"NGSP", version, count, degree, fraction, flags, 0)


def legacy(path: Path, head: bytes, *streams: bytes) -> Path:
    path.write_bytes(gzip.compress(head + b"".join(streams)))
    return path


def version_4(
    path: Path,
    streams: list[bytes],
    *,
    count: int = 1,
    degree: int = 0,
    records: bytes = b"",
    sizes: list[int] | None = None,
) -> Path:
    frames = [zstandard.compress(stream) for stream in streams]
    head = header(4, count, degree, 12, 2 if records else 0)[:15] + bytes([len(streams)])
    head += struct.pack("<I12x", 32 + len(records)) + records
    claimed = sizes or [len(stream) for stream in streams]
    table = b"".join(struct.pack("<QQ", len(frame), size) for frame, size in zip(frames, claimed, strict=True))
    path.write_bytes(head + table + b"".join(frames))
    return path


def smallest_three(largest: int, *parts: int) -> bytes:
    """Parts are steps of sqrt(1/2) / 511."""
    packed = largest
    for part in parts:
        packed = packed << 10 | (0x200 if part < 0 else 0) | abs(part)
    return struct.pack("<I", packed)


def test_bytes_by_hand_in_every_version(tmp_path: Path) -> None:
    head = POSITION, OPACITY, COLOR, SCALE
    # The largest of x, y, z, w is w.
    rotation = smallest_three(3, 511, -100, 0)
    clouds = [
        read_spz(legacy(tmp_path / "2.spz", header(2), *head, b"\xff\x80\x00")),
        read_spz(legacy(tmp_path / "3.spz", header(3), *head, rotation)),
        read_spz(version_4(tmp_path / "4.spz", [*head, rotation])),
    ]
    for cloud in clouds:
        # Right-up-back becomes right-down-front.
        assert cloud.means.tolist()[0] == pytest.approx([1.0, 0.5, 8388607 / 4096])
        assert float(cloud.logit_opacities.sigmoid()) == pytest.approx(0x33 / 255)
        assert cloud.sh[0, 0].tolist() == pytest.approx([-0.5 / 0.15, (128 / 255 - 0.5) / 0.15, 0.5 / 0.15])
        assert cloud.log_scales.tolist()[0] == pytest.approx([-10, -9, 255 / 16 - 10])
    x, y = math.sqrt(0.5), -math.sqrt(0.5) * 100 / 511
    w = math.sqrt(1 - x * x - y * y)
    for cloud in clouds[1:]:
        stored = half_turned(cloud).quats
        assert float(same_turn(stored, torch.tensor([[w, x, y, 0.0]]))) < 1e-6
    # 255, 128 and 0 stand for 1, almost 0, and -1: nothing is left for w.
    stored = half_turned(clouds[0]).quats[0].tolist()
    assert stored == pytest.approx([0, 1, 1 / 255, -1], abs=1e-6)


def test_coefficients_have_the_channel_fastest(tmp_path: Path) -> None:
    cloud = read_spz(
        legacy(
            tmp_path / "x.spz",
            header(3, degree=1),
            *(POSITION, OPACITY, COLOR, SCALE, smallest_three(3, 0, 0, 0)),
            bytes([0, 64, 128, 192, 255, 129, 128, 128, 0]),
        )
    )
    stored = half_turned(cloud).sh[0, 1:]
    expected = [[-1, -0.5, 0], [0.5, 127 / 128, 1 / 128], [0, 0, -1]]
    torch.testing.assert_close(stored, torch.tensor(expected))
    # The functions are (-y, z, -x): turning y and z over changes the signs of the first two.
    torch.testing.assert_close(cloud.sh[0, 1:], torch.tensor([[-1.0], [-1], [1]]) * torch.tensor(expected))


def covariance(cloud: GaussianCloud) -> torch.Tensor:
    axes = quaternion_to_matrix(cloud.quats) * cloud.log_scales.exp()[:, None, :]
    return axes @ axes.transpose(1, 2)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_the_half_turn_is_the_rotation_that_it_says(degree: int) -> None:
    cloud = ball_cloud(20, degree)
    turned = cloud.transformed(torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])))
    quick = half_turned(cloud)
    for name in ("means", "log_scales", "sh"):
        torch.testing.assert_close(getattr(quick, name), getattr(turned, name), atol=1e-6, rtol=0)
    torch.testing.assert_close(covariance(quick), covariance(turned), atol=1e-6, rtol=1e-4)
    back = half_turned(quick)
    assert torch.equal(back.means, cloud.means)
    assert torch.equal(back.sh, cloud.sh)
    assert float(same_turn(back.quats, cloud.quats).max()) < 1e-7


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("degree", [0, 3, 4])
def test_round_trip_within_quantisation(tmp_path: Path, version: int, degree: int) -> None:
    cloud = ball_cloud(500, degree, seed=version)
    write_spz(tmp_path / "x.spz", cloud, version=version)  # type: ignore[arg-type]
    back = read_spz(tmp_path / "x.spz")
    order = nearest(cloud, back.means)
    assert len(order.unique()) == 500
    cloud = cloud.select(order)
    assert float((back.means - cloud.means).abs().max()) <= 0.5 / 4096 + 1e-7
    assert float((back.log_scales - cloud.log_scales).abs().max()) <= 0.5 / 16 + 1e-6
    assert float((back.logit_opacities.sigmoid() - cloud.logit_opacities.sigmoid()).abs().max()) <= 0.5 / 255 + 1e-6
    assert float((back.sh[:, 0] - cloud.sh[:, 0]).abs().max()) <= 0.5 / (255 * 0.15) + 1e-5
    if degree:
        assert float((back.sh[:, 1:] - cloud.sh[:, 1:]).abs().max()) <= 0.5 / 128 + 1e-6
    angles = same_turn(back.quats, cloud.quats)
    if version == 2:
        # Eight bits of x, y, z; w is blunt where it is small.
        assert float(angles.median()) < 0.02
        assert float(angles.max()) < 0.3
    else:
        assert float(angles.max()) < 2 * 2 * math.sqrt(3) * math.sqrt(0.5) / 511 / 2


def test_small_scenes_get_finer_positions(tmp_path: Path) -> None:
    cloud = ball_cloud(200, 0)
    small = cloud.transformed(torch.diag(torch.tensor([0.01, 0.01, 0.01, 1.0])))
    write_spz(tmp_path / "x.spz", small)
    back = read_spz(tmp_path / "x.spz")
    # A quarter of the smaller Gaussians' size of 0.05 / 100 is 2^-13 at most.
    assert float((back.means - small.means[nearest(small, back.means)]).abs().max()) <= 2.0**-14 + 1e-9


def test_large_scenes_get_coarser_positions_up_to_a_limit(tmp_path: Path) -> None:
    means = torch.tensor([[8e6, 0.0, 3.0], [-8e6, 5.0, 1.0]])
    cloud = replace(ball_cloud(2, 0), means=means)
    write_spz(tmp_path / "x.spz", cloud)
    back = read_spz(tmp_path / "x.spz")
    assert sorted(back.means.tolist()) == sorted(means.tolist())
    with pytest.raises(StudioError, match=r"x\.spz: a Gaussian lies 9,000,000 from the origin"):
        write_spz(tmp_path / "x.spz", replace(cloud, means=means + 1e6))
    write_spz(tmp_path / "x.spz", cloud.select(torch.zeros(0, dtype=torch.int64)))
    assert len(read_spz(tmp_path / "x.spz")) == 0


def test_fewer_bits_of_coefficients_compress_better_and_keep_zero(tmp_path: Path) -> None:
    cloud = ball_cloud(400, 3)
    cloud.sh[:, 5] = 0
    sizes = []
    for bits in (8, 5, 2):
        write_spz(tmp_path / "x.spz", cloud, sh_bits=bits)
        sizes.append((tmp_path / "x.spz").stat().st_size)
        back = read_spz(tmp_path / "x.spz")
        error = (back.sh[:, 1:] - cloud.sh[nearest(cloud, back.means), 1:]).abs().max()
        assert float(error) <= 2.0 ** (-bits) + 0.5 / 128 + 1e-6
        assert not back.sh[:, 5].any()
    assert sizes[0] > 1.2 * sizes[1] > 1.4 * sizes[2]


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_spz(tmp_path / name, ball_cloud(100, 1))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_files_that_others_wrote(data_dir: Path) -> None:
    fixtures = data_dir / "splats" / "fixtures"
    for name in ("minimal-v2.spz", "minimal-v3.spz"):
        cloud = read_spz(fixtures / name)
        assert (len(cloud), cloud.sh_degree) == (4, 0)
        torch.testing.assert_close(cloud.log_scales, torch.full((4, 3), -2.3125))
        torch.testing.assert_close(cloud.logit_opacities.sigmoid(), torch.full((4,), 230 / 255))
    # The same Gaussians stand in minimal.splat, in axes right-down-front.
    assert cloud.means.tolist() == [[-1, 0, -1], [0, 0, -1], [-1, 0, 0], [0, 0, 0]]
    expected = torch.tensor([[85, 85, 128], [170, 85, 128], [85, 170, 128], [170, 170, 128]]) / 255
    torch.testing.assert_close(cloud.base_colors, expected, atol=0.005, rtol=0)
    biker = read_spz(data_dir / "splats" / "biker.spz")
    assert (len(biker), biker.sh_degree) == (152_746, 0)


def test_records_of_other_axes_are_followed(tmp_path: Path) -> None:
    streams = [POSITION, OPACITY, COLOR, SCALE, smallest_three(3, 0, 0, 0)]
    other = struct.pack("<II3s", 0x12340001, 3, b"abc")

    def read(axes: int) -> list[float]:
        records = other + struct.pack("<III", 0xADBE0003, 4, axes)
        return read_spz(version_4(tmp_path / "x.spz", streams, records=records)).means.tolist()[0]

    x, y, z = 1.0, -0.5, -8388607 / 4096
    assert read(0) == read(4) == pytest.approx([x, -y, -z])
    assert read(6) == pytest.approx([x, y, z])
    # Right-front-up: z is up, y points to the front.
    assert read(12) == pytest.approx([x, -z, y])
    with pytest.raises(StudioError, match="lies in the axes RDB, which mirror"):
        read(2)
    with pytest.raises(StudioError, match="'coordinate system' is 17; SPZ knows 0 to 16"):
        read(17)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (header(3, count=2**32 - 1), "'numPoints' is 4,294,967,295, which .* bytes cannot hold"),
        (header(3, count=10), "truncated: 10 Gaussians have 200 bytes, there are 20"),
        (header(3, degree=5), "'shDegree' is 5"),
        (header(3, fraction=24), "'fractionalBits' is 24"),
        (header(1), "is SPZ of version 1; versions 2, 3 and 4 are read"),
        (header(7), "is SPZ of version 7"),
        (b"NOPE" + header(3)[4:], "is compressed, but no SPZ"),
        (header(3)[:7], "is compressed, but no SPZ"),
    ],
)
def test_headers_that_lie(tmp_path: Path, head: bytes, words: str) -> None:
    body = b"" if len(head) < 16 else POSITION + OPACITY + COLOR + SCALE + smallest_three(3, 0, 0, 0)
    with pytest.raises(StudioError, match=rf"x\.spz: .*{words}"):
        read_spz(legacy(tmp_path / "x.spz", head, body))


def test_damage_of_the_old_container(tmp_path: Path) -> None:
    write_spz(tmp_path / "x.spz", ball_cloud(50, 1))
    whole = (tmp_path / "x.spz").read_bytes()
    for cut in (1, 4, 30, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.spz").write_bytes(whole[:cut])
        with pytest.raises(StudioError, match=r"x\.spz"):
            read_spz(tmp_path / "x.spz")
    (tmp_path / "x.spz").write_bytes(whole[:-8] + b"\0\0\0\0" + whole[-4:])
    with pytest.raises(StudioError, match=r"is damaged .*incorrect data check"):
        read_spz(tmp_path / "x.spz")
    (tmp_path / "x.spz").write_bytes(gzip.compress(gzip.decompress(whole) + bytes(1 << 22)))
    with pytest.raises(StudioError, match="does not end behind its last Gaussian"):
        read_spz(tmp_path / "x.spz")


def test_damage_of_version_4(tmp_path: Path) -> None:
    streams = [POSITION, OPACITY, COLOR, SCALE, smallest_three(3, 0, 0, 0)]
    path = tmp_path / "x.spz"

    def fails(words: str) -> None:
        with pytest.raises(StudioError, match=rf"x\.spz: .*{words}"):
            read_spz(path)

    version_4(path, streams, count=2**32 - 1)
    fails("'numPoints' is 4,294,967,295")
    version_4(path, streams, count=2)
    fails("'size of stream 0' is 9; 2 Gaussians have 18")
    version_4(path, streams[:4])
    fails("'numStreams' is 4; degree 0 has 5")
    version_4(path, [POSITION * 2, *streams[1:]], sizes=[9, 1, 3, 3, 4])
    fails("'stream 0' has not 9 bytes")
    whole = version_4(path, streams).read_bytes()
    path.write_bytes(whole[:-3])
    fails("truncated in stream 4")
    path.write_bytes(whole[:20])
    fails("header is truncated")
    path.write_bytes(whole[:16] + struct.pack("<I", 10**9) + whole[20:])
    fails("'tocByteOffset' is 1000000000, outside of the file")
    start = whole.index(b"\x28\xb5\x2f\xfd")
    path.write_bytes(whole[:start] + b"\0" * 4 + whole[start + 4 :])
    fails("stream 0 is damaged")
    path.write_bytes(b"NGSP" + b"\x03\0\0\0" + whole[8:])
    fails("is SPZ of version 3; versions")
    path.write_bytes(b"else" * 20)
    fails("is not an SPZ file .it starts with b'else'")


def test_a_lie_is_told_before_memory_is_taken(tmp_path: Path) -> None:
    bomb = legacy(tmp_path / "bomb.spz", header(3, count=2**31), bytes(1 << 24))
    tracemalloc.start()
    try:
        with pytest.raises(StudioError):
            read_spz(bomb)
        with pytest.raises(StudioError):
            read_spz(legacy(tmp_path / "long.spz", header(3, count=1), bytes(1 << 26)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The test itself makes 64 MiB.
    assert peak < 200 << 20


def test_wrong_arguments_are_the_programmers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="version must be 2, 3 or 4"):
        write_spz(tmp_path / "x", ball_cloud(2), version=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sh_bits"):
        write_spz(tmp_path / "x", ball_cloud(2), sh_bits=9)
