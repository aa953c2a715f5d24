"""What the benchmark of the viewer makes up, sends and reads."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import torch
from viser._messages import BackgroundImageMessage, Message, ViewerCameraMessage

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def viewer_latency(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("viewer_latency")


def test_made_up_gaussians_touch_each_other(viewer_latency: ModuleType) -> None:
    cloud = viewer_latency.made_up_scene(4000)
    assert len(cloud) == 4000
    assert cloud.sh_degree == 3
    ball = cloud.means[torch.arange(4000) % 8 == 0]
    nearest = torch.cdist(ball, ball).fill_diagonal_(torch.inf).amin(dim=1).median()
    assert 0.3 < float(nearest / cloud.log_scales.exp().median()) < 3


def test_cameras_are_messages_that_the_server_knows(viewer_latency: ModuleType) -> None:
    message = Message.deserialize(viewer_latency._camera(0.0, 512))
    assert isinstance(message, ViewerCameraMessage)
    assert message.image_width == 512
    assert np.linalg.norm(message.wxyz) == pytest.approx(1)


def test_pictures_are_found_in_messages(viewer_latency: ModuleType) -> None:
    import imageio.v3 as imageio
    import zstandard

    jpeg = imageio.imwrite("<bytes>", np.zeros((30, 50, 3), np.uint8), extension=".jpeg")

    def packed(picture: bytes | None) -> bytes:
        buffers: list[memoryview] = []
        message = BackgroundImageMessage("jpeg", picture, None).as_serializable_dict(buffers)
        inner = msgspec.msgpack.encode(
            {"messages": [message], "timestampSec": 0.0, "binaryBufferLengths": [b.nbytes for b in buffers]}
        )
        compressed = zstandard.ZstdCompressor().compress(inner)
        raw = len(inner).to_bytes(8, "little") + len(compressed).to_bytes(8, "little") + compressed
        for buffer in buffers:
            raw += b"\0" * (-len(raw) % 8) + bytes(buffer)
        return raw

    assert viewer_latency._picture(packed(jpeg)) == 50
    assert viewer_latency._picture(packed(None)) is None


def test_medians(viewer_latency: ModuleType) -> None:
    row = viewer_latency.figures([10.0, 30.0, 20.0], [256, 512, 512], 12.34, 512)
    assert row["median_ms"] == 20
    assert row["p90_ms"] == 30
    assert row["moving_size"] == "512 of 512"
