"""Judging the arguments of the marching functions: shapes are programming errors, values are bad input."""

from __future__ import annotations

import torch
from torch import Tensor

from studio.errors import StudioError


def check_rays(origins: Tensor, directions: Tensor) -> None:
    """Refuse rays that no marching function can follow.

    Raises:
        ValueError: `origins` or `directions` does not end in three coordinates, or their shapes do not broadcast.
        StudioError: A component is NaN or infinite, or a direction is zero.
    """
    for name, value in (("origins", origins), ("directions", directions)):
        if value.ndim < 1 or value.shape[-1] != 3:
            raise ValueError(f"{name}: expected shape (*b, 3), got {tuple(value.shape)}")
    try:
        torch.broadcast_shapes(origins.shape, directions.shape)
    except RuntimeError:
        raise ValueError(
            f"directions: shape {tuple(directions.shape)} does not broadcast with origins {tuple(origins.shape)}"
        ) from None
    length = directions.detach().square().sum(-1)
    _refuse(origins.detach().isfinite().all(-1), "origins", "NaN or infinite", "Correct the camera pose.")
    _refuse(length.isfinite(), "directions", "NaN or infinite", "Correct the camera pose or its lens parameters.")
    _refuse(length > 0, "directions", "zero", "Give every ray a direction of unit length.")


def check_box(box: Tensor, name: str = "box") -> None:
    """Refuse boxes without volume.

    Raises:
        ValueError: The shape is not (2, 3).
        StudioError: A corner is not finite, or the upper corner is not above the lower one on every axis.
    """
    if box.shape != (2, 3):
        raise ValueError(f"{name}: expected shape (2, 3) (lower corner, upper corner), got {tuple(box.shape)}")
    low, high = box.detach().cpu().tolist()
    for axis, a, b in zip("xyz", low, high, strict=True):
        if not (abs(a) < float("inf") and abs(b) < float("inf")):
            raise StudioError(f"{name}: not finite along {axis} ({a:g} to {b:g}).", fix="Give finite corners.")
        if not a < b:
            raise StudioError(
                f"{name}: has no volume, it runs from {a:g} to {b:g} along {axis}.",
                fix="Give the lower corner first, and corners that differ on every axis.",
            )


def check_interval(near: Tensor, far: Tensor, *, positive: str | None = None) -> None:
    """Refuse intervals that end before they begin; an empty one (near = far) is allowed, as of a ray that misses.

    Args:
        near: Any shape.
        far: A shape that broadcasts with it.
        positive: Name of a spacing that needs near > 0, if there is one.

    Raises:
        StudioError: near > far, a bound is not finite, or near ≤ 0 where `positive` forbids it.
    """
    near, far = near.detach(), far.detach()
    _refuse(near.isfinite(), "near", "NaN or infinite", "Give finite distances.")
    _refuse(far.isfinite(), "far", "NaN or infinite", "Give finite distances.")
    ordered = near <= far
    if not bool(ordered.all()):
        at = int(ordered.logical_not().flatten().nonzero()[0, 0])
        a, b = (float(torch.broadcast_to(v, ordered.shape).flatten()[at]) for v in (near, far))
        raise StudioError(f"near: {a:g} is beyond far = {b:g} at ray {at}.", fix="Swap near and far.")
    if positive is not None:
        _refuse(near > 0, "near", f"not positive, which {positive} spacing needs,", "Give a near distance above 0.")


def check_same_shape(name: str, value: Tensor, expected: tuple[int, ...], meaning: str) -> None:
    """Raise a ValueError that names the argument unless `value` has the `expected` shape."""
    if tuple(value.shape) != expected:
        raise ValueError(f"{name}: expected shape {expected} ({meaning}), got {tuple(value.shape)}")


def _refuse(good: Tensor, name: str, wrong: str, fix: str) -> None:
    if not bool(good.all()):
        at = int(good.logical_not().flatten().nonzero()[0, 0])
        raise StudioError(f"{name}: ray {at} is {wrong}.".replace(",.", "."), fix=fix)
