"""Judging the values of cameras that come from a file."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from studio.errors import StudioError

if TYPE_CHECKING:
    from studio.cameras.cameras import Cameras

_ROTATION_TOLERANCE = 1e-2
"""Largest entry of ``R^T R - I`` that counts as rounding (poses written with two or three digits)."""


def raise_first_fault(flat: Cameras, *, source: str | PathLike[str], frames: Sequence[str] | None) -> None:
    """Raise a `StudioError` for the first unusable value in a one-axis batch; see `Cameras.check`."""
    if frames is not None and len(frames) != len(flat):
        raise ValueError(f"check: {len(flat)} cameras but {len(frames)} frame names")
    pose = flat.camera_to_world.detach().cpu().double()
    rotation = pose[:, :3, :3]
    finite_pose = pose.isfinite().flatten(1).all(1)
    gram = rotation.transpose(-1, -2) @ rotation - torch.eye(3, dtype=pose.dtype)
    orthonormal = gram.abs().flatten(1).amax(1) <= _ROTATION_TOLERANCE
    bottom = (pose[:, 3] - pose.new_tensor([0.0, 0.0, 0.0, 1.0])).abs().amax(1) <= 1e-6
    unmirrored = torch.linalg.det(torch.where(finite_pose[:, None, None], rotation, torch.zeros_like(rotation))) > 0

    pose_fix = "Correct the pose or remove the frame."
    tests: list[tuple[Tensor, str, str, str]] = [
        (finite_pose, "camera_to_world", "has NaN or infinite entries", pose_fix),
        (bottom, "camera_to_world", "must end in the row 0 0 0 1", pose_fix),
        (
            orthonormal,
            "camera_to_world",
            "is not a rotation: its axes are not of unit length at right angles",
            "Remove scale and shear from the pose, or remove the frame.",
        ),
        (
            unmirrored,
            "camera_to_world",
            "mirrors the scene (determinant -1)",
            "Flip one axis of the pose: cameras must be right-handed.",
        ),
    ]
    for name in ("fx", "fy"):
        value: Tensor = getattr(flat, name)
        good = value.isfinite() & (value > 0)
        tests.append((good, name, "must be a positive number of pixels", "Correct the focal length."))
    for name in ("cx", "cy"):
        tests.append((getattr(flat, name).isfinite(), name, "must be finite", "Correct the principal point."))
    for name in ("width", "height"):
        tests.append((getattr(flat, name) > 0, name, "must be at least 1 pixel", "Correct the size."))
    if flat.distortion is not None:
        good = flat.distortion.isfinite().all(1)
        tests.append((good, "distortion", "has NaN or infinite coefficients", "Correct the coefficients."))

    for passed, field, wrong, fix in tests:
        if not bool(passed.all()):
            i = int(passed.logical_not().nonzero()[0, 0])
            frame = f"'{frames[i]}'" if frames is not None else str(i)
            bad = getattr(flat, field)[i]
            shown = f" (got {bad.item():g})" if bad.ndim == 0 else ""
            raise StudioError(f"{source}: frame {frame}: {field} {wrong}{shown}.", fix=fix)
