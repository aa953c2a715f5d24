"""Niantic's SPZ: quantised Gaussians, 16 to 20 bytes each before compression, without or with spherical harmonics.

Streams in order: centres (3 x 24-bit fixed point), opacities (8 bits), base colours (3 x 8 bits), logarithms of the
scales (3 x 8 bits), quaternions (x, y, z as 3 x 8 bits in version 2; from version 3 on the three smallest parts as sign
and 9 bits, behind 2 bits that name the largest), coefficients above degree 0 (8 bits each, colour channel fastest).
Versions 2 and 3 are one gzip stream that starts with a header of 16 bytes; version 4 is a header of 32 bytes, a table
of sizes and one Zstandard frame a stream.

SPZ lies in axes right-up-back, where splat PLY files and this package lie in right-down-front: readers and writers turn
by half a circle about x. https://github.com/nianticlabs/spz describes the format.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import os
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from studio.errors import StudioError
from studio.export.gaussians import GaussianCloud
from studio.export.splat_packing import (
    check_memory,
    checked,
    join_largest,
    logits_of_bytes,
    opacity_bytes,
    read_whole,
    spatial_order,
    split_largest,
    unit_quaternions,
)
from studio.files import atomic_write
from studio.reading.limits import DEFLATE_EXPANSION, HEADER_ROOM

SpzVersion = Literal[2, 3, 4]

_MAGIC = b"NGSP"
_HEADER = struct.Struct("<4sIIBBBB")
_HEADER_4 = struct.Struct("<4sIIBBBBI12x")
_SIZES = struct.Struct("<QQ")
_RECORD = struct.Struct("<II")
_ANTIALIASED, _EXTENSIONS = 0x1, 0x2
_AXES_RECORD = 0xADBE0003
"""Type of the extension record that names the axes a file lies in, where these are not right-up-back."""
_RIGHT_UP_BACK = 4
_AXES = (
    "", "LDB", "RDB", "LUB", "RUB", "LDF", "RDF", "LUF", "RUF", "LFD", "RFD", "LFU", "RFU", "LBD", "RBD", "LBU", "RBU",
)  # fmt: skip
_LONGEST_EXTENSION = 1 << 20
_COLOR_SCALE = 0.15
"""Base colours are stored as 0.5 + 0.15 times the constant coefficient."""
_USUAL_FRACTION = 12
_MOST_FRACTION = 23
_LARGEST_FIXED = (1 << 23) - 1
_SMALLEST_PARTS = 511
"""Steps of a quaternion's smaller parts, between 0 and sqrt(1/2)."""


@dataclass(frozen=True)
class _Header:
    path: str
    version: int
    count: int
    degree: int
    fraction: int
    flags: int

    @property
    def sizes(self) -> list[int]:
        """Bytes of each stream."""
        parts = (9, 1, 3, 3, 3 if self.version == 2 else 4, 3 * ((self.degree + 1) ** 2 - 1))
        return [self.count * part for part in parts]

    def check(self, file_size: int) -> None:
        if self.degree > 4:
            raise _damaged(self.path, "shDegree", f"is {self.degree}; SPZ knows 0 to 4")
        if self.fraction > _MOST_FRACTION:
            raise _damaged(self.path, "fractionalBits", f"is {self.fraction}; positions have 24 bits")
        if sum(self.sizes) > DEFLATE_EXPANSION * file_size:  # no scene is packed tighter by Zstandard either
            raise _damaged(
                self.path,
                "numPoints",
                f"is {self.count:,}, which {file_size:,} bytes cannot hold",
            )
        check_memory(self.path, self.count, self.degree)


def read_spz(path: str | os.PathLike[str]) -> GaussianCloud:
    """Read SPZ of version 2, 3 or 4.

    Fully transparent and fully opaque Gaussians get the opacity half a step from the end, whose logit is finite.

    Raises:
        StudioError: Unreadable, another format or version, truncated, damaged, a header that promises more than the
            file can hold, or axes that mirror.
    """
    path = os.fspath(path)
    raw = read_whole(path)
    if raw[:2] == b"\x1f\x8b":
        header, streams = _read_gzip(path, raw)
        axes = _RIGHT_UP_BACK
    elif raw[:4] == _MAGIC:
        header, streams, axes = _read_zstd(path, raw)
    else:
        raise StudioError(f"{path}: is not an SPZ file (it starts with {raw[:4]!r}).", fix="Name an .spz file.")
    cloud = checked(path, _unpack(header, streams))
    return half_turned(cloud) if axes == _RIGHT_UP_BACK else _from_axes(path, cloud, axes)


