"""What a scene is: frames (photo + camera + split), points, bounds and the transform that normalised it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from studio.cameras import Cameras

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Frame:
    """One posed photo; nothing is decoded until a `PhotoStore` asks for it."""

    name: str
    """Unique within the scene: the photo's path relative to the scene folder."""
    image_path: Path
    camera: Cameras
    """Batch shape (); intrinsics at the size the photo has on disk."""
    split: Split
    mask_path: Path | None = None
    """A single-channel picture, non-zero (>= 128 of 255) where the photo counts."""
    depth_range: tuple[float, float] | None = None
    """(near, far) z-depth of the content in the scene's units, where the format tells it (LLFF)."""


@dataclass(frozen=True, eq=False)
class PointCloud:
    """Sparse coloured points, such as structure from motion gives."""

    xyz: Float[Tensor, "n 3"]
    """float32, in the scene's frame."""
    rgb: Float[Tensor, "n 3"]
    """float32 in [0, 1], sRGB."""

    def __len__(self) -> int:
        return self.xyz.shape[0]

    def bounds(self, quantile: float = 0.005) -> Float[Tensor, "2 3"]:
        """Axis-aligned box (min, max corner) of all points but the outermost share `quantile` on each side.

        Structure from motion leaves stray points far outside; plain extremes would be theirs.
        """
        if len(self) == 0:
            raise ValueError("an empty point cloud has no bounds")
        ordered = self.xyz.sort(dim=0).values
        skip = int(quantile * len(self))
        return torch.stack([ordered[skip], ordered[len(self) - 1 - skip]])


def _identity() -> Tensor:
    return torch.eye(4, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Scene:
    """A set of posed photos of one place, in OpenCV convention, possibly normalised."""

    name: str
    root: Path
    format: str
    """The reader that understood it: blender, transforms, colmap, llff, or a plugin's name."""
    frames: tuple[Frame, ...]
    points: PointCloud | None = None
    bounds: Float[Tensor, "2 3"] | None = None
    """Axis-aligned box (min, max corner) that holds the content of interest: as the format tells it, else of the points
    without strays; None where there is neither."""
    scene_from_input: Float[Tensor, "4 4"] = field(default_factory=_identity)
    """float64 similarity (scale * rotation | translation): normalised frame <- the frame of the input files."""
    notes: tuple[str, ...] = ()
    """What the reader noticed and decided (missing photos, submodels), one line each, for the user."""

    def split(self, name: Split) -> tuple[Frame, ...]:
        """The frames of one split, in file order."""
        return tuple(frame for frame in self.frames if frame.split == name)

    @property
    def evaluation_split(self) -> Split:
        """The split that held-out figures are measured on: test, else val, else train."""
        held_out: tuple[Split, ...] = ("test", "val")
        return next((name for name in held_out if self.split(name)), "train")

    @property
    def camera_extent(self) -> float:
        """Radius of the training cameras: 1.1 x the largest distance from their mean (Kerbl 2023's `cameras_extent`).

        Learning rates and densification thresholds of splatting scale with it.
        """
        frames = self.split("train") or self.frames
        centers = torch.stack([frame.camera.camera_to_world[:3, 3].double() for frame in frames])
        radius = (centers - centers.mean(dim=0)).norm(dim=-1).max().item()
        return 1.1 * radius if radius > 0 else 1.0

    @property
    def points_extent(self) -> float | None:
        """Half the side of the cube around the origin that holds half of the sparse points; None without points.

        Normalisation puts the origin where the cameras look, so this tells how large what they look at is.
        """
        if self.points is None or len(self.points) == 0:
            return None
        return float(self.points.xyz.abs().amax(dim=1).median())

    @property
    def input_from_scene(self) -> Float[Tensor, "4 4"]:
        """float64 similarity that undoes the normalisation; every export applies it."""
        return torch.linalg.inv(self.scene_from_input)
