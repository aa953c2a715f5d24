"""The small data that plugins are checked on, all of it made on the fly."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from studio.cameras import look_at
from studio.cameras.poses import flip_opengl
from studio.datasets import Dataset, TextDataset
from studio.datasets.arrays import ArrayDataset
from studio.datasets.toy2d import toy_dataset
from studio.plugin import DataInfo, Field, SceneInfo
from studio.readers import load_scene
from studio.scene import PhotoStore, PointCloud, Scene
from studio.training.loaded import photo_store

SIDE = 32
"""Of the pictures."""
WIDTH, HEIGHT = 24, 16
"""Of the photos; unequal, so that one taken for the other shows."""
_PHOTOS = 12
_RADIUS = 0.6
"""Of the ball, in the files' frame."""
_REACH = 0.4
"""Half the side of the box around it, in the scene's frame."""
_POINTS = 300
_SAMPLES = 96
_COLORS = {"red": (0.85, 0.2, 0.15), "green": (0.2, 0.7, 0.25), "blue": (0.15, 0.3, 0.85)}
_SHAPES = ("disc", "square", "cross")
_WORDS = (
    ("a small", "the old", "one green", "my quiet", "some other"),
    ("boat", "garden", "river", "lamp", "house"),
    ("waits", "turns", "sleeps", "shines", "ends"),
    ("by the sea.", "in the rain.", "near the hill.", "at night.", "under the trees."),
)


@dataclass(frozen=True)
class SampleData:
    """A data set for generators."""

    kind: str
    dataset: Dataset

    @property
    def info(self) -> DataInfo:
        d = self.dataset
        return DataInfo(d.sample_shape, d.num_classes, d.class_names, d.has_captions)

    def samples(self, n: int) -> tuple[Tensor | list[str], list[int] | list[str] | None]:
        """The first n samples, and their classes or captions."""
        if isinstance(self.dataset, TextDataset):
            text = self.dataset.texts[0]
            return [text[20 * i : 20 * i + 20] for i in range(n)], None
        x, condition = self.dataset.batch(range(n))
        return x, condition.tolist() if isinstance(condition, Tensor) else condition


@dataclass(frozen=True)
class SceneData:
    """Posed photos of a patterned ball, for fields."""

    kind: str
    scene: Scene

    @cached_property
    def info(self) -> SceneInfo:
        has_alpha = self.kind == "photos with alpha"
        return SceneInfo(
            num_train=len(self.scene.split("train")),
            camera_extent=self.scene.camera_extent,
            points_extent=self.scene.points_extent,
            bounds=((-_REACH,) * 3, (_REACH,) * 3),
            has_alpha=has_alpha,
            background=(1.0, 1.0, 1.0) if has_alpha else None,
        )

    def photos(self, cls: type[Field]) -> PhotoStore:
        return photo_store(self.scene, "train", cls, 1, 0.25)


CheckData = SampleData | SceneData

SAMPLE_KINDS = ("points", "pictures", "captioned pictures", "text")
"""The data that generators may take, simplest first."""


def make_samples(kind: str) -> SampleData:
    """Two arcs of labelled points, coloured shapes with classes or captions, or a text of little sentences."""
    if kind == "points":
        return SampleData(kind, toy_dataset("moons", 600))
    if kind == "text":
        return SampleData(kind, TextDataset("sentences", (_sentences(240),), lines=False))
    pictures, labels, captions = _shapes()
    if kind == "pictures":
        return SampleData(kind, ArrayDataset("shapes", pictures, labels, _SHAPES))
    if kind == "captioned pictures":
        return SampleData(kind, ArrayDataset("shapes", pictures, captions=captions))
    raise ValueError(f"kind must be one of {', '.join(SAMPLE_KINDS)}, got {kind!r}")


def _sentences(count: int) -> str:
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(5, (count, len(_WORDS)), generator=generator).tolist()
    return " ".join(" ".join(words[i] for words, i in zip(_WORDS, pick, strict=True)).capitalize() for pick in picks)


