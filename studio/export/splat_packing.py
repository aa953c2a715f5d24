"""What the packed splat formats have in common: quaternions without their largest part, 8-bit opacities, order in
space, and the checks of what a file claims before anything is allocated for it."""

from __future__ import annotations

import os

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from studio.devices.host_memory import format_bytes, host_memory
from studio.errors import StudioError
from studio.export.gaussians import GaussianCloud
from studio.reading.files import open_regular, read_bytes

_ALWAYS_FINE = 64 << 20
"""Needs below this are not compared with what is free."""
_COPIES = 3
"""Copies of the numbers of a file that decoding holds at once."""


def join_largest(index: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Unit quaternions from the three smallest of their components; the largest is positive and follows from them.

    Args:
        index: Position (n) of the largest component.
        rest: The others (n, 3), in their order.

    Returns:
        float32 (n, 4), components in the order that `index` counts in.
    """
    rest = rest.astype(np.float32)
    quats = np.empty((len(rest), 4), np.float32)
    largest = np.sqrt(np.maximum(1 - np.square(rest).sum(axis=1), 0))
    for position in range(4):
        rows = index == position
        others = [i for i in range(4) if i != position]
        quats[np.ix_(rows, others)] = rest[rows]
        quats[rows, position] = largest[rows]
    return quats


def split_largest(quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `join_largest` for unit quaternions (n, 4): position of the largest and the other components."""
    index = np.abs(quats).argmax(axis=1)
    rows = np.arange(len(quats))
    quats = quats * np.where(quats[rows, index] < 0, -1.0, 1.0)[:, None]
    others = np.array([[i for i in range(4) if i != position] for position in range(4)])
    return index, quats[rows[:, None], others[index]]


def unit_quaternions(quats: Float[Tensor, "n 4"]) -> np.ndarray:
    """Of length 1, (w, x, y, z), float64 (n, 4); one of length 0 counts as no turn."""
    values = quats.detach().cpu().double().numpy()
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.where(length > 0, values / np.where(length > 0, length, 1), np.array([1.0, 0.0, 0.0, 0.0]))


def logits_of_bytes(values: np.ndarray) -> Float[Tensor, " n"]:
    """Opacity logits of opacities in 255ths. 0 and 255 count as half a step from the end, whose logit is finite."""
    return torch.from_numpy(values / 255.0).clamp(0.5 / 255, 254.5 / 255).logit().float()


def opacity_bytes(cloud: GaussianCloud) -> np.ndarray:
    """Opacities in 255ths, uint8 (n)."""
    return (cloud.logit_opacities.detach().cpu().double().sigmoid() * 255).round().numpy().astype(np.uint8)


def spatial_order(means: Float[Tensor, "n 3"]) -> np.ndarray:
    """Indices (n) that walk through the points along a Morton curve, so that neighbours stand close together."""
    points = means.detach().cpu().double().numpy()
    if len(points) == 0:
        return np.zeros(0, np.int64)
    low = points.min(axis=0)
    extent = max(float((points.max(axis=0) - low).max()), np.finfo(np.float64).tiny)
    cells = ((points - low) / extent * 0x1FFFFF).astype(np.uint64)
    code = np.zeros(len(points), np.uint64)
    for axis in range(3):
        code |= _spread_bits(cells[:, axis]) << np.uint64(2 - axis)
    return np.argsort(code, kind="stable")


def _spread_bits(values: np.ndarray) -> np.ndarray:
    """21-bit numbers with two zero bits put between any two bits."""
    for shift, mask in (
        (32, 0x1F00000000FFFF),
        (16, 0x1F0000FF0000FF),
        (8, 0x100F00F00F00F00F),
        (4, 0x10C30C30C30C30C3),
        (2, 0x1249249249249249),
    ):
        values = (values | values << np.uint64(shift)) & np.uint64(mask)
    return values


def read_whole(path: str | os.PathLike[str], most: int = -1) -> bytes:
    """All bytes of a file, or the first ones.

    Raises:
        StudioError: It cannot be read.
    """
    if most < 0:
        return read_bytes(path)
    with open_regular(path) as file:
        return file.read(most)


def check_memory(path: str | os.PathLike[str], count: int, sh_degree: int) -> None:
    """Refuse a number of Gaussians that does not fit into the memory that is free.

    Raises:
        StudioError: Names the number and both amounts.
    """
    needed = _COPIES * 4 * count * (11 + 3 * (sh_degree + 1) ** 2)
    if needed > _ALWAYS_FINE and needed > (free := host_memory().free):
        raise StudioError(
            f"{path}: {count:,} Gaussians of degree {sh_degree} need {format_bytes(needed)} of memory, "
            f"{format_bytes(free)} are free.",
            fix="Close other programs; if the file should be smaller, it is damaged: fetch or export it again.",
        )


def check_finite(path: str | os.PathLike[str], field: str, values: np.ndarray, of: str = "Gaussians") -> None:
    """Refuse values (n, ...) that are not finite numbers.

    Raises:
        StudioError: Names the file, the field, how many and the first.
    """
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1) if values.size else np.zeros(0, bool)
    if bad.any():
        raise StudioError(
            f"{path}: the field '{field}' is not a finite number for {int(bad.sum()):,} of {len(values):,} {of} "
            f"(first: {int(bad.argmax())}).",
            fix="The file is damaged: fetch or export it again.",
        )


def checked(path: str | os.PathLike[str], cloud: GaussianCloud) -> GaussianCloud:
    """The cloud, if all its values are numbers that mean something.

    Opacities of exactly 0 and 1 and scales of 0 pass, whose logits and logarithms are infinite.

    Raises:
        StudioError: Names the file, the field, how many and the first.
    """
    for name, tensor in cloud.tensors().items():
        values = tensor.detach().cpu()
        if name == "logit_opacities":
            values = values.nan_to_num(nan=torch.nan, posinf=0.0, neginf=0.0)
        elif name == "log_scales":
            values = values.nan_to_num(nan=torch.nan, posinf=torch.nan, neginf=0.0)
        check_finite(path, name, values.numpy())
    return cloud