def write_spz(path: str | os.PathLike[str], cloud: GaussianCloud, *, version: SpzVersion = 3, sh_bits: int = 8) -> None:
    """Write SPZ, in an order in space that compresses well.

    Lossy: opacities, colours and logarithms of the scales have 8 bits (scales reach from 4.5e-5 to 380), coefficients
    above degree 0 steps of 1/128 in [-1, 1], and positions as many bits behind the point as the size of the Gaussians
    asks for, 12 at least where their range allows it.

    Args:
        path: Appears whole or not at all.
        cloud: Of any degree.
        version: 3, which every current reader takes; 4 is smaller and newer; 2 for old readers (coarser orientations).
        sh_bits: Bits of the coefficients above degree 0, 1 to 8: fewer compress better.

    Raises:
        StudioError: The file cannot be written, or a position is beyond 8,388,607.
    """
    if version not in (2, 3, 4) or not 1 <= sh_bits <= 8:
        raise ValueError(f"version must be 2, 3 or 4 and sh_bits 1 to 8, got {version} and {sh_bits}")
    cloud = half_turned(cloud.select(torch.from_numpy(spatial_order(cloud.means))))
    flags = _ANTIALIASED if cloud.antialiased else 0
    fraction = _fraction_bits(path, cloud)
    streams = _pack(cloud, version, fraction, sh_bits)
    if version < 4:
        head = _HEADER.pack(_MAGIC, version, len(cloud), cloud.sh_degree, fraction, flags, 0)
        data = gzip.compress(head + b"".join(streams), compresslevel=9, mtime=0)
    else:
        import zstandard

        if cloud.sh_degree == 0:
            streams = streams[:-1]
        frames = [zstandard.ZstdCompressor(level=12).compress(stream) for stream in streams]
        head = _HEADER_4.pack(
            _MAGIC, version, len(cloud), cloud.sh_degree, fraction, flags, len(streams), _HEADER_4.size
        )
        table = [_SIZES.pack(len(frame), len(stream)) for frame, stream in zip(frames, streams, strict=True)]
        data = b"".join([head, *table, *frames])
    with atomic_write(path) as file:
        file.write(data)


def half_turned(cloud: GaussianCloud) -> GaussianCloud:
    """Turned by half a circle about x: between axes right-down-front and right-up-back. Exact, and its own inverse.

    Own axes are turned along, which changes no Gaussian, so that a quaternion near no turn stays there; as other
    programs do it.
    """
    # Y(x, -y, -z): turning z over gives (-1)^(degree + order), turning y over changes the sign of the sines.
    signs = [
        (-1.0) ** (degree + order) * (-1.0 if order < 0 else 1.0)
        for degree in range(cloud.sh_degree + 1)
        for order in range(-degree, degree + 1)
    ]
    return dataclasses.replace(
        cloud,
        means=cloud.means * cloud.means.new_tensor([1.0, -1.0, -1.0]),
        quats=cloud.quats * cloud.quats.new_tensor([1.0, 1.0, -1.0, -1.0]),
        sh=cloud.sh * cloud.sh.new_tensor(signs)[:, None],
    )


# ---- containers --------------------------------------------------------------------------------------------------
def _read_gzip(path: str, raw: bytes) -> tuple[_Header, list[bytes]]:
    inflate = zlib.decompressobj(wbits=31)
    try:
        start = inflate.decompress(raw, _HEADER.size)
        if len(start) < _HEADER.size or start[:4] != _MAGIC:
            raise StudioError(f"{path}: is compressed, but no SPZ file.", fix="Name an .spz file.")
        _, version, count, degree, fraction, flags, _ = _HEADER.unpack(start)
        if version not in (2, 3):
            raise _other_version(path, version)
        header = _Header(path, version, count, degree, fraction, flags)
        header.check(len(raw))
        needed = sum(header.sizes)
        body = inflate.decompress(inflate.unconsumed_tail, needed) if needed else b""
        if len(body) < needed:
            raise StudioError(
                f"{path}: the file is truncated: {count:,} Gaussians have {needed:,} bytes, there are {len(body):,}.",
                fix="Fetch or export it again.",
            )
        # To the end, where the checksum of the whole stands.
        inflate.decompress(inflate.unconsumed_tail, _LONGEST_EXTENSION)
    except zlib.error as error:
        raise StudioError(f"{path}: is damaged ({error}).", fix="Fetch or export it again.") from error
    if not inflate.eof:
        raise StudioError(f"{path}: does not end behind its last Gaussian.", fix="Fetch or export it again.")
    ends = np.cumsum([0, *header.sizes])
    return header, [body[a:b] for a, b in itertools.pairwise(ends)]


