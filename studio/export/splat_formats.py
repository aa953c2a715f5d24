"""Every splat format by its name: which there are, and reading and writing by what a file is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from studio.errors import StudioError
from studio.export.compressed_ply import is_compressed_ply, read_compressed_ply, write_compressed_ply
from studio.export.gaussian_glb import write_gaussian_glb
from studio.export.gaussian_ply import read_gaussian_ply, write_gaussian_ply
from studio.export.gaussians import GaussianCloud
from studio.export.sog import read_sog
from studio.export.splat_file import read_splat, write_splat
from studio.export.splat_packing import checked, read_whole
from studio.export.splat_page import write_splat_page
from studio.export.spz import read_spz, write_spz
from studio.reading.files import is_file, is_folder
from studio.reading.ply import read_ply_header

SPLAT_FORMATS = {
    "ply": "Gaussian splats in Inria's PLY layout, for every splat viewer and editor; lossless",
    "compressed-ply": "SuperSplat's compressed PLY, about 16 bytes a Gaussian",
    "splat": "the 32-byte format of web viewers, without view-dependent colour",
    "spz": "Niantic's SPZ, the smallest",
    "glb": "binary glTF with KHR_gaussian_splatting; lossless",
    "html": "one web page that shows them in any browser, offline",
}
"""Formats that Gaussians can be written in, with one line of help each."""

SPLAT_ENDINGS = {"compressed-ply": "compressed.ply"}
"""File endings that differ from the format's name."""

VIEWERS_EPS2D = 0.3
"""Dilation of Gaussians on screen in other programs, pixels squared (Kerbl 2023)."""

_CARRY_THE_MARK = ("ply", "compressed-ply", "spz", "html")
"""Formats that say of anti-aliased Gaussians that they are."""

_WRITERS: dict[str, Callable[[Path, GaussianCloud], None]] = {
    "ply": write_gaussian_ply,
    "compressed-ply": write_compressed_ply,
    "splat": write_splat,
    "spz": write_spz,
    "glb": write_gaussian_glb,
    "html": write_splat_page,
}


@runtime_checkable
class HasGaussians(Protocol):
    """A Field that is a set of Gaussians: `studio export` offers it every splat format."""

    def cloud(self) -> GaussianCloud:
        """All Gaussians in the scene's frame, on the CPU."""
        ...


def read_gaussians(path: str | os.PathLike[str]) -> GaussianCloud:
    """Read a splat file of any format: .ply plain or compressed, .splat, .spz, SOG as folder, meta.json or .sog.

    The format is told by the content, not by the name, except for .splat, which has nothing to tell it by.

    Raises:
        StudioError: Unreadable, of no known format, truncated or damaged; names the file and the field.
    """
    path = Path(path)
    if is_folder(path):
        return read_sog(path)
    start = read_whole(path, 16)
    if start.startswith(b"ply"):
        return read_compressed_ply(path) if is_compressed_ply(read_ply_header(path)) else read_gaussian_ply(path)
    if start.startswith((b"\x1f\x8b", b"NGSP")):
        return read_spz(path)
    if start.startswith(b"PK") or start.lstrip().startswith(b"{"):
        return read_sog(path)
    if path.suffix.lower() == ".splat":
        return read_splat(path)
    raise StudioError(
        f"{path}: is no splat file that is known (it starts with {start[:4]!r}).",
        fix="Known are .ply (plain and compressed), .spz, .splat and SOG (.sog, meta.json or its folder).",
    )


def write_gaussians(path: str | os.PathLike[str], cloud: GaussianCloud, format: str) -> None:
    """Write a cloud in one of `SPLAT_FORMATS`.

    Raises:
        StudioError: The file cannot be written, values are not numbers, or the format cannot hold them.
        ValueError: No such format.
    """
    if format not in _WRITERS:
        raise ValueError(f"format must be one of {', '.join(_WRITERS)}, got {format!r}")
    _WRITERS[format](Path(path), checked(path, cloud))


def looks_different(cloud: GaussianCloud, format: str, eps2d: float | None = None) -> str | None:
    """Why a file will look different in other viewers from what the studio shows; None where it will not.

    Args:
        cloud: What the file holds.
        format: One of `SPLAT_FORMATS`.
        eps2d: Dilation on screen that the Gaussians were trained with, pixels squared; None: not known.
    """
    if cloud.antialiased and format not in _CARRY_THE_MARK:
        return f"the Gaussians are anti-aliased, which .{format} cannot say: viewers will draw small ones too bold"
    if eps2d is not None and eps2d != VIEWERS_EPS2D and format != "html":
        return (
            f"the Gaussians were trained with a dilation on screen of {eps2d:g} square pixels, and viewers draw with "
            f"{VIEWERS_EPS2D:g}: the file will look different there; train with --eps2d {VIEWERS_EPS2D:g}"
        )
    return None


def splat_format_of(path: str | os.PathLike[str]) -> str | None:
    """The format that a file's ending stands for, or None."""
    name = Path(path).name.lower()
    # The longest ending first: .compressed.ply is also a .ply.
    endings = sorted(
        ((SPLAT_ENDINGS.get(format, format), format) for format in SPLAT_FORMATS), key=lambda e: -len(e[0])
    )
    return next((format for ending, format in endings if name.endswith(f".{ending}")), None)


def is_splat_path(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a file, or a folder of SOG, rather than a run."""
    path = Path(path).expanduser()
    return is_file(path) or is_file(path / "meta.json")
