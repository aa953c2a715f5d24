"""Reading SOG (spatially ordered Gaussians): quantised values as the pixels of lossless pictures, with a `meta.json`.

A scene is a folder, or a zip of it that ends in .sog. In version 2 scales, base colours and coefficients are indices
into tables of 256 values; in version 1, which names no version, they are 8-bit steps of a range. Coefficients above
degree 0 are shared: each Gaussian has the number of one of up to 65,536 sets, 64 of which fill a line of a picture.
https://developer.playcanvas.com/user-manual/gaussian-splatting/formats/sog describes version 2.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from studio.errors import StudioError
from studio.export.gaussians import GaussianCloud
from studio.export.splat_packing import check_memory, checked, join_largest, logits_of_bytes, read_whole
from studio.reading.archives import Archive
from studio.reading.files import is_folder, read_bytes
from studio.reading.json_text import parse_json
from studio.reading.limits import LARGEST_LENGTH
from studio.reading.pictures import opened_picture

_META = "meta.json"
_LARGEST_META = 16 << 20
_PLAIN_NAME = re.compile(r"[^/\\:\0]+")
_SETS_IN_A_LINE = 64
_FIRST_QUAT_TAG = 252
"""The alpha of a quaternion's pixel is this plus the position of its largest component."""
_COEFFICIENTS = (0, 3, 8, 15)
"""Above degree 0, by degree."""
_ROOM = 1 << 20
"""Pixels that a picture may have in any case; beyond, at most four times as many as are needed."""


