"""Batch sources: they own the data's order and answer a plugin's requests, resumably."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from studio.cameras import Cameras
from studio.datasets import Dataset, TextDataset
from studio.errors import StudioError
from studio.plugin.batches import (
    Batch,
    PhotoBatch,
    PhotoRequest,
    RayBatch,
    RayRequest,
    Request,
    SampleBatch,
    SampleRequest,
    TokenBatch,
    TokenRequest,
)
from studio.scene import Photo, PhotoStore
from studio.training.order import ShuffledOrder
from studio.training.randomness import stream_seed

_ORDER, _RAYS, _WINDOWS, _SHIFTS = 1, 2, 5, 6


class BatchSource(Protocol):
    """Answers requests; its state is part of every checkpoint."""

    def next(self, request: Request) -> Batch: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...


def require_unmasked(photo: Photo) -> None:
    """Refuse a photo of which nothing counts: whatever a plugin does with it, it would learn from masked pixels.

    Raises:
        StudioError: Names the mask.
    """
    if photo.mask is not None and not bool(photo.mask.any()):
        raise StudioError(
            f"{photo.frame.mask_path or photo.frame.name}: the mask leaves nothing of the photo.",
            fix="Remove the photo, or mark the pixels that count with white.",
        )


class _Pixels:
    """The pixels of one photo, where they can be looked up without asking the photo store each time."""

    def __init__(self, photo: Photo) -> None:
        require_unmasked(photo)
        self.mask = photo.mask
        self.colors: NDArray[np.uint8] = photo.image.reshape(-1, photo.image.shape[-1]).numpy()
        self.count, self.width = len(self.colors), photo.image.shape[1]

    def allowed(self, uniform: NDArray[np.float64]) -> NDArray[np.int64] | None:
        """Flat numbers picked by numbers in [0, 1) among the unmasked pixels; None where there is no mask.

        Raises:
            StudioError: The mask leaves nothing.
        """
        if self.mask is None:
            return None
        found = self.mask.numpy().reshape(-1).nonzero()[0]
        return found[(uniform * len(found)).astype(np.int64)]


class SceneSource:
    """Photos and rays of a scene's training split.

    Rays are drawn uniformly over all pixels of a window of photos: all of them when they fit into the photo cache, else
    as many as do, with the window moving on through the shuffled order. So memory stays bounded for any photo count.
    """

    window_batches = 64
    """Ray batches drawn from one window before it moves on, when not all photos fit."""

    def __init__(self, photos: PhotoStore, seed: int, device: torch.device) -> None:
        self.photos = photos
        self.device = device
        self._seed = seed
        self._order = ShuffledOrder(len(photos), stream_seed(seed, _ORDER))
        self._rays = torch.Generator().manual_seed(stream_seed(seed, _RAYS))
        self._window: list[int] = []
        self._window_left = 0
        # Cameras of the window and those of its photos that were drawn from, and the window that they belong to.
        self._cameras: Cameras | list[Cameras] = []
        self._pixels: dict[int, _Pixels] = {}
        self._gathered: list[int] = []

    def next(self, request: Request) -> Batch:
        if isinstance(request, PhotoRequest):
            return self._take_photos(request)
        if isinstance(request, RayRequest):
            return self._draw_rays(request.count)
        raise TypeError(f"a Field was asked for {type(request).__name__}; fields are trained on photos or rays")

    def _take_photos(self, request: PhotoRequest) -> PhotoBatch:
        start, ways = self._order.position, self.photos.shifts
        indices = tuple(self._order.take(request.count))
        self.photos.prefetch(self._order.peek(4), shifted=request.shifted)
        shifts: list[int | None] = [None] * len(indices)
        if request.shifted:
            # A function of the position alone, like the order itself.
            shifts = [stream_seed(self._seed, _SHIFTS, start + i) % ways for i in range(len(indices))]
        photos = tuple(self.photos.get(i, request.downscale, shift) for i, shift in zip(indices, shifts, strict=True))
        for photo in photos:
            require_unmasked(photo)
        return PhotoBatch(photos, indices)

    def _draw_rays(self, count: int) -> RayBatch:
        if self._window_left == 0:
            size = min(len(self.photos), self.photos.capacity)
            self._window = list(range(size)) if size == len(self.photos) else self._order.take(size)
            self._window_left = self.window_batches
        self._window_left -= 1
        if self._gathered != self._window:
            self._cameras = _stacked([self.photos.camera(index) for index in self._window])
            self._pixels = {}
            self._gathered = list(self._window)
        chosen = torch.randint(len(self._window), (count,), generator=self._rays)
        uniform = torch.rand(count, dtype=torch.float64, generator=self._rays)
        slots, order = torch.sort(chosen, stable=True)
        flat, values, widths = self._pick_pixels(slots, uniform[order])
        pixels = torch.stack([flat % widths, flat // widths], dim=-1).float() + 0.5
        origins, directions = self._rays_through(pixels, slots)
        colors = values.float() / 255
        columns = (origins, directions, colors[:, :3], colors[:, 3:], torch.tensor(self._window)[slots], pixels)
        origins, directions, rgb, alpha, indices, pixels = (column.to(self.device) for column in columns)
        return RayBatch(origins, directions, rgb, alpha, indices, pixels)

    def _pick_pixels(self, slots: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels picked by numbers in [0, 1) among the unmasked ones of photos given in ascending order.

        Returns:
            Flat pixel numbers, RGBA values (uint8), and the width of each one's photo.
        """
        counts = np.bincount(slots.numpy(), minlength=len(self._window))
        present = counts.nonzero()[0].tolist()
        photos = [self._pixels_of(slot) for slot in present]
        counts = counts[present]
        ends = counts.cumsum().tolist()
        numbers = uniform.numpy()
        # Of each photo only what must be looked up there; all else is done for the whole batch at once.
        flat = (numbers * np.repeat([photo.count for photo in photos], counts)).astype(np.int64)
        colors = np.full((len(flat), 4), 255, np.uint8)
        for photo, first, end in zip(photos, [0, *ends[:-1]], ends, strict=True):
            allowed = photo.allowed(numbers[first:end])
            if allowed is not None:
                flat[first:end] = allowed
            colors[first:end, : photo.colors.shape[1]] = photo.colors[flat[first:end]]
        widths = np.repeat([photo.width for photo in photos], counts)
        return torch.from_numpy(flat), torch.from_numpy(colors), torch.from_numpy(widths)

    def _pixels_of(self, slot: int) -> _Pixels:
        if slot not in self._pixels:
            self._pixels[slot] = _Pixels(self.photos.get(self._window[slot]))
        return self._pixels[slot]

    def _rays_through(self, pixels: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        """World rays through pixels of photos given in ascending order."""
        if isinstance(self._cameras, Cameras):
            rays = self._cameras[slots].rays(pixels)
            return rays.origins, rays.directions
        counts = torch.bincount(slots, minlength=len(self._window)).tolist()
        each = [camera.rays(part) for camera, part in zip(self._cameras, pixels.split(counts), strict=True)]
        return torch.cat([rays.origins for rays in each]), torch.cat([rays.directions for rays in each])

    def state(self) -> dict[str, Any]:
        return {
            "position": self._order.position,
            "rays": self._rays.get_state(),
            "window": list(self._window),
            "window_left": self._window_left,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._order.position = _position(state)
        self._rays.set_state(state["rays"])
        window, left = [int(index) for index in state["window"]], int(state["window_left"])
        # Of other data than the run was trained on, the window may name photos that are gone: a new one is drawn.
        known = all(0 <= index < len(self.photos) for index in window) and left >= 0
        self._window, self._window_left = (window, left) if known else ([], 0)


def _stacked(cameras: list[Cameras]) -> Cameras | list[Cameras]:
    """One batch of cameras, where they are of one kind."""
    first = cameras[0]
    alike = all(c.model == first.model and (c.distortion is None) == (first.distortion is None) for c in cameras)
    return Cameras.stack(cameras) if alike else cameras


class DatasetSource:
    """Batches of a data set: samples in a shuffled order, or windows of its text."""

    def __init__(self, dataset: Dataset, seed: int, device: torch.device) -> None:
        self.dataset = dataset
        self.device = device
        self._order = ShuffledOrder(len(dataset), stream_seed(seed, _ORDER))
        self._windows = torch.Generator().manual_seed(stream_seed(seed, _WINDOWS))
        self._tokens = _Tokens()

    def next(self, request: Request) -> Batch:
        if isinstance(request, SampleRequest):
            x, cond = self.dataset.batch(self._order.take(request.count))
            return SampleBatch(x.to(self.device), cond.to(self.device) if isinstance(cond, Tensor) else cond)
        if isinstance(request, TokenRequest):
            if not isinstance(self.dataset, TextDataset):
                raise StudioError(f"{self.dataset.name}: is no text, and this plugin learns from text.")
            texts = self.dataset.texts
            windows = self._lines(texts, request) if self.dataset.lines else self._places(texts[0], request)
            return TokenBatch(windows.to(self.device))
        raise TypeError(
            f"a Generator was asked for {type(request).__name__}; generators are trained on samples or tokens"
        )

    def _lines(self, texts: Sequence[str], request: TokenRequest) -> Tensor:
        windows = torch.full((request.count, request.length + 1), request.padding, dtype=torch.int64)
        for window, index in zip(windows, self._order.take(request.count), strict=True):
            tokens = self._tokens.of(texts[index], index, request.encode)[: request.length + 1]
            window[: len(tokens)] = tokens
        return windows

    def _places(self, document: str, request: TokenRequest) -> Tensor:
        tokens = self._tokens.of(document, 0, request.encode)
        places = len(tokens) - request.length
        if places < 1:
            raise StudioError(
                f"{self.dataset.name}: has {len(tokens):,} tokens, and one window needs {request.length + 1:,}.",
                fix="Give a longer text, or train with a shorter context.",
            )
        starts = torch.randint(places, (request.count, 1), generator=self._windows)
        return tokens[starts + torch.arange(request.length + 1)].long()

    def state(self) -> dict[str, Any]:
        return {"position": self._order.position, "windows": self._windows.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        self._order.position = _position(state)
        self._windows.set_state(state["windows"])


def _position(state: dict[str, Any]) -> int:
    """How far the order of the data was followed; raises ValueError where that is no count."""
    position = state["position"]
    if not isinstance(position, int) or isinstance(position, bool) or position < 0:
        raise ValueError(f"the position is {position!r}, not a count of samples")
    return position


class _Tokens:
    """Token ids of texts, each encoded once."""

    def __init__(self) -> None:
        self._encode: Callable[[str], Sequence[int]] | None = None
        self._known: dict[int, Tensor] = {}

    def of(self, text: str, index: int, encode: Callable[[str], Sequence[int]]) -> Tensor:
        """int32 ids of the text with this index; another tokenizer forgets all."""
        if encode != self._encode:
            self._encode, self._known = encode, {}
        if index not in self._known:
            self._known[index] = torch.as_tensor(encode(text), dtype=torch.int32)
        return self._known[index]