def _shapes() -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Pictures (n, 3, SIDE, SIDE) uint8, their classes and their captions."""
    generator = torch.Generator().manual_seed(0)
    places = 0.35 + 0.3 * torch.rand(_SAMPLES, 2, generator=generator)
    rows = (torch.arange(SIDE) + 0.5) / SIDE
    y, x = torch.meshgrid(rows, rows, indexing="ij")
    names = list(_COLORS)
    pictures, captions = [], []
    for i, (cx, cy) in enumerate(places.tolist()):
        dx, dy = (x - cx).abs(), (y - cy).abs()
        inside = (dx**2 + dy**2 < 0.05, torch.maximum(dx, dy) < 0.2, (torch.minimum(dx, dy) < 0.07) & (dx + dy < 0.3))
        color = names[i // 3 % 3]
        shape = inside[i % 3][..., None]
        picture = torch.where(shape, torch.tensor(_COLORS[color]), torch.tensor((0.9, 0.9, 0.85)))
        pictures.append((picture * 255).round().to(torch.uint8).movedim(-1, 0))
        captions.append(f"a {color} {_SHAPES[i % 3]} on the {'left' if cx < 0.5 else 'right'}")
    return torch.stack(pictures), torch.arange(_SAMPLES) % 3, tuple(captions)


def make_scene(folder: Path, *, alpha: bool) -> SceneData:
    """Write photos of a ball with coloured stripes from all around, and read them as a user's would be."""
    folder.mkdir(parents=True)
    focal = 1.2 * WIDTH
    frames = []
    for i, pose in enumerate(_poses()):
        name = f"photo_{i:02d}.png"
        Image.fromarray(_photo(pose, focal, alpha=alpha)).save(folder / name)
        frames.append({"file_path": name, "transform_matrix": flip_opengl(pose).tolist()})
    document = {
        "fl_x": focal, "fl_y": focal, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT, "frames": frames,
    }  # fmt: skip
    (folder / "transforms.json").write_text(json.dumps(document))
    scene = load_scene(folder, eval_every=6)
    # The ball lies where the cameras look, which is the origin of the normalised frame, at half its size.
    normal = torch.randn(_POINTS, 3, generator=torch.Generator().manual_seed(0))
    surface = 0.5 * _RADIUS * normal / normal.norm(dim=-1, keepdim=True)
    points = PointCloud(surface, torch.full((_POINTS, 3), 0.5))
    bounds = torch.tensor([[-_REACH] * 3, [_REACH] * 3])
    return SceneData("photos with alpha" if alpha else "opaque photos", replace(scene, points=points, bounds=bounds))


def _poses() -> Sequence[Tensor]:
    """Cameras 2 units from the origin, above and below."""
    angle = torch.arange(_PHOTOS, dtype=torch.float64) * (2 * math.pi / _PHOTOS)
    height = 0.5 * torch.sin(3 * angle) + 0.2
    across = (1 - height**2).sqrt()
    eyes = 2 * torch.stack([across * angle.cos(), across * angle.sin(), height], dim=-1)
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    return list(look_at(eyes, torch.zeros(3, dtype=torch.float64), up))


def _photo(pose: Tensor, focal: float, *, alpha: bool) -> np.ndarray:
    """What a pinhole camera sees of the ball in front of a grey gradient, or of nothing."""
    columns, rows = np.meshgrid(np.arange(WIDTH) + 0.5 - WIDTH / 2, np.arange(HEIGHT) + 0.5 - HEIGHT / 2)
    directions = np.stack([columns / focal, rows / focal, np.ones_like(rows)], axis=-1) @ pose[:3, :3].numpy().T
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    eye = pose[:3, 3].numpy()
    along = -(directions @ eye)
    inside = _RADIUS**2 - ((eye + along[..., None] * directions) ** 2).sum(-1)
    hit = inside > 0
    points = eye + (along - np.sqrt(np.maximum(inside, 0)))[..., None] * directions
    color = 0.5 + 0.35 * np.sin(points * np.array([9.0, 7.0, 5.0]) + np.array([0.0, 1.0, 2.0]))
    behind = np.repeat(0.35 + 0.2 * directions[..., 2:], 3, axis=-1)
    picture = np.where(hit[..., None], color, behind)
    if alpha:
        picture = np.concatenate([np.where(hit[..., None], color, 0.0), hit[..., None].astype(np.float64)], axis=-1)
    return (picture * 255 + 0.5).astype(np.uint8)
