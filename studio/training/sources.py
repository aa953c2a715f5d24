"""Batch sources: they own the data's order and answer a plugin's requests, resumably."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
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

_ORDER, _RAYS, _WINDOWS = 1, 2, 5


class BatchSource(Protocol):
    """Answers requests; its state is part of every checkpoint."""

    def next(self, request: Request) -> Batch: ...

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...


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
        self._order = ShuffledOrder(len(photos), stream_seed(seed, _ORDER))
        self._rays = torch.Generator().manual_seed(stream_seed(seed, _RAYS))
        self._window: list[int] = []
        self._window_left = 0

    def next(self, request: Request) -> Batch:
        if isinstance(request, PhotoRequest):
            indices = tuple(self._order.take(request.count))
            self.photos.prefetch(self._order.peek(4))
            return PhotoBatch(tuple(self.photos.get(i, request.downscale) for i in indices), indices)
        if isinstance(request, RayRequest):
            return self._draw_rays(request.count)
        raise TypeError(f"a Field was asked for {type(request).__name__}; fields are trained on photos or rays")

    def _draw_rays(self, count: int) -> RayBatch:
        if self._window_left == 0:
            size = min(len(self.photos), self.photos.capacity)
            self._window = list(range(size)) if size == len(self.photos) else self._order.take(size)
            self._window_left = self.window_batches
        self._window_left -= 1
        chosen = torch.randint(len(self._window), (count,), generator=self._rays)
        uniform = torch.rand(count, dtype=torch.float64, generator=self._rays)
        slots, order = torch.sort(chosen, stable=True)
        parts = [
            _photo_rays(self.photos.get(self._window[slot]), uniform[order[slots == slot]])
            for slot in torch.unique(slots).tolist()
        ]
        origins, directions, rgb, alpha, pixels = (
            torch.cat(column).to(self.device) for column in zip(*parts, strict=True)
        )
        indices = torch.tensor(self._window)[slots].to(self.device)
        return RayBatch(origins, directions, rgb, alpha, indices, pixels)

    def state(self) -> dict[str, Any]:
        return {
            "position": self._order.position,
            "rays": self._rays.get_state(),
            "window": list(self._window),
            "window_left": self._window_left,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self._order.position = state["position"]
        self._rays.set_state(state["rays"])
        self._window, self._window_left = list(state["window"]), state["window_left"]


def _photo_rays(photo: Photo, uniform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rays and colours at pixels picked by numbers in [0, 1) among the photo's unmasked ones."""
    height, width = photo.image.shape[:2]
    if photo.mask is None:
        flat = (uniform * (height * width)).long()
    else:
        allowed = photo.mask.flatten().nonzero()[:, 0]
        flat = allowed[(uniform * len(allowed)).long()] if len(allowed) else (uniform * (height * width)).long()
    values = photo.image.reshape(height * width, -1)[flat].float() / 255
    pixels = torch.stack([flat % width, flat // width], dim=-1).float() + 0.5
    camera: Cameras = photo.camera
    rays = camera.rays(pixels)
    alpha = values[:, 3:4] if values.shape[1] == 4 else torch.ones_like(values[:, :1])
    return rays.origins, rays.directions, values[:, :3], alpha, pixels


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
        self._order.position = state["position"]
        self._windows.set_state(state["windows"])


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
