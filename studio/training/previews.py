"""What a run looks like while it trains: a held-out photo beside its render, a grid of samples, points, or text.

Beside them the curves of its figures, and at the end a film of all previews.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from studio.datasets import Dataset, load_dataset
from studio.errors import StudioError
from studio.export.curves import save_curves
from studio.export.pictures import caption, grid, save_picture, side_by_side
from studio.export.video import VideoWriter
from studio.files import atomic_write
from studio.metrics import psnr
from studio.plugin.base import Field, Generator
from studio.scene import Photo, PhotoStore, Scene
from studio.training.loaded import photo_store
from studio.training.randomness import stream_seed
from studio.training.run import RunFolder

if TYPE_CHECKING:
    from studio.training.start import Prepared

Painter = Callable[[Path], None]
"""Writes a preview of the plugin's present state to a path that ends in .png (text: to .txt beside it)."""

_PREVIEW = 4
_WIDEST, _PROBED, _FIRST = 1600, 48, 16
"""Pixels of a preview's longer side: at most; where it is measured how long a picture takes, and before that, which
compiles kernels."""
_READABLE = 320
"""Previews of reduced photos that are smaller are enlarged to about this many pixels."""
_SECONDS = 1.5
"""What a preview may take to draw: a field that has not formed yet costs a hundred times as much as one that has, and
while a picture is drawn nothing else happens."""
_PICTURES, _POINTS, _TEXTS = 36, 2000, 8
_CAPTIONED, _CAPTIONED_WIDTH = 16, 256
_SHORT_LABEL, _LABELLED_WIDTH = 12, 56
_CANVAS, _SUPERSAMPLING = 480, 2
_FILM_FPS, _FILM_HOLD = 4.0, 8
CURVES, FILM = "curves.png", "previews.mp4"


def preview_painter(prepared: Prepared) -> Painter:
    """The painter that suits a run's plugin; it keeps ``curves.png`` in the run's folder up to date, too."""
    plugin = prepared.plugin
    painter: Painter
    if isinstance(plugin, Field):
        assert prepared.scene is not None
        data = prepared.config.data
        painter = FieldPainter(plugin, prepared.scene, downscale=data.downscale)
    elif isinstance(plugin, Generator):
        assert prepared.dataset is not None
        captions = callable(getattr(plugin, "caption", None))
        kind = CaptionPainter if captions else GeneratorPainter
        painter = kind(plugin, _held_out(prepared) if captions else prepared.dataset, prepared.config.seed)
    else:
        raise TypeError(f"no preview for a {type(plugin).__name__}")
    run, name = prepared.run, prepared.config.plugin

    def paint(path: Path) -> None:
        painter(path)
        save_curves(run.path / CURVES, run.read_metrics(), title=name)

    return paint


def _held_out(prepared: Prepared) -> Dataset:
    data = prepared.config.data
    return load_dataset(data.path, split="test", **data.reader)


def save_film(run: RunFolder) -> Path | None:
    """A film of all previews of a run, ``previews.mp4`` in its folder; None where there are not two pictures.

    Raises:
        StudioError: No ffmpeg, or a full disk.
    """
    pictures = sorted(run.previews.glob("step_*.png"))
    if len(pictures) < 2:
        return None
    with Image.open(pictures[-1]) as last:
        size = last.size
    target = run.path / FILM
    with VideoWriter(target, fps=_FILM_FPS) as video:
        for path in [*pictures, *[pictures[-1]] * _FILM_HOLD]:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
            if picture.size != size:
                picture = picture.resize(size, Image.Resampling.LANCZOS)
            video.write(torch.from_numpy(np.array(picture, dtype=np.float32) / 255.0))
    return target


