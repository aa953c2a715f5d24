"""Turning distorted photos into pinhole ones, for models that render only pinhole cameras."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample

from studio.cameras.cameras import Cameras
from studio.errors import StudioError

Coverage = Literal["same", "crop", "full"]
"""How the pinhole camera's focal length is chosen: ``same`` keeps it; ``crop`` is the shortest at which every pixel
shows something of the photo; ``full`` is the longest at which the edges of the photo are shown."""

_CHUNK = 1 << 16
"""Pixels that are mapped at a time, to bound the memory of large photos."""

_SUPPORTED = ("opencv", "fisheye", "pinhole")

Picture = TypeVar("Picture", Tensor, np.ndarray)


@dataclass(frozen=True, eq=False)
class UndistortionMap:
    """Where each pixel of an undistorted photo comes from; one map serves all photos of one lens.

    Attributes:
        camera: The pinhole camera of the result, of the photo's size, pose and principal point.
        source_pixels: Pixel coordinates in the photo, for each pixel of the result.
        valid: Whether the photo shows that pixel.
    """

    camera: Cameras
    source_pixels: Float[Tensor, "height width 2"]
    valid: Bool[Tensor, "height width"]

    def apply(self, image: Picture) -> Picture:
        """Resample a photo (H, W, C) bilinearly; pixels that it does not show become zero.

        Integers are rounded back to their type. Four channels are colour and straight alpha: the colour is weighted by
        alpha, so that what hides behind transparent pixels does not bleed into opaque ones.

        Raises:
            ValueError: If the photo is not (H, W, C) of the camera's size.
        """
        pixels = torch.as_tensor(image)
        height, width = self.valid.shape
        if pixels.ndim != 3 or pixels.shape[:2] != (height, width):
            raise ValueError(f"image must have shape ({height}, {width}, channels), got {tuple(pixels.shape)}")
        real = pixels.dtype if pixels.is_floating_point() else torch.float32
        values = pixels.to(real)
        with_alpha = values.shape[-1] == 4
        if with_alpha:
            values = torch.cat([values[..., :3] * values[..., 3:], values[..., 3:]], dim=-1)
        # grid_sample without align_corners puts -1 and 1 on the outer edges of the picture.
        grid = 2 * self.source_pixels.to(values) / values.new_tensor([width, height]) - 1
        sampled = grid_sample(
            values.permute(2, 0, 1)[None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
        )[0].permute(1, 2, 0)
        if with_alpha:
            alpha = sampled[..., 3:]
            opaque = torch.where(alpha > 0, alpha, torch.ones_like(alpha))
            sampled = torch.cat([sampled[..., :3] / opaque, alpha], dim=-1)
        result = torch.where(self.valid.to(sampled.device)[..., None], sampled, torch.zeros_like(sampled))
        if not pixels.is_floating_point():
            limits = torch.iinfo(pixels.dtype)
            result = result.round().clamp(limits.min, limits.max)
        result = result.to(pixels.dtype).contiguous()
        return result.numpy() if isinstance(image, np.ndarray) else result


def undistortion_map(camera: Cameras, coverage: Coverage = "same") -> UndistortionMap:
    """Plan the undistortion of the photos of one lens.

    Args:
        camera: A single camera of model opencv or fisheye (pinhole is let through unchanged).
        coverage: See `Coverage`.

    Raises:
        StudioError: If the model has no pinhole counterpart, or with ``full``, if a part of the photo looks 90 degrees
            or more off the axis, which no pinhole camera shows, or with ``crop``, if all edges do.
        ValueError: If ``camera`` is a batch.
    """
    if camera.ndim != 0:
        raise ValueError(f"camera must be a single camera, got a batch of shape {tuple(camera.shape)}")
    if camera.model not in _SUPPORTED:
        raise StudioError(
            f"Photos of {camera.model} cameras cannot be undistorted to pinhole.",
            fix="Use a model that renders this camera, or pinhole, opencv or fisheye photos.",
        )
    zoom = 1.0 if coverage == "same" else _zoom(camera, coverage)
    pinhole = replace(camera, model="pinhole", distortion=None, fx=camera.fx * zoom, fy=camera.fy * zoom)
    # A float64 map costs little once a lens; in float32 it is off by a thousandth of a pixel in large photos.
    lens, plain = _exactly(camera), _exactly(pinhole)
    width, height = camera.size
    source = torch.empty(height, width, 2, dtype=camera.dtype)
    valid = torch.empty(height, width, dtype=torch.bool)
    rows = max(1, _CHUNK // width)
    for top in range(0, height, rows):
        part = slice(top, top + rows)
        directions = plain.crop(0, top, width, min(rows, height - top)).ray_directions()
        source[part] = lens.project(directions)[0]
        valid[part] = lens.sees(directions)
    return UndistortionMap(pinhole, source.to(camera.device), valid.to(camera.device))


def undistort_image(image: Picture, camera: Cameras, coverage: Coverage = "same") -> tuple[Picture, Cameras, Tensor]:
    """Undistort one photo.

    Args:
        image: (H, W, C), floating point or integer, tensor or array.
        camera: The photo's camera; see `undistortion_map`, which also says what is raised.
        coverage: See `Coverage`.

    Returns:
        The undistorted photo of the same size, type and kind, its pinhole camera, and the mask (H, W) of the pixels
        that the photo shows; the others are zero.
    """
    plan = undistortion_map(camera, coverage)
    return plan.apply(image), plan.camera, plan.valid


def _exactly(camera: Cameras) -> Cameras:
    """The lens alone, in float64 on the host."""
    lens = camera.to(device="cpu", dtype=torch.float64)
    return lens.with_poses(torch.eye(4, dtype=torch.float64))


def _zoom(camera: Cameras, coverage: Coverage) -> float:
    """Factor of the focal length."""
    if coverage not in ("crop", "full"):
        raise ValueError(f"coverage must be 'same', 'crop' or 'full', got {coverage!r}")
    lens = _exactly(camera)
    width, height = lens.size
    cx, cy = float(lens.cx), float(lens.cy)
    if not (0 < cx < width and 0 < cy < height):
        raise StudioError(
            f"The principal point ({cx:g}, {cy:g}) lies outside the {width}x{height} photo.",
            fix="Undistort with the same focal length instead.",
        )
    edges = _edges(width, height)
    return _zoom_to_crop(lens, torch.cat(edges)) if coverage == "crop" else _zoom_to_show_all(lens, edges)


def _edges(width: int, height: int) -> list[Tensor]:
    """Points at every half pixel along the left, right, top and bottom edge of a picture."""
    columns = torch.linspace(0, width, 2 * width + 1, dtype=torch.float64)
    rows = torch.linspace(0, height, 2 * height + 1, dtype=torch.float64)
    return [
        *(torch.stack([torch.full_like(rows, x), rows], dim=-1) for x in (0, width)),
        *(torch.stack([columns, torch.full_like(columns, y)], dim=-1) for y in (0, height)),
    ]


def _zoom_to_crop(lens: Cameras, edge: Tensor) -> float:
    """Smallest zoom at which the photo shows all that the edge of the pinhole picture looks at, by bisection."""

    def shown(zoom: float) -> bool:
        pinhole = replace(lens, model="pinhole", distortion=None, fx=lens.fx * zoom, fy=lens.fy * zoom)
        return bool(lens.sees(pinhole.rays(edge).directions).all())

    low = high = 1.0
    while not shown(high):
        high *= 2
    while shown(low):
        low /= 2
        if low < 1e-3:
            raise StudioError(
                "This photo shows half a sphere or more: no pinhole camera fits its content.",
                fix="Undistort with the same focal length instead.",
            )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high


def _zoom_to_show_all(lens: Cameras, edges: list[Tensor]) -> float:
    """Largest zoom at which the pinhole picture contains the rays of all edges of the photo."""
    width, height = lens.size
    cx, cy, fx, fy = (float(v) for v in (lens.cx, lens.cy, lens.fx, lens.fy))
    sides = [(0, cx / fx), (0, (width - cx) / fx), (1, cy / fy), (1, (height - cy) / fy)]
    factors = []
    for edge, (axis, tangent) in zip(edges, sides, strict=True):
        rays = lens.rays(edge)
        shown = rays.directions[:, 2] > 1e-6
        if rays.valid is not None:
            shown = shown & rays.valid
        if not bool(shown.all()):
            raise StudioError(
                "A pinhole camera cannot show this whole photo: parts look 90 degrees or more off the axis.",
                fix="Undistort with coverage 'same' or 'crop', or use a model that renders this camera.",
            )
        factors.append(tangent / float((rays.directions[:, axis] / rays.directions[:, 2]).abs().max()))
    return min(factors)