class _Files(Protocol):
    """A folder or a zip."""

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a file; raises StudioError if it is missing, leads elsewhere or has more bytes than `most`."""


def read_sog(path: str | os.PathLike[str]) -> GaussianCloud:
    """Read SOG of version 1 or 2.

    Fully transparent and fully opaque Gaussians of version 2 get the opacity half a step from the end, whose logit is
    finite.

    Args:
        path: The folder, its `meta.json`, or a zip of them.

    Raises:
        StudioError: Unreadable, another format or version, a field of `meta.json` that is missing or impossible, a
            picture that is missing, damaged or too small, or file names that lead out of the folder.
    """
    path = Path(path)
    if is_folder(path):
        return _decode(path / _META, _Folder(path), _META)
    if read_whole(path, 2) != b"PK":
        return _decode(path, _Folder(path.parent), path.name)
    with Archive(path) as archive:
        return _decode(path / _META, _Zip(path, archive), _META)


def _decode(where: Path, files: _Files, name: str) -> GaussianCloud:
    meta = _Meta(where, files.read(name, _LARGEST_META))
    version = meta.version
    count = meta.whole("count") if version == 2 else meta.whole("means", "shape", 0)
    check_memory(where, count, 3)
    pictures = _Pictures(files, meta, count)
    low, high = (pictures.rows("means", i)[:, :3].astype(np.float64) for i in (0, 1))
    logs = meta.within("means", (high * 256 + low) / 65535)
    with np.errstate(over="ignore"):
        means = (np.sign(logs) * np.expm1(np.abs(logs))).astype(np.float32)
    quats = pictures.rows("quats")
    tag = quats[:, 3].astype(np.int64) - _FIRST_QUAT_TAG
    rotations = join_largest(tag, (quats[:, :3] / 127.5 - 1) * math.sqrt(0.5))
    rotations[tag < 0] = (1, 0, 0, 0)
    color = pictures.rows("sh0")
    if version == 2:
        scales = meta.looked_up("scales", pictures.rows("scales")[:, :3])
        sh = meta.looked_up("sh0", color[:, :3])[:, None]
        logits = logits_of_bytes(color[:, 3])
    else:
        scales = meta.within("scales", pictures.rows("scales")[:, :3] / 255)
        base = meta.within("sh0", color / 255)
        sh, logits = base[:, None, :3], torch.from_numpy(base[:, 3].astype(np.float32))
    if meta.has("shN"):
        sh = np.concatenate([sh, _coefficients(meta, pictures)], axis=1)
    cloud = GaussianCloud(
        means=torch.from_numpy(means),
        quats=torch.from_numpy(rotations),
        log_scales=torch.from_numpy(scales.astype(np.float32)),
        logit_opacities=logits,
        sh=torch.from_numpy(sh.astype(np.float32)),
        antialiased=meta.flag("antialias"),
    )
    return checked(where, cloud)


def _coefficients(meta: _Meta, pictures: _Pictures) -> np.ndarray:
    """Coefficients (n, k, 3) above degree 0."""
    table = pictures.whole("shN", 0)
    height, width = table.shape[:2]
    if meta.version == 2:
        degree, sets = meta.whole("shN", "bands"), meta.whole("shN", "count")
        if degree >= len(_COEFFICIENTS):
            raise meta.wrong("shN.bands", f"is {degree}; SOG knows 1 to 3")
    else:
        by_width = {_SETS_IN_A_LINE * each: degree for degree, each in enumerate(_COEFFICIENTS) if each}
        if width not in by_width:
            raise meta.wrong(
                "shN.files",
                f"names a picture {width} wide; coefficients of degree 1 to 3 have {', '.join(map(str, by_width))}",
            )
        degree, sets = by_width[width], height * _SETS_IN_A_LINE
    each = _COEFFICIENTS[degree]
    if width != _SETS_IN_A_LINE * each or sets > height * _SETS_IN_A_LINE:
        raise meta.wrong(
            "shN.files",
            f"names a picture of {width} x {height}; {sets:,} sets of degree {degree} need "
            f"{_SETS_IN_A_LINE * each} x {-(-sets // _SETS_IN_A_LINE)}",
        )
    labels = pictures.rows("shN", 1)
    chosen = labels[:, 0].astype(np.int64) | labels[:, 1].astype(np.int64) << 8
    if (chosen >= sets).any():
        raise meta.wrong("shN.files", f"names a set {int(chosen.max()):,} of coefficients; there are {sets:,}")
    steps = table[..., :3].reshape(-1, each, 3)
    if meta.version == 2:
        palette = meta.looked_up("shN", steps)
    else:
        palette = meta.within("shN", steps / 255)
    return palette.astype(np.float32)[chosen]


class _Meta:
    """`meta.json`, whose fields are checked as they are asked for."""

    def __init__(self, path: Path, raw: bytes) -> None:
        self.path = path
        fields = parse_json(raw, path, fix="Name the meta.json of a SOG scene.")
        if not isinstance(fields, dict) or "means" not in fields:
            raise StudioError(f"{path}: is not of a SOG scene: it has no 'means'.", fix="Name its meta.json.")
        self._fields = fields
        self.version: int = fields.get("version", 1)
        if self.version not in (1, 2) or isinstance(self.version, (bool, float)):
            raise self.wrong("version", f"is {str(self.version)[:40]}; versions 1 and 2 are read")

    def wrong(self, field: str, what: str) -> StudioError:
        return StudioError(f"{self.path}: the field '{field}' {what}.", fix="Fetch or export the scene again.")

    def has(self, key: str) -> bool:
        return self._fields.get(key) is not None

    def flag(self, key: str) -> bool:
        """Whether a mark is set; not where it is missing."""
        value = self._fields.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, f"must be true or false, is {str(value)[:40]}")
        return value

    def _find(self, keys: tuple[str | int, ...]) -> tuple[str, Any]:
        name = ".".join(map(str, keys))
        value: Any = self._fields
        for key in keys:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                raise self.wrong(name, "is missing") from None
        return name, value

    def whole(self, *keys: str | int) -> int:
        """A whole number, at least 1."""
        name, value = self._find(keys)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.wrong(name, f"must be a whole number above zero, is {str(value)[:40]}")
        return value

    def _numbers(self, *keys: str, length: int) -> np.ndarray:
        """So many finite numbers; one number stands for all."""
        name, value = self._find(keys)
        values = value if isinstance(value, list) else [value] * length
        try:
            # Numbers, not texts that look like some.
            plain = all(type(number) in (int, float) for number in values)
            table = np.array([float(number) for number in values]) if plain else np.zeros(0)
        except OverflowError:
            table = np.zeros(0)
        if table.shape != (length,) or not (np.abs(table) <= LARGEST_LENGTH).all():
            raise self.wrong(name, f"must be {length} finite numbers of at most {LARGEST_LENGTH:g}")
        return table

    def within(self, key: str, parts: np.ndarray) -> np.ndarray:
        """Parts (..., c) in [0, 1] of the ranges that stand at `key`."""
        low, high = (self._numbers(key, end, length=parts.shape[-1]) for end in ("mins", "maxs"))
        return low * (1 - parts) + high * parts

    def looked_up(self, key: str, index: np.ndarray) -> np.ndarray:
        """Values of the table of 256 that stands at `key`."""
        _, table = self._find((key, "codebook"))
        if isinstance(table, list) and len(table) == 256 and table[0] is None:
            # Some writers left the first one out; it is below the second by the mean step.
            table[0] = 0.0
            first, last = self._numbers(key, "codebook", length=256)[[1, 255]]
            table[0] = float(first + (first - last) / 255)
        return self._numbers(key, "codebook", length=256)[index]

    def file(self, key: str, number: int) -> str:
        """The plain name of a picture."""
        name, value = self._find((key, "files", number))
        if not isinstance(value, str) or not _PLAIN_NAME.fullmatch(value) or value in (".", ".."):
            raise self.wrong(name, f"must be the plain name of a file beside it, is {str(value)[:60]!r}")
        return value


class _Pictures:
    """The pictures that `meta.json` names, as RGBA bytes."""

    def __init__(self, files: _Files, meta: _Meta, count: int) -> None:
        self._files, self._meta, self._count = files, meta, count

    def rows(self, key: str, number: int = 0) -> np.ndarray:
        """The pixels (count, 4) of the Gaussians, line by line."""
        return self._open(key, number, self._count).reshape(-1, 4)[: self._count]

    def whole(self, key: str, number: int) -> np.ndarray:
        """All pixels (height, width, 4) of a table of coefficients."""
        return self._open(key, number, 0)

    def _open(self, key: str, number: int, needed: int) -> np.ndarray:
        name = self._meta.file(key, number)
        place = self._meta.path.parent / name
        # A lossless picture is hardly larger than its pixels.
        most = max(4 * needed, _ROOM)
        raw = self._files.read(name, 8 * most)
        with opened_picture(raw, place, formats=("WEBP", "PNG"), fix="Fetch it again.") as picture:
            width, height = picture.size
            if width * height < needed:
                raise StudioError(
                    f"{place}: has {width} x {height} pixels, the scene has {needed:,} Gaussians.",
                    fix="The file is damaged or of another scene: fetch or export it again.",
                )
            if width * height > most:
                raise StudioError(
                    f"{place}: has {width} x {height} pixels, far more than the scene's {needed:,} Gaussians need.",
                    fix="The file is damaged or of another scene: fetch or export it again.",
                )
            return np.asarray(picture.convert("RGBA"))


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str, most: int) -> bytes:
        return read_bytes(self._path / name, most, fix="Check that the scene is complete.")


class _Zip:
    def __init__(self, path: Path, archive: Archive) -> None:
        self._path, self._archive = path, archive
        # Where the one scene of the archive lies; other programs pack its folder with it.
        metas = [name for name, _ in archive.entries() if name.rpartition("/")[2] == _META]
        self._folder = metas[0][: -len(_META)] if len(metas) == 1 else ""

    def read(self, name: str, most: int) -> bytes:
        try:
            return self._archive.read(self._folder + name, most)
        except KeyError:
            raise StudioError(
                f"{self._path / name}: is not in the archive.", fix="Name a .sog file, or a whole scene."
            ) from None
