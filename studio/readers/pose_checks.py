"""Judging the poses that files state, before they become cameras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from studio.errors import StudioError
from studio.reading.limits import LARGEST_LENGTH

_TOLERANCE = 1e-2
"""Largest entry of ``R^T R - I`` that passes as rounding (poses written with two or three digits)."""

_FIX = "Correct the pose or remove the frame."


def rigid_pose(
    matrix: Sequence[Any] | npt.NDArray[Any], place: str, *, allow_scale: bool = False
) -> npt.NDArray[np.float64]:
    """A stated pose as a rigid (4, 4) float64 matrix with an exact rotation.

    Args:
        matrix: Nested lists or an array, (4, 4) or (3, 4).
        place: File and field, for messages: ``transforms.json: frames[3].transform_matrix``.
        allow_scale: Whether the rotation part may carry one scale for all axes; it is taken out, the position stays.

    Raises:
        StudioError: The shape is wrong, an entry is no finite number, the last row is not 0 0 0 1, or the rotation part
            is not a rotation.
    """
    try:
        pose = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StudioError(f"{place} must be 4 rows of 4 numbers.", fix=_FIX) from error
    if pose.shape not in ((4, 4), (3, 4)):
        raise StudioError(f"{place} must be 4 rows of 4 numbers, got shape {pose.shape}.", fix=_FIX)
    if not np.isfinite(pose).all():
        row, column = np.argwhere(~np.isfinite(pose))[0]
        raise StudioError(f"{place} has {pose[row, column]} in row {row}, column {column}.", fix=_FIX)
    if np.abs(pose).max() > LARGEST_LENGTH:
        raise StudioError(f"{place} has {np.abs(pose).max():g}, beyond all measure.", fix=_FIX)
    if pose.shape == (4, 4) and np.abs(pose[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise StudioError(f"{place} must end in the row 0 0 0 1, got {_row(pose[3])}.", fix=_FIX)
    rotation = pose[:3, :3]
    determinant = float(np.linalg.det(rotation))
    if determinant < 0:
        raise StudioError(
            f"{place} mirrors the scene (determinant {determinant:.3g}).",
            fix="Flip one axis of the pose, or remove the frame.",
        )
    scale = determinant ** (1 / 3) if allow_scale and determinant > 0 else 1.0
    off = float(np.abs(rotation.T @ rotation / scale**2 - np.eye(3)).max())
    if off > _TOLERANCE:
        raise StudioError(
            f"{place} is not a rotation: its axes are not of {'one' if allow_scale else 'unit'} length at right angles "
            f"(off by {off:.2g}).",
            fix=_FIX,
        )
    u, _, vh = np.linalg.svd(rotation)
    rigid = np.eye(4)
    rigid[:3, :3] = u @ vh
    rigid[:3, 3] = pose[:3, 3]
    return rigid


def _row(values: npt.NDArray[np.float64]) -> str:
    return " ".join(f"{v:g}" for v in values)