def _read_zstd(path: str, raw: bytes) -> tuple[_Header, list[bytes], int]:
    import zstandard

    if len(raw) < _HEADER_4.size:
        raise StudioError(f"{path}: the header is truncated.", fix="Fetch or export it again.")
    _, version, count, degree, fraction, flags, stream_count, table_start = _HEADER_4.unpack_from(raw)
    if version != 4:
        raise _other_version(path, version)
    header = _Header(path, version, count, degree, fraction, flags)
    header.check(len(raw))
    sizes = header.sizes
    if stream_count not in ((5, 6) if degree == 0 else (6,)):
        raise _damaged(path, "numStreams", f"is {stream_count}; degree {degree} has {5 if degree == 0 else 6}")
    offset = table_start + stream_count * _SIZES.size
    if table_start < _HEADER_4.size or offset > len(raw):
        raise _damaged(path, "tocByteOffset", f"is {table_start}, outside of the file")
    streams = []
    for number in range(stream_count):
        packed_size, size = _SIZES.unpack_from(raw, table_start + number * _SIZES.size)
        if size != sizes[number]:
            raise _damaged(path, f"size of stream {number}", f"is {size:,}; {count:,} Gaussians have {sizes[number]:,}")
        if packed_size > len(raw) - offset:
            raise StudioError(f"{path}: the file is truncated in stream {number}.", fix="Fetch or export it again.")
        frame = raw[offset : offset + packed_size]
        offset += packed_size
        try:
            with zstandard.ZstdDecompressor(max_window_size=HEADER_ROOM).stream_reader(frame) as reader:
                # One more than there should be, so that too long a stream shows.
                stream = reader.read(size + 1)
        except zstandard.ZstdError as error:
            raise StudioError(
                f"{path}: stream {number} is damaged ({error}).", fix="Fetch or export it again."
            ) from error
        if len(stream) != size:
            raise _damaged(path, f"stream {number}", f"has not {size:,} bytes")
        streams.append(stream)
    axes = _axes_record(path, raw[_HEADER_4.size : table_start]) if flags & _EXTENSIONS else _RIGHT_UP_BACK
    return header, [*streams, b""][:6], axes


def _axes_record(path: str, records: bytes) -> int:
    """The axes that the extension records name; others are passed over."""
    offset = 0
    while offset + _RECORD.size <= len(records):
        kind, length = _RECORD.unpack_from(records, offset)
        offset += _RECORD.size
        if kind == _AXES_RECORD and length == 4 and offset + 4 <= len(records):
            (axes,) = struct.unpack_from("<I", records, offset)
            if axes >= len(_AXES):
                raise _damaged(path, "coordinate system", f"is {axes}; SPZ knows 0 to {len(_AXES) - 1}")
            return axes or _RIGHT_UP_BACK
        offset += length
    return _RIGHT_UP_BACK


def _from_axes(path: str, cloud: GaussianCloud, axes: int) -> GaussianCloud:
    """From the named axes to right-down-front."""
    matrix = torch.zeros(4, 4)
    for column, letter in enumerate(_AXES[axes]):
        row = {"R": 0, "L": 0, "D": 1, "U": 1, "F": 2, "B": 2}[letter]
        matrix[row, column] = 1.0 if letter in "RDF" else -1.0
    matrix[3, 3] = 1.0
    if torch.linalg.det(matrix) < 0:
        raise StudioError(
            f"{path}: lies in the axes {_AXES[axes]}, which mirror; they are not read here.",
            fix="Export it in right-handed axes, such as RUB.",
        )
    return cloud.transformed(matrix)


# ---- streams -----------------------------------------------------------------------------------------------------
def _unpack(header: _Header, streams: list[bytes]) -> GaussianCloud:
    n = header.count
    positions, opacities, colors, scales, rotations, coefficients = (
        np.frombuffer(stream, np.uint8) for stream in streams
    )
    parts = positions.reshape(n, 3, 3).astype(np.int32)
    # Into the upper three bytes, so that shifting back down extends the sign.
    fixed = (parts[..., 0] << 8 | parts[..., 1] << 16 | parts[..., 2] << 24) >> 8
    sh = np.concatenate(
        [
            ((colors.reshape(n, 1, 3) / 255.0 - 0.5) / _COLOR_SCALE),
            (coefficients.reshape(n, (header.degree + 1) ** 2 - 1, 3) - 128.0) / 128.0,
        ],
        axis=1,
    )
    return GaussianCloud(
        means=torch.from_numpy(fixed / 2.0**header.fraction).float(),
        quats=torch.from_numpy(_unpack_rotations(rotations.reshape(n, 3 if header.version == 2 else 4))),
        log_scales=torch.from_numpy(scales.reshape(n, 3) / 16.0 - 10.0).float(),
        logit_opacities=logits_of_bytes(opacities),
        sh=torch.from_numpy(sh).float(),
        antialiased=bool(header.flags & _ANTIALIASED),
    )


