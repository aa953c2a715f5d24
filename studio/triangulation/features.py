"""Corners of a photo and how they look: what is found again in another photo of the same place."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from studio.cameras import Cameras
from studio.scene import Photo

_SIDE, _SPACING = 8, 2.0
"""A descriptor is a square of so many samples a side, so many pixels apart (Brown, Szeliski and Winder, *Multi-Image
Matching Using Multi-Scale Oriented Patches*, 2005)."""
_BLUR, _WINDOW = 1.0, 1.5
"""Standard deviations in pixels: of what is sampled, and of the window that the structure tensor is summed over."""
_APART = 3
"""Radius in pixels within which the strongest corner stands alone."""
_OCTAVES = 2
"""Sizes at which corners are looked for, each half of the one before: photos from near and far show the same thing."""
_FLAT = 1e-6
"""Least contrast (standard deviation of samples in [0, 1]) of a descriptor."""
_BUCKETS = 12
"""Cells along the longer side, each with its share of the corners: one rich texture shall not take them all."""


@dataclass(frozen=True)
class Features:
    """Corners of one photo.

    Attributes:
        pixels: Places in the photo, centres of pixels at (i + 0.5, j + 0.5).
        origin: Centre of the camera.
        directions: Of the rays through them, unit length, world frame.
        descriptors: Zero mean, unit length: their product is the normalised correlation of two patches.
        colors: sRGB in [0, 1].
        precision: Angle that a pixel covers, radians; one a corner, larger for those of coarser octaves.
    """

    pixels: Float[Tensor, "n 2"]
    origin: Float[Tensor, " 3"]
    directions: Float[Tensor, "n 3"]
    descriptors: Float[Tensor, "n d"]
    colors: Float[Tensor, "n 3"]
    precision: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.pixels)


def find_features(photo: Photo, up: Float[Tensor, " 3"], count: int) -> Features:
    """The strongest corners of a photo (Shi and Tomasi, *Good Features to Track*, 1994), spread over it.

    Args:
        photo: At the size to look at.
        up: A direction of the world that patches are turned to, so that photos held otherwise look alike.
        count: Of corners, at most.
    """
    grey = _grey(photo.image)
    mask = torch.ones_like(grey, dtype=torch.bool) if photo.mask is None else photo.mask
    if photo.image.shape[-1] == 4:
        mask = mask & (photo.image[..., 3] > 127)
    pixels, descriptors, scales = [], [], []
    for octave in range(_OCTAVES):
        if octave > 0:
            grey = functional.avg_pool2d(grey[None, None], 2)[0, 0]
            mask = functional.avg_pool2d(mask[None, None].float(), 2)[0, 0] > 0.999
        if min(grey.shape) < 4 * _SIDE:
            break
        found = _corners(grey, mask, max(int(count * 0.75 * 0.33**octave), 1))
        if len(found):
            scale = 2.0**octave
            turned = _up_on_screen(photo.camera, found * scale, up)
            pixels.append(found * scale)
            descriptors.append(_describe(_blurred(grey, _BLUR), found, turned))
            scales.append(torch.full((len(found),), scale))
    if not pixels:
        empty = torch.zeros(0, 3)
        return Features(
            torch.zeros(0, 2), photo.camera.origins.float(), empty, torch.zeros(0, _SIDE**2), empty, torch.zeros(0)
        )
    places, looks = torch.cat(pixels), torch.cat(descriptors)
    directions, valid = _rays(photo.camera, places)
    textured = (looks.norm(dim=1) > 0.5) & valid
    places, looks, directions = places[textured], looks[textured], directions[textured]
    column, row = places[:, 0].long(), places[:, 1].long()
    beside, _ = _rays(photo.camera, places + torch.tensor([1.0, 0.0]))
    angle = torch.linalg.cross(directions, beside).norm(dim=1).clamp_min(1e-7)
    return Features(
        places,
        photo.camera.origins.float(),
        directions,
        looks,
        photo.image[row, column, :3].float() / 255,
        angle * torch.cat(scales)[textured],
    )


def _grey(image: UInt8[Tensor, "h w c"]) -> Float[Tensor, "h w"]:
    return image[..., :3].float() @ torch.tensor([0.299, 0.587, 0.114]) / 255


def _kernel(sigma: float) -> Float[Tensor, " k"]:
    radius = max(int(3 * sigma + 0.5), 1)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    return weights / weights.sum()


def _blurred(image: Float[Tensor, "h w"], sigma: float) -> Float[Tensor, "h w"]:
    kernel = _kernel(sigma)
    reach = len(kernel) // 2
    padded = functional.pad(image[None, None], (reach, reach, reach, reach), mode="replicate")
    rows = functional.conv2d(padded, kernel.view(1, 1, 1, -1))
    return functional.conv2d(rows, kernel.view(1, 1, -1, 1))[0, 0]


def _corners(grey: Float[Tensor, "h w"], mask: Tensor, count: int) -> Float[Tensor, "n 2"]:
    """Places of the strongest corners, to parts of a pixel."""
    smooth = _blurred(grey, _BLUR)
    right = functional.pad(smooth[:, 2:] - smooth[:, :-2], (1, 1))
    down = functional.pad((smooth[2:] - smooth[:-2])[None], (0, 0, 1, 1))[0]
    xx, xy, yy = (_blurred(product, _WINDOW) for product in (right * right, right * down, down * down))
    half_trace = 0.5 * (xx + yy)
    strength = half_trace - ((0.5 * (xx - yy)) ** 2 + xy**2).sqrt()
    side = 2 * _APART + 1
    highest = functional.max_pool2d(strength[None, None], side, stride=1, padding=_APART)[0, 0]
    # Whole patches only: what lies beyond the border is not known.
    border = int(0.5 * _SIDE * _SPACING * 1.2) + 2
    peaks = (strength == highest) & (strength > 1e-7) & mask
    inside = torch.zeros_like(peaks)
    inside[border:-border, border:-border] = True
    row, column = (peaks & inside).nonzero(as_tuple=True)
    if len(row) == 0:
        return torch.zeros(0, 2)
    value = strength[row, column]
    chosen = _spread(row, column, value, max(grey.shape), count)
    row, column = row[chosen], column[chosen]
    place = torch.stack([column.float() + 0.5, row.float() + 0.5], dim=1)
    return place + torch.stack([_vertex(strength, row, column, 0, 1), _vertex(strength, row, column, 1, 0)], dim=1)


def _spread(row: Tensor, column: Tensor, value: Tensor, longest: int, count: int) -> Tensor:
    """The strongest of each cell of the photo first, then the second strongest of each, and so on."""
    cell = (row * _BUCKETS // longest) * _BUCKETS + column * _BUCKETS // longest
    by_value = value.argsort(descending=True)
    by_cell = by_value[cell[by_value].argsort(stable=True)]
    sizes = torch.bincount(cell, minlength=_BUCKETS**2)
    first = sizes.cumsum(0) - sizes
    rank = torch.empty_like(row)
    rank[by_cell] = torch.arange(len(row)) - first[cell[by_cell]]
    return (rank.double() - value.double() / (value.double().max() + 1e-30)).argsort()[:count]


def _vertex(strength: Tensor, row: Tensor, column: Tensor, down: int, right: int) -> Float[Tensor, " n"]:
    """Where the parabola through a peak and its two neighbours is highest, in pixels from the peak."""
    before, here = strength[row - down, column - right], strength[row, column]
    after = strength[row + down, column + right]
    bend = before - 2 * here + after
    return (0.5 * (before - after) / bend.clamp_max(-1e-12)).clamp(-0.5, 0.5)


def _rays(camera: Cameras, pixels: Float[Tensor, "n 2"]) -> tuple[Tensor, Tensor]:
    rays = camera.rays(pixels)
    valid = torch.ones(len(pixels), dtype=torch.bool) if rays.valid is None else rays.valid
    return rays.directions.float(), valid


def _up_on_screen(camera: Cameras, pixels: Float[Tensor, "n 2"], up: Float[Tensor, " 3"]) -> Float[Tensor, "n 2"]:
    """Unit directions in the photo that lead towards `up`; the photo's own where that is straight ahead."""
    directions, _ = _rays(camera, pixels)
    points = camera.origins.float() + directions
    moved, depth = camera.project(points + 1e-2 * up.float())
    # The camera's own up keeps the result finite.
    along = moved.float() - pixels
    length = along.norm(dim=1, keepdim=True)
    across = (directions - (directions @ up.float())[:, None] * up.float()).norm(dim=1)
    sure = (across > 0.2) & (depth > 0) & (length[:, 0] > 1e-6) & along.isfinite().all(dim=1)
    return torch.where(sure[:, None], along / length.clamp_min(1e-6), torch.tensor([0.0, -1.0]))


def _describe(
    smooth: Float[Tensor, "h w"], pixels: Float[Tensor, "n 2"], up: Float[Tensor, "n 2"]
) -> Float[Tensor, "n d"]:
    """Patches around pixels, turned so that `up` is up, less their mean and of unit length (0 where flat)."""
    steps = (torch.arange(_SIDE) - 0.5 * (_SIDE - 1)) * _SPACING
    across = torch.stack([-up[:, 1], up[:, 0]], dim=1)
    offsets = steps[None, None, :, None] * across[:, None, None] - steps[None, :, None, None] * up[:, None, None]
    places = pixels[:, None, None] + offsets
    height, width = smooth.shape
    grid = places / torch.tensor([width, height]) * 2 - 1
    samples = functional.grid_sample(
        smooth[None, None], grid.reshape(1, len(pixels), -1, 2), mode="bilinear", align_corners=False
    )[0, 0]
    centred = samples - samples.mean(dim=1, keepdim=True)
    length = centred.norm(dim=1, keepdim=True)
    flat = length < _FLAT * _SIDE
    return torch.where(flat, torch.zeros_like(centred), centred / length.clamp_min(1e-12))
