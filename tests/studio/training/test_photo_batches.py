from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from studio.cameras import Cameras
from studio.plugin import PhotoRequest
from studio.scene import Frame, PhotoStore
from studio.training.sources import SceneSource


@pytest.fixture
def photos(tmp_path):
    frames = []
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        camera = Cameras.make(torch.eye(4), width=20, height=12, fx=15.0)
        frames.append(Frame(f"{i}.png", tmp_path / f"{i}.png", camera, "train"))
    return frames


def source(frames, downscale=2, seed=3):
    return SceneSource(PhotoStore(frames, downscale), seed, torch.device("cpu"))


def drawn(source, count, request):
    batches = [source.next(request) for _ in range(count)]
    return [(batch.indices[0], batch.photos[0]) for batch in batches]


def way(photo):
    """Which of the four offsets, by the shift of the principal point in full pixels."""
    return 10 - 2 * float(photo.camera.cx), 6 - 2 * float(photo.camera.cy)


def test_shifted_photos_come_in_all_ways_and_once_an_epoch(photos):
    seen = drawn(source(photos), 60, PhotoRequest(shifted=True))
    assert {way(photo) for _, photo in seen} == {(0, 0), (1, 0), (0, 1), (1, 1)}
    assert all({i for i, _ in seen[n : n + 3]} == {0, 1, 2} for n in range(0, 60, 3))


def test_plain_requests_are_never_shifted(photos):
    assert {way(photo) for _, photo in drawn(source(photos), 20, PhotoRequest())} == {(0, 0)}


def test_shifts_go_on_where_they_stopped(photos):
    request = PhotoRequest(shifted=True)
    whole = drawn(source(photos), 20, request)
    first = source(photos)
    drawn(first, 8, request)
    second = source(photos)
    second.load_state(first.state())
    for (index, photo), (other_index, other) in zip(whole[8:], drawn(second, 12, request), strict=True):
        assert index == other_index
        assert torch.equal(photo.image, other.image)