class FieldPainter:
    """One held-out photo, always the same, beside its render; a training photo where none is held out."""

    def __init__(self, field: Field, scene: Scene, *, downscale: float = 1.0) -> None:
        self._field = field
        frames = scene.split(scene.evaluation_split)
        # The middle one: the first and last photos of a walk often look away from the subject.
        self._index = len(frames) // 2
        # The store keeps nothing: this photo is decoded anew for each of the few previews.
        longest = max(max(frames[self._index].camera.size) / downscale, 1)
        self._photos: PhotoStore = photo_store(
            scene, scene.evaluation_split, field, downscale * max(longest / _WIDEST, 1.0), 0.0
        )
        self._seconds_a_pixel: float | None = None

    def __call__(self, path: Path) -> None:
        whole = self._photos.get(self._index)
        color = self._field.scene_info.background
        background = torch.tensor(color) if color is not None else torch.zeros(3)
        if self._seconds_a_pixel is None:
            for longest in (_FIRST, _PROBED):
                self._draw(_fitted(whole, longest), background)
        assert self._seconds_a_pixel is not None
        side = max(whole.size)
        affordable = side * math.sqrt(_SECONDS / max(self._seconds_a_pixel * math.prod(whole.size), 1e-9))
        photo = _fitted(whole, max(affordable, _PROBED))
        render = self._draw(photo, background)
        truth = photo.composited(background)
        score = psnr(render.clamp(0, 1), truth, photo.mask).item()
        times = max(min(_READABLE, side) // max(photo.size), 1)
        pictures = (p.repeat_interleave(times, 0).repeat_interleave(times, 1) for p in (truth, render))
        words = (photo.frame.name, f"{path.stem}   {score:.2f} dB")
        panels = [caption(picture, text) for picture, text in zip(pictures, words, strict=True)]
        save_picture(path, side_by_side(panels))

    def _draw(self, photo: Photo, background: Float[Tensor, " 3"]) -> Float[Tensor, "h w 3"]:
        camera, behind = photo.camera.to(self._field.device), background.to(self._field.device)
        began = time.perf_counter()
        drawn = self._field.render(camera, ("rgb",), background=behind)["rgb"].cpu()
        self._seconds_a_pixel = (time.perf_counter() - began) / math.prod(photo.size)
        return drawn


def _fitted(photo: Photo, longest: float) -> Photo:
    """The photo with at most so many pixels along its longer side."""
    factor = max(photo.size) / longest
    return photo.downscaled(factor) if factor > 1 else photo


class GeneratorPainter:
    """Samples from always the same noise: a grid of pictures under their classes or captions, points, or text."""

    def __init__(self, generator: Generator, dataset: Dataset, seed: int) -> None:
        self._generator = generator
        self._dataset = dataset
        self._seed = seed
        self._conditional = True

    def __call__(self, path: Path) -> None:
        shape = self._generator.data_info.sample_shape
        count = _PICTURES if len(shape) == 3 else _POINTS if len(shape) == 1 and shape[0] >= 2 else _TEXTS
        samples, labels = self._sample(count)
        if not isinstance(samples, Tensor):
            _write_lines(path.with_suffix(".txt"), samples)
        elif samples.ndim == 4:
            columns = None
            if labels is not None and self._generator.data_info.num_classes:
                # A row for each class, where they fit.
                columns = next((c for c in range(6, 13) if len(samples) % c == 0 and _rows_of_one(labels, c)), None)
            save_picture(path, labelled_grid(samples, labels, columns))
        elif samples.ndim == 2 and samples.shape[1] >= 2:
            real, _ = self._dataset.batch(range(min(count, len(self._dataset))))
            picture = scatter(samples.cpu()[:, :2], real[:, :2])
            save_picture(path, caption(picture, f"{path.stem}: data grey, samples blue"))
        else:
            _write_lines(path.with_suffix(".txt"), [str(sample) for sample in samples.cpu().tolist()])

    def _sample(self, count: int) -> tuple[Tensor | list[str], list[str] | None]:
        info = self._generator.data_info
        condition: list[int] | list[str] | None = None
        labels: list[str] | None = None
        if self._conditional and len(info.sample_shape) == 3:
            if info.num_classes and info.num_classes <= count:
                each = 6 if info.num_classes <= 12 else max(2 * count // info.num_classes, 1)
                condition = [label for label in range(info.num_classes) for _ in range(each)]
                labels = [info.class_names[label] if info.class_names else str(label) for label in condition]
            elif info.has_captions:
                condition = labels = list(self._dataset.captions[:_CAPTIONED])
        if condition is not None:
            try:
                return self._generator.sample(len(condition), condition, self._noise()), labels
            except StudioError:
                # A model that takes no conditions, although the data has them.
                self._conditional = False
        return self._generator.sample(count, generator=self._noise()), None

    def _noise(self) -> torch.Generator:
        return torch.Generator().manual_seed(stream_seed(self._seed, _PREVIEW))


class CaptionPainter:
    """What a captioning plugin says about held-out pictures, always the same ones."""

    def __init__(self, generator: Generator, dataset: Dataset, seed: int) -> None:
        self._generator = generator
        self._pictures, self._truth = dataset.batch(range(min(_CAPTIONED, len(dataset))))
        self._seed = seed

    def __call__(self, path: Path) -> None:
        noise = torch.Generator().manual_seed(stream_seed(self._seed, _PREVIEW))
        captions = self._generator.caption(self._pictures, noise)  # type: ignore[operator]
        save_picture(path, grid(sheet_of(self._pictures, _CAPTIONED_WIDTH), captions=captions, columns=4))
        if isinstance(self._truth, list):
            pairs = zip(captions, self._truth, strict=True)
            _write_lines(path.with_suffix(".txt"), [f"{said}    [{truth}]" for said, truth in pairs])


def _rows_of_one(labels: Sequence[str], columns: int) -> bool:
    return all(len(set(labels[i : i + columns])) == 1 for i in range(0, len(labels), columns))


def labelled_grid(
    samples: Float[Tensor, "n c h w"], labels: Sequence[str] | None, columns: int | None = None
) -> Float[Tensor, "h2 w2 3"]:
    """A grid of pictures as they are; with labels enlarged so that one can read these."""
    if labels is None:
        return grid(as_pictures(samples), columns=columns)
    width = _LABELLED_WIDTH if max(map(len, labels)) <= _SHORT_LABEL else _CAPTIONED_WIDTH
    return grid(sheet_of(samples, width), captions=labels, columns=columns)


def sheet_of(pictures: Float[Tensor, "n c h w"], width: int = 64) -> list[Float[Tensor, "h2 w2 3"]]:
    """Pictures for a contact sheet: RGB, enlarged to at least this width without blurring."""
    factor = max(-(-width // pictures.shape[-1]), 1)
    return [p.repeat_interleave(factor, 0).repeat_interleave(factor, 1) for p in as_pictures(pictures)]


def as_pictures(samples: Float[Tensor, "n c h w"]) -> list[Float[Tensor, "h w 3"]]:
    """Samples as RGB pictures on the CPU, clamped to [0, 1]; grey ones in three equal channels."""
    pictures = samples.detach().cpu().float().clamp(0, 1).movedim(1, -1)
    return [picture.expand(-1, -1, 3) for picture in pictures]


def scatter(
    points: Float[Tensor, "n 2"],
    behind: Float[Tensor, "m 2"],
    size: int = _CANVAS,
    *,
    frame: Float[Tensor, "k 2"] | None = None,
) -> Float[Tensor, "size size 3"]:
    """Blue points over grey ones, in the square that holds those of `frame` with a tenth to spare; y goes up.

    Args:
        points: Blue.
        behind: Grey.
        size: Of the picture, pixels.
        frame: Default: the grey ones.
    """
    inside = behind if frame is None else frame
    low, high = inside.amin(dim=0), inside.amax(dim=0)
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
