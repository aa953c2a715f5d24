"""Whatever bytes a splat file has: a cloud of numbers comes out or a StudioError, in little memory."""

from __future__ import annotations

import functools
import gzip
import io
import json
import struct
import tempfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from gaussian_clouds import ball_cloud
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from studio.errors import StudioError
from studio.export.gaussians import GaussianCloud
from studio.export.splat_formats import read_gaussians, write_gaussians
from studio.export.spz import write_spz

Mutation = Callable[[bytes], bytes]

MOST_MEMORY = 96 << 20
"""Bytes at once for files below a mebibyte."""
COUNTS = [0, 1, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1]


@functools.cache
def samples() -> dict[str, bytes]:
    """A small valid file of every format."""
    cloud = ball_cloud(9, 1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        for format in ("ply", "compressed-ply", "splat", "spz"):
            write_gaussians(path, cloud, format)
            found[format] = path.read_bytes()
        for version in (2, 4):
            write_spz(path, cloud, version=version)  # type: ignore[arg-type]
            found[f"spz{version}"] = path.read_bytes()
    header, _, data = found["ply"].partition(b"end_header\n")
    rows = np.frombuffer(data, "<f4").reshape(9, -1)
    text = "\n".join(" ".join(map(str, row.tolist())) for row in rows)
    found["ascii-ply"] = header.replace(b"binary_little_endian", b"ascii") + b"end_header\n" + text.encode() + b"\n"
    listed = header.replace(b"element vertex", b"element face 2\nproperty list char int ids\nelement vertex", 1)
    found["list-ply"] = listed + b"end_header\n" + (b"\x01" + bytes(4)) * 2 + data
    return found


def sog(meta: Any, pictures: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("meta.json", json.dumps(meta) if not isinstance(meta, bytes) else meta)
        for name, data in pictures.items():
            archive.writestr(name, data)
    return stream.getvalue()


@functools.cache
def sog_parts() -> tuple[str, dict[str, bytes]]:
    """meta.json and pictures of a scene of nine Gaussians of degree 1."""

    def webp(width: int, height: int) -> bytes:
        pixels = np.random.default_rng(width).integers(0, 256, (height, width, 4), np.uint8)
        pixels[..., 3] = 253
        pixels[..., 1] = 0
        stream = io.BytesIO()
        Image.fromarray(pixels, "RGBA").save(stream, "WEBP", lossless=True, exact=True)
        return stream.getvalue()

    names = ["means_l", "means_u", "quats", "scales", "sh0", "labels"]
    pictures = {f"{name}.webp": webp(3, 3) for name in names} | {"centroids.webp": webp(192, 4)}
    book = np.linspace(-3, 3, 256).tolist()
    meta = {
        "version": 2,
        "count": 9,
        "means": {"mins": [-1, -1, -1], "maxs": [1, 1, 1], "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": book, "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": book, "files": ["sh0.webp"]},
        "shN": {"count": 256, "bands": 1, "codebook": book, "files": ["centroids.webp", "labels.webp"]},
    }
    return json.dumps(meta), pictures


def truncated(share: float) -> Mutation:
    return lambda data: data[: int(share * len(data))]


def flipped(places: list[tuple[float, int]]) -> Mutation:
    def change(data: bytes) -> bytes:
        copy = bytearray(data)
        for share, bit in places:
            if copy:
                copy[min(int(share * len(copy)), len(copy) - 1)] ^= 1 << bit
        return bytes(copy)

    return change


def number_put(offset: int, number: int) -> Mutation:
    return lambda data: data[:offset] + struct.pack("<I", number) + data[offset + 4 :]


def text_put(old: bytes, new: bytes) -> Mutation:
    return lambda data: data.replace(old, new, 1)


def followed_by(more: bytes) -> Mutation:
    return lambda data: data + more


_shares = st.floats(0, 1, exclude_max=True)
_header_shares = st.floats(0, 0.2)
_bits = st.integers(0, 7)
_words = st.sampled_from(
    [
        b"9",
        b"x",
        b"float",
        b"element vertex",
        b"property",
        b"list",
        b"packed_color",
        b"vertex",
        b"binary",
        b"end_header",
    ]
)
mutations: st.SearchStrategy[list[Mutation]] = st.lists(
    st.one_of(
        st.builds(truncated, _shares),
        st.builds(flipped, st.lists(st.tuples(_shares, _bits), min_size=1, max_size=8)),
        st.builds(flipped, st.lists(st.tuples(_header_shares, _bits), min_size=1, max_size=4)),
        st.builds(number_put, st.integers(0, 40), st.sampled_from(COUNTS) | st.integers(0, 2**32 - 1)),
        st.builds(
            text_put, _words, st.sampled_from([b"", b"-1", b"9" * 30, b"uchar", b"double", b"sh", b"\n"]) | _words
        ),
        st.builds(followed_by, st.binary(max_size=40)),
    ),
    min_size=1,
    max_size=3,
)


def apply(data: bytes, changes: list[Mutation]) -> bytes:
    return functools.reduce(lambda each, change: change(each), changes, data)


def must_survive(data: bytes, name: str = "x.splat") -> bool:
    """Read the bytes; whether a cloud came out. Anything but a StudioError fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        told = None
        tracemalloc.start()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                cloud = read_gaussians(path)
        except StudioError as error:
            told = str(error)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert peak < MOST_MEMORY
    if told is not None:
        # One line that names the file.
        assert str(path) in told
        assert "\n" not in told
        return False
    assert isinstance(cloud, GaussianCloud)
    for values in (cloud.means, cloud.quats, cloud.sh):
        assert bool(values.isfinite().all())
    assert not bool(cloud.log_scales.isnan().any() | cloud.logit_opacities.isnan().any())
    return True


fuzz = settings(deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def test_the_samples_are_valid() -> None:
    text, pictures = sog_parts()
    for data in (*samples().values(), sog(text.encode(), pictures)):
        assert must_survive(data)


@settings(fuzz, max_examples=300)
@given(st.sampled_from(sorted(samples())), mutations)
def test_damaged_files(format: str, changes: list[Mutation]) -> None:
    must_survive(apply(samples()[format], changes))


@settings(fuzz, max_examples=120)
@given(st.sampled_from(["spz", "spz2"]), mutations)
def test_damage_below_the_compression_of_spz(format: str, changes: list[Mutation]) -> None:
    must_survive(gzip.compress(apply(gzip.decompress(samples()[format]), changes), 1))


@settings(fuzz, max_examples=80)
@given(st.integers(0, 5), mutations, st.booleans())
def test_damage_below_the_compression_of_version_4(number: int, changes: list[Mutation], resized: bool) -> None:
    data = samples()["spz4"]
    sizes = [struct.unpack_from("<QQ", data, 32 + 16 * i) for i in range(6)]
    start, frames = 32 + 16 * 6, []
    for packed, _ in sizes:
        frames.append(data[start : start + packed])
        start += packed
    stream = apply(zstandard.decompress(frames[number]), changes)
    frames[number] = zstandard.compress(stream)
    table = [
        struct.pack("<QQ", len(frame), len(stream) if i == number and resized else size)
        for i, (frame, (_, size)) in enumerate(zip(frames, sizes, strict=True))
    ]
    must_survive(data[:32] + b"".join(table) + b"".join(frames))


_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(COUNTS)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner)
)
_paths = st.lists(st.integers(0, 7), min_size=1, max_size=3)


@settings(fuzz, max_examples=200)
@given(st.lists(st.tuples(_paths, _values), min_size=1, max_size=2))
def test_other_values_in_meta(changes: list[tuple[list[int], Any]]) -> None:
    text, pictures = sog_parts()
    meta = json.loads(text)
    for path, value in changes:
        place: Any = meta
        for depth, step in enumerate(path):
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = keys[step % len(keys)]
            if depth == len(path) - 1 or not isinstance(place[key], (dict, list)):
                place[key] = value
                break
            place = place[key]
    must_survive(sog(meta, pictures))


@settings(fuzz, max_examples=100)
@given(st.sampled_from(["meta.json", "means_u.webp", "sh0.webp", "centroids.webp", "labels.webp"]), mutations)
def test_damaged_parts_of_sog(name: str, changes: list[Mutation]) -> None:
    text, pictures = sog_parts()
    parts = {**pictures, "meta.json": text.encode()}
    parts[name] = apply(parts[name], changes)
    meta = parts.pop("meta.json")
    must_survive(sog(meta, parts))


@settings(fuzz, max_examples=100)
@given(mutations)
def test_damaged_archives(changes: list[Mutation]) -> None:
    text, pictures = sog_parts()
    must_survive(apply(sog(text.encode(), pictures), changes))


_starts = [
    b"",
    b"ply\n",
    b"ply\nformat binary_little_endian 1.0\n",
    b"NGSP\x04\0\0\0",
    b"\x1f\x8b\x08",
    b"PK\x03\x04",
    b"{",
]


@settings(fuzz, max_examples=150)
@given(st.sampled_from(_starts), st.binary(max_size=300), st.sampled_from(["x.splat", "x.ply", "meta.json"]))
def test_bytes_from_nowhere(start: bytes, rest: bytes, name: str) -> None:
    must_survive(start + rest, name)


_names = st.sampled_from(["vertex", "chunk", "sh", "face"])
_types = st.sampled_from(
    ["char", "uchar", "uint", "float", "double", "list uchar int", "list char float", "list double int"]
)
_counts = st.sampled_from([*map(str, COUNTS), "10", "9" * 40, "-3"])
_properties = st.sampled_from(["x", "y", "opacity", "packed_position", "packed_color", "min_x", "f_rest_0", "ids"])


@settings(fuzz, max_examples=200)
@given(
    st.sampled_from(["ascii", "binary_little_endian", "binary_big_endian"]),
    st.lists(st.tuples(_names, _counts, st.lists(st.tuples(_types, _properties), max_size=5)), max_size=4),
    st.binary(max_size=200),
)
def test_headers_of_ply_from_nowhere(
    order: str, elements: list[tuple[str, str, list[tuple[str, str]]]], data: bytes
) -> None:
    lines = ["ply", f"format {order} 1.0"]
    for name, count, properties in elements:
        lines += [f"element {name} {count}", *(f"property {kind} {property_}" for kind, property_ in properties)]
    must_survive("\n".join([*lines, "end_header", ""]).encode() + data)
