"""Frames of a video: the sharpest of each part, found and written under their own numbers."""

from __future__ import annotations

from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from PIL import Image, ImageFilter

from studio.errors import StudioError
from studio.reconstruction.video_frames import choose_frames, count_frames, frame_sharpness, write_frames

SHARP = (3, 9, 10, 17)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """20 frames of 96x64 of a checkerboard whose brightness tells the number; all but `SHARP` are blurred."""
    path = tmp_path / "walk.mp4"
    board = (np.indices((64, 96)).sum(axis=0) // 4 % 2).astype(np.uint8)
    with imageio.get_writer(path, fps=10, macro_block_size=2, quality=9) as writer:
        for number in range(20):
            picture = Image.fromarray(np.repeat((board * 100 + number * 7)[..., None], 3, axis=-1).astype(np.uint8))
            if number not in SHARP:
                picture = picture.filter(ImageFilter.GaussianBlur(2))
            writer.append_data(np.asarray(picture))
    return path


def test_choosing_takes_the_best_of_each_part() -> None:
    sharpness = np.array([1.0, 5, 2, 7, 3, 3, 9, 8, 9, 1])
    assert choose_frames(sharpness, 5) == [1, 3, 4, 6, 8]
    assert choose_frames(sharpness, 3) == [1, 3, 6]
    assert choose_frames(sharpness, 10) == list(range(10))
    assert choose_frames(sharpness, 50) == list(range(10))


def test_sharp_frames_are_found_and_written(video: Path, tmp_path: Path) -> None:
    ticks: list[int] = []
    sharpness = frame_sharpness(video, lambda: ticks.append(1))
    assert len(sharpness) == len(ticks) == count_frames(video) == 20
    blurred = [value for number, value in enumerate(sharpness) if number not in SHARP]
    assert min(sharpness[list(SHARP)]) > 3 * max(blurred)
    chosen = choose_frames(sharpness, 4)
    assert chosen == [3, 9, 10, 17]
    written = write_frames(video, chosen, tmp_path)
    assert [path.name for path in written] == [f"frame_{number:05d}.jpg" for number in chosen]
    for path, number in zip(written, chosen, strict=True):
        picture = np.asarray(Image.open(path).convert("L"), dtype=float)
        assert picture.shape == (64, 96)
        # Half of the squares are 100 brighter.
        assert picture.mean() == pytest.approx(50 + 7 * number, abs=4)


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video" * 100)
    for read in (count_frames, frame_sharpness):
        with pytest.raises(StudioError, match=r"broken\.mp4: cannot be decoded as a video"):
            read(broken)
