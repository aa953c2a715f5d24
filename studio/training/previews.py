"""What a run looks like while it trains: a held-out photo beside its render, a grid of samples, points, or text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from studio.datasets import Dataset
from studio.export.pictures import caption, grid, save_picture, side_by_side
from studio.files import atomic_write
from studio.metrics import psnr
from studio.plugin.base import Field, Generator
from studio.scene import PhotoStore, Scene
from studio.training.loaded import photo_store
from studio.training.randomness import stream_seed

if TYPE_CHECKING:
    from studio.training.start import Prepared

Painter = Callable[[Path], None]
"""Writes a preview of the plugin's present state to a path that ends in .png (text: to .txt beside it)."""

_PREVIEW = 4
_WIDEST = 1600
_PICTURES, _POINTS, _TEXTS = 36, 2000, 8
_CANVAS, _SUPERSAMPLING = 480, 2


def preview_painter(prepared: Prepared) -> Painter:
    """The painter that suits a run's plugin."""
    plugin = prepared.plugin
    if isinstance(plugin, Field):
        assert prepared.scene is not None
        data = prepared.config.data
        return FieldPainter(plugin, prepared.scene, downscale=data.downscale)
    if isinstance(plugin, Generator):
        assert prepared.dataset is not None
        return GeneratorPainter(plugin, prepared.dataset, prepared.config.seed)
    raise TypeError(f"no preview for a {type(plugin).__name__}")


class FieldPainter:
    """One held-out photo, always the same, beside its render; a training photo where none is held out."""

    def __init__(self, field: Field, scene: Scene, *, downscale: float = 1.0) -> None:
        self._field = field
        frames = scene.split(scene.evaluation_split)
        # The middle one: the first and last photos of a walk often look away from the subject.
        self._index = len(frames) // 2
        # The store keeps nothing: this photo is decoded anew for each of the few previews.
        widest = max(int(frames[self._index].camera.width) / downscale, 1)
        self._photos: PhotoStore = photo_store(
            scene, scene.evaluation_split, field, downscale * max(widest / _WIDEST, 1.0), 0.0
        )

    def __call__(self, path: Path) -> None:
        photo = self._photos.get(self._index)
        color = self._field.scene_info.background
        background = torch.tensor(color) if color is not None else torch.zeros(3)
        camera, behind = photo.camera.to(self._field.device), background.to(self._field.device)
        render = self._field.render(camera, ("rgb",), background=behind)["rgb"].cpu()
        truth = photo.composited(background)
        score = psnr(render.clamp(0, 1), truth, photo.mask).item()
        panels = [caption(truth, photo.frame.name), caption(render, f"{path.stem}   {score:.2f} dB")]
        save_picture(path, side_by_side(panels))


class GeneratorPainter:
    """Samples from always the same noise: a grid of pictures, points over the data's, or text."""

    def __init__(self, generator: Generator, dataset: Dataset, seed: int) -> None:
        self._generator = generator
        self._dataset = dataset
        self._seed = seed

    def __call__(self, path: Path) -> None:
        shape = self._generator.data_info.sample_shape
        count = _PICTURES if len(shape) == 3 else _POINTS if len(shape) == 1 and shape[0] >= 2 else _TEXTS
        noise = torch.Generator().manual_seed(stream_seed(self._seed, _PREVIEW))
        samples = self._generator.sample(count, generator=noise)
        if not isinstance(samples, Tensor):
            _write_lines(path.with_suffix(".txt"), samples)
        elif samples.ndim == 4:
            pictures = samples.cpu().float().clamp(0, 1).movedim(1, -1)
            save_picture(path, grid([picture.expand(-1, -1, 3) for picture in pictures]))
        elif samples.ndim == 2 and samples.shape[1] >= 2:
            real, _ = self._dataset.batch(range(min(count, len(self._dataset))))
            picture = scatter(samples.cpu()[:, :2], real[:, :2])
            save_picture(path, caption(picture, f"{path.stem}: data grey, samples blue"))
        else:
            _write_lines(path.with_suffix(".txt"), [str(sample) for sample in samples.cpu().tolist()])


def scatter(
    points: Float[Tensor, "n 2"], behind: Float[Tensor, "m 2"], size: int = _CANVAS
) -> Float[Tensor, "size size 3"]:
    """Blue points over grey ones, in the square that holds the grey ones with a tenth to spare; y goes up."""
    low, high = behind.amin(dim=0), behind.amax(dim=0)
    middle, half = (low + high) / 2, 0.55 * float((high - low).amax().clamp(min=1e-6))
    side = size * _SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(canvas)
    radius = 1.5 * _SUPERSAMPLING
    for cloud, color in ((behind, (200, 200, 200)), (points, (31, 90, 180))):
        placed = ((cloud.float() - middle) / half * torch.tensor([1.0, -1.0]) + 1) / 2 * side
        # Beyond the frame, or NaN early in a bad run: nothing to draw.
        for x, y in placed[((placed > 0) & (placed < side)).all(dim=1)].tolist():
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color)
    small = canvas.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small, dtype=np.float32) / 255.0)


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    with atomic_write(path, "w") as handle:
        handle.writelines(f"{line}\n" for line in lines)
