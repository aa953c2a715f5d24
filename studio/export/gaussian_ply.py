"""Gaussian splats as PLY in the layout of the original implementation (Kerbl 2023), which every viewer reads."""

from __future__ import annotations

import dataclasses
import math
import os
import re

import numpy as np
import torch

from studio.errors import StudioError
from studio.export.gaussians import GaussianCloud
from studio.files import atomic_write
from studio.reading.ply import PlyElement, PlyHeader, read_ply_header, read_ply_vertices

_ROWS_AT_ONCE = 1 << 16
_MARK = "SplatRenderMode: mip"
"""Comment of Gaussians that were trained with Mip-Splatting's filter on screen."""
_THICKNESS = 1e-6
"""Standard deviation of a flat Gaussian across, as SuperSplat reads it."""

_MOST_BAD = 0.01
"""Share of Gaussians that may have values that are not numbers."""

_REST_TO_DEGREE = {3 * ((degree + 1) ** 2 - 1): degree for degree in range(5)}


def gaussian_ply_properties(sh_degree: int) -> list[str]:
    """The property names in file order: x y z nx ny nz f_dc_* f_rest_* opacity scale_* rot_*."""
    rest = 3 * ((sh_degree + 1) ** 2 - 1)
    return [
        *("x", "y", "z", "nx", "ny", "nz"),
        *(f"f_dc_{i}" for i in range(3)),
        *(f"f_rest_{i}" for i in range(rest)),
        "opacity",
        *(f"scale_{i}" for i in range(3)),
        *(f"rot_{i}" for i in range(4)),
    ]


def mark_comments(cloud: GaussianCloud) -> list[str]:
    """The header's line, if any, that says how the Gaussians are to be drawn, as other programs write it."""
    return [f"comment {_MARK}"] if cloud.antialiased else []


def is_marked(header: PlyHeader) -> bool:
    """Whether the header says that the Gaussians are to be drawn anti-aliased."""
    return any("".join(comment.split()).lower() == _MARK.replace(" ", "").lower() for comment in header.comments)


def write_gaussian_ply(path: str | os.PathLike[str], cloud: GaussianCloud) -> None:
    """Write raw (pre-activation) values, binary little endian, float32, normals zero.

    `f_rest` runs channel by channel: all red coefficients from degree 1 on, then green, then blue.

    Args:
        path: Appears whole or not at all.
        cloud: In the frame the file shall have; undo a scene's normalisation with `cloud.transformed` first.

    Raises:
        StudioError: The file cannot be written.
    """
    names = gaussian_ply_properties(cloud.sh_degree)
    header = ["ply", "format binary_little_endian 1.0", *mark_comments(cloud), f"element vertex {len(cloud)}"]
    header += [*(f"property float {name}" for name in names), "end_header", ""]
    with atomic_write(path) as file:
        file.write("\n".join(header).encode("ascii"))
        for start in range(0, len(cloud), _ROWS_AT_ONCE):
            part = cloud.select(torch.arange(start, min(start + _ROWS_AT_ONCE, len(cloud)), device=cloud.means.device))
            columns = [
                part.means,
                torch.zeros_like(part.means),
                part.sh[:, 0],
                part.sh[:, 1:].transpose(1, 2).flatten(1),
                part.logit_opacities[:, None],
                part.log_scales,
                part.quats,
            ]
            table = torch.cat([column.detach().cpu().float() for column in columns], dim=1)
            file.write(table.numpy().astype("<f4", copy=False).tobytes())


def read_gaussian_ply(path: str | os.PathLike[str]) -> GaussianCloud:
    """Read a splat PLY: ASCII or binary, any order of properties, with or without normals, degree 0 to 4.

    Flat Gaussians (2DGS, without `scale_2`) get a third axis of a millionth. Mip-Splatting's `filter_3D` goes into
    scales and opacities. Up to one Gaussian in a hundred with values that are not numbers is left out. All this stands
    in the cloud's notes. Other properties that are not part of a splat are ignored. Doubles are rounded to float32. The
    comment 'SplatRenderMode: mip' marks anti-aliased Gaussians.

    Raises:
        StudioError: No PLY, no splat, compressed, truncated, or with values that are not numbers; names the file and
            the property.
    """
    header = read_ply_header(path)
    _refuse_other_kinds(header)
    table = read_ply_vertices(header)
    vertex = header.element("vertex")
    assert vertex is not None  # read_ply_vertices has raised otherwise
    flat = _is_flat(vertex)
    degree = _degree(header, vertex, flat)
    columns = _Columns(header, table)
    rest = columns.read([f"f_rest_{i}" for i in range(3 * ((degree + 1) ** 2 - 1))])
    constant = columns.read([f"f_dc_{i}" for i in range(3)])
    log_scales = columns.read([f"scale_{i}" for i in range(2 if flat else 3)])
    logits = columns.read(["opacity"])[:, 0]
    notes = []
    if flat:
        log_scales = torch.cat([log_scales, torch.full_like(log_scales[:, :1], math.log(_THICKNESS))], dim=1)
        notes.append("the Gaussians are flat (2DGS): their third axis gets a standard deviation of a millionth")
    if "filter_3D" in vertex.names:
        log_scales, logits = _fused(log_scales, logits, columns.read(["filter_3D"]))
        notes.append("Mip-Splatting's filter_3D is put into scales and opacities")
    cloud = GaussianCloud(
        means=columns.read(["x", "y", "z"]),
        quats=columns.read([f"rot_{i}" for i in range(4)]),
        log_scales=log_scales,
        logit_opacities=logits,
        sh=torch.cat([constant[:, None], rest.view(len(table), 3, (degree + 1) ** 2 - 1).transpose(1, 2)], dim=1),
        antialiased=is_marked(header),
    )
    if columns.bad.any():
        count = int(columns.bad.sum())
        notes.insert(0, f"{count:,} of {len(table):,} Gaussians have values that are no numbers: left out")
        cloud = cloud.select(torch.from_numpy(~columns.bad))
    return dataclasses.replace(cloud, notes=tuple(notes))