def _unpack_rotations(packed: np.ndarray) -> np.ndarray:
    if packed.shape[1] == 3:
        vector = packed.astype(np.float32) / np.float32(127.5) - 1
        return join_largest(np.zeros(len(packed), np.int64), vector)
    bits = np.ascontiguousarray(packed).view("<u4")[:, 0]
    rest = np.empty((len(bits), 3), np.float32)
    for column in range(3):
        part = bits >> (10 * (2 - column))
        magnitude = (part & 0x1FF) * np.float32(np.sqrt(0.5) / _SMALLEST_PARTS)
        rest[:, column] = np.where(part & 0x200, -magnitude, magnitude)
    return np.roll(join_largest(bits >> 30, rest), 1, axis=1)


def _pack(cloud: GaussianCloud, version: int, fraction: int, sh_bits: int) -> list[bytes]:
    means = cloud.means.detach().cpu().double().numpy()
    fixed = np.round(means * 2.0**fraction).astype("<i4")
    scales = (cloud.log_scales.detach().cpu().double().numpy() + 10) * 16
    sh = cloud.sh.detach().cpu().double().numpy()
    step = 1 << (8 - sh_bits)
    # 0 stays in the middle of a step, so that it is kept.
    coefficients = np.floor((np.round(sh[:, 1:] * 128) + 128 + step // 2) / step) * step
    return [
        fixed.view(np.uint8).reshape(-1, 3, 4)[..., :3].tobytes(),
        opacity_bytes(cloud).tobytes(),
        _bytes(sh[:, 0] * (_COLOR_SCALE * 255) + 127.5),
        _bytes(scales),
        _pack_rotations(unit_quaternions(cloud.quats), version),
        _bytes(coefficients),
    ]


def _pack_rotations(quats: np.ndarray, version: int) -> bytes:
    if version == 2:
        sign = np.where(quats[:, :1] < 0, -1.0, 1.0)
        return _bytes(quats[:, 1:] * sign * 127.5 + 127.5)
    index, rest = split_largest(np.roll(quats, -1, axis=1))
    magnitude = np.floor(np.abs(rest) / np.sqrt(0.5) * _SMALLEST_PARTS + 0.5).astype(np.uint32)
    parts = np.where(rest < 0, np.uint32(0x200), np.uint32(0)) | np.minimum(magnitude, _SMALLEST_PARTS)
    packed = index.astype(np.uint32) << 30 | parts[:, 0] << 20 | parts[:, 1] << 10 | parts[:, 2]
    return packed.astype("<u4").tobytes()


def _bytes(values: np.ndarray) -> bytes:
    return np.clip(np.round(values), 0, 255).astype(np.uint8).tobytes()


def _fraction_bits(path: str | os.PathLike[str], cloud: GaussianCloud) -> int:
    """Bits behind the point of the positions: a step is at most a quarter of the smaller Gaussians' size."""
    if len(cloud) == 0:
        return _USUAL_FRACTION
    reach = float(cloud.means.abs().max())
    if reach > _LARGEST_FIXED:
        raise StudioError(
            f"{path}: a Gaussian lies {reach:,.0f} from the origin; SPZ reaches to {_LARGEST_FIXED:,}.",
            fix="Leave it out with --crop, or choose another format.",
        )
    fits = int(np.floor(np.log2(_LARGEST_FIXED / max(reach, 1.0))))
    # By rank: torch.quantile refuses more than 16 million values.
    size = float(cloud.log_scales.double().mean(dim=1).kthvalue(1 + len(cloud) // 10).values)
    wanted = int(np.ceil(2 - size / np.log(2))) if np.isfinite(size) else _USUAL_FRACTION
    return max(min(max(wanted, _USUAL_FRACTION), fits, _MOST_FRACTION), 0)


def _damaged(path: str, field: str, what: str) -> StudioError:
    return StudioError(f"{path}: the field '{field}' {what}.", fix="The file is damaged: fetch or export it again.")


def _other_version(path: str, version: int) -> StudioError:
    return StudioError(
        f"{path}: is SPZ of version {version}; versions 2, 3 and 4 are read.",
        fix="Export it again with a current program.",
    )
