"""Sparse points of a scene as training rays: they tell where surfaces are, and where nothing is, before any photo does.

A camera that sees a point sees nothing before it. So each such pair gives two rays of a single short interval each. One
lies around the point, with the point's colour as the target and a random colour behind: only an opaque interval shows
the one and hides the other. The other lies somewhere on the way, and its target is the colour behind: only an empty one
shows that. Fog is gone within the first steps, and surfaces begin where they belong, instead of wherever something in
front of them first explains the photos. Depth-supervised NeRF (Deng et al., 2022) uses points to the same end, with the
tracks of structure from motion; here no tracks are needed (see `visible_pairs`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from studio.cameras import Cameras
from studio.marching import PackedSamples
from studio.scene import PhotoStore, PointCloud

_MOST_POINTS, _MOST_CAMERAS, _MOST_PAIRS = 1 << 15, 200, 1 << 16
"""More of them say little more."""
_CELLS = 32
"""Cells a side of the coarse depth picture that hides points."""
_BEHIND = 1.15
"""A point is hidden by points around it that are so many times nearer."""
_ALIKE = 0.5
"""Share of the cameras with a point in view, those whose pixels are most like it, that are taken to see it."""
_DIFFERENT = 0.15
"""Difference of colour (mean of the channels) from which a pixel shows something else."""
_WIDTH = 0.02
"""Length of the interval around a point, as a share of its distance."""
_CLEAR_WIDTH, _CLEAR_SHARE = 0.08, 0.92
"""Length of an interval on the way, and how far towards the point such intervals reach, as shares of its distance."""


@dataclass(frozen=True)
class AnchorRays:
    """Rays with one interval each."""

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    rgb: Float[Tensor, "n 3"]
    background: Float[Tensor, "n 3"]
    samples: PackedSamples


class Anchors(nn.Module):
    """Pairs of a point and a camera that sees it. Buffers only, saved with the field."""

    xyz: Tensor
    rgb: Tensor
    eyes: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("xyz", "rgb", "eyes"):
            self.register_buffer(name, torch.zeros(0, 3))

    def __len__(self) -> int:
        return len(self.xyz)

    def make_room(self, count: int) -> None:
        """Buffers for so many pairs, to load saved ones into."""
        for name in ("xyz", "rgb", "eyes"):
            setattr(self, name, torch.zeros(count, 3, device=self.xyz.device))

    def fit(self, points: PointCloud, photos: PhotoStore, generator: torch.Generator) -> None:
        """Find the pairs of points and cameras that see them."""
        chosen = torch.randperm(len(points), generator=generator)[:_MOST_POINTS]
        xyz, rgb = points.xyz[chosen].float(), points.rgb[chosen].float()
        indices = torch.randperm(len(photos), generator=generator)[:_MOST_CAMERAS].sort().values.tolist()
        point, camera = visible_pairs(xyz, rgb, photos, indices).nonzero(as_tuple=True)
        pairs = torch.randperm(len(point), generator=generator)[:_MOST_PAIRS]
        self.make_room(len(pairs))
        if len(pairs):
            eyes = torch.stack([photos.camera(i).camera_to_world[:3, 3] for i in indices])
            self.xyz.copy_(xyz[point[pairs]])
            self.rgb.copy_(rgb[point[pairs]])
            self.eyes.copy_(eyes[camera[pairs]])

    def draw(self, around: int, way: int, near: float, generator: torch.Generator) -> AnchorRays:
        """Rays for pairs drawn at random.

        Args:
            around: How many with an interval around their point; they come first.
            way: How many with one on the way there.
            near: Where rays begin.
            generator: Draws them.
        """
        device, count = self.xyz.device, around + way
        index = torch.randint(len(self), (count,), generator=generator).to(device)
        towards = self.xyz[index] - self.eyes[index]
        distance = towards.norm(dim=-1)
        background = torch.rand(count, 3, generator=generator).to(device)
        part = torch.rand(way, generator=generator).to(device)
        middle = torch.cat(
            [distance[:around], torch.lerp(part.new_tensor(near), _CLEAR_SHARE * distance[around:], part)]
        )
        half = 0.5 * distance * torch.where(torch.arange(count, device=device) < around, _WIDTH, _CLEAR_WIDTH)
        samples = PackedSamples(torch.arange(count + 1, device=device), (middle - half).clamp_min(0), middle + half)
        rgb = torch.cat([self.rgb[index[:around]], background[around:]])
        return AnchorRays(self.eyes[index], towards / distance[:, None], rgb, background, samples)


def visible_pairs(
    xyz: Float[Tensor, "n 3"], rgb: Float[Tensor, "n 3"], photos: PhotoStore, indices: list[int]
) -> Bool[Tensor, "n c"]:
    """Which points some photos most likely show.

    A photo shows a point if it lies in view, no other point near it in the picture is much nearer to the camera, and
    the photo has about its colour there: closer to it than most photos that have it in view.
    """
    shown = torch.zeros(len(xyz), len(indices), dtype=torch.bool)
    difference = torch.full((len(xyz), len(indices)), torch.inf)
    for column, i in enumerate(indices):
        camera, photo = photos.camera(i), photos[i]
        inside = camera.sees(xyz).nonzero()[:, 0]
        if len(inside) == 0:
            continue
        pixel, depth = camera.project(xyz[inside])
        inside = inside[_unhidden(pixel, depth, camera)]
        pixel = camera.project(xyz[inside])[0]
        height, width = photo.image.shape[:2]
        x, y = pixel[:, 0].long().clamp(0, width - 1), pixel[:, 1].long().clamp(0, height - 1)
        shown[inside, column] = True
        difference[inside, column] = (photo.image[y, x, :3].float() / 255 - rgb[inside]).abs().mean(dim=-1)
    # The rank of each camera among those that have the point in view.
    rank = difference.argsort(dim=1).argsort(dim=1)
    most = (_ALIKE * shown.sum(dim=1, keepdim=True)).ceil()
    return shown & (difference < _DIFFERENT) & (rank < most)


def _unhidden(pixel: Float[Tensor, "m 2"], depth: Float[Tensor, " m"], camera: Cameras) -> Bool[Tensor, " m"]:
    """Points that no point in the cells around them hides."""
    side = max(camera.size) / _CELLS
    cell = (pixel / side).long().clamp(0, _CELLS - 1)
    flat = cell[:, 1] * _CELLS + cell[:, 0]
    nearest = torch.full((_CELLS * _CELLS,), torch.inf).scatter_reduce(0, flat, depth.float(), "amin")
    around = -functional.max_pool2d(-nearest.view(1, _CELLS, _CELLS), 3, stride=1, padding=1)
    return depth < _BEHIND * around.flatten()[flat]


def joined(first: PackedSamples, second: PackedSamples) -> PackedSamples:
    """The rays of one, then those of the other."""
    offsets = torch.cat([first.offsets, second.offsets[1:] + len(first)])
    return PackedSamples(offsets, torch.cat([first.starts, second.starts]), torch.cat([first.ends, second.ends]))