class _Columns:
    """Reads properties, and keeps in mind which Gaussians have values that are not numbers."""

    def __init__(self, header: PlyHeader, table: np.ndarray) -> None:
        self.bad = np.zeros(len(table), bool)
        self._header, self._table = header, table

    def read(self, names: list[str]) -> torch.Tensor:
        """Columns (n, names) as float32."""
        table = self._table
        values = np.empty((len(table), len(names)), np.float32)
        for i, name in enumerate(names):
            # Doubles beyond the range of float32 become infinite, which is told below.
            with np.errstate(over="ignore"):
                values[:, i] = table[name]
            # Infinite scales and opacities are how exact 0 and 1 look before activation; others have no meaning.
            bad = np.isnan(values[:, i]) if name.startswith(("opacity", "scale_")) else ~np.isfinite(values[:, i])
            self.bad |= bad
            if self.bad.sum() > _MOST_BAD * len(table):
                raise StudioError(
                    f"{self._header.path}: the property '{name}' is not a number for {int(bad.sum()):,} of "
                    f"{len(table):,} Gaussians (first: {int(bad.argmax())}).",
                    fix="Export it again, or remove these Gaussians in a splat editor.",
                )
        return torch.from_numpy(values)


def _is_flat(vertex: PlyElement) -> bool:
    return {"scale_0", "scale_1"} <= set(vertex.names) and "scale_2" not in vertex.names


def _fused(log_scales: torch.Tensor, logits: torch.Tensor, size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mip-Splatting's 3D smoothing filter (Yu et al. 2023, equation 9): s' = sqrt(s² + f²), o' = o prod(s / s')."""
    scales = log_scales.double().exp()
    smoothed = (scales.square() + size.double().square()).sqrt()
    opacities = logits.double().sigmoid() * (scales / smoothed).prod(dim=1)
    return smoothed.log().float(), torch.logit(opacities).float()


def _refuse_other_kinds(header: PlyHeader) -> None:
    vertex = header.element("vertex")
    names = set(vertex.names) if vertex is not None else set()
    if "packed_position" in names:
        raise StudioError(
            f"{header.path}: is a SuperSplat compressed PLY (property 'packed_position'), not a plain one.",
            fix="Convert it with: studio export FILE --format ply",
        )
    if vertex is not None and {"x", "y", "z"} <= names and not names & {"f_dc_0", "opacity", "scale_0", "rot_0"}:
        kind = "a mesh" if (face := header.element("face")) is not None and face.count else "a point cloud"
        raise StudioError(
            f"{header.path}: is {kind}, not a Gaussian splat: the property 'f_dc_0' is missing.",
            fix="Name a splat PLY; a point cloud can serve as initial points of training.",
        )


def _degree(header: PlyHeader, vertex: PlyElement, flat: bool) -> int:
    names = set(vertex.names)
    for name in gaussian_ply_properties(0):
        if name not in names and name not in ("nx", "ny", "nz", *(["scale_2"] if flat else [])):
            raise StudioError(
                f"{header.path}: the property '{name}' is missing, which a Gaussian splat needs.",
                fix="Export it again as a 3D Gaussian splat PLY.",
            )
    rest = {name for name in names if re.fullmatch(r"f_rest_\d+", name)}
    degree = _REST_TO_DEGREE.get(len(rest))
    if degree is None:
        raise StudioError(
            f"{header.path}: has {len(rest)} properties 'f_rest_*'; spherical harmonics of degree 0 to 4 have "
            f"{', '.join(map(str, _REST_TO_DEGREE))}.",
            fix="Export it again.",
        )
    for i in range(len(rest)):
        if f"f_rest_{i}" not in rest:
            raise StudioError(f"{header.path}: the property 'f_rest_{i}' is missing.", fix="Export it again.")
    return degree
