"""Videos decode to what was written, odd sizes included, and failures leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from studio.errors import StudioError
from studio.export import video
from studio.export.video import VideoWriter


def _frames(count: int, height: int, width: int) -> list[Tensor]:
    """A smooth colour gradient whose brightness tells the frame's number."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    base = torch.stack([rows, columns, 1 - rows], dim=-1)
    return [0.2 + 0.5 * base + 0.3 * i / count for i in range(count)]


def _write(path: Path, frames: list[Tensor], **options: float) -> None:
    with VideoWriter(path, **options) as writer:  # type: ignore[arg-type]
        for frame in frames:
            writer.write(frame)
    assert writer.frames_written == len(frames)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 97)])
def test_mp4_decodes_to_the_frames(tmp_path: Path, height: int, width: int) -> None:
    frames = _frames(12, height, width)
    _write(tmp_path / "x.mp4", frames, fps=24, crf=10)
    assert [p.name for p in tmp_path.iterdir()] == ["x.mp4"]
    reader = imageio_ffmpeg.read_frames(str(tmp_path / "x.mp4"), output_params=["-vf", "scale=in_color_matrix=bt709"])
    meta = next(reader)
    assert meta["fps"] == 24
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p(tv, bt709")
    assert meta["size"] == (width + width % 2, height + height % 2)
    decoded = [np.frombuffer(raw, np.uint8).reshape(meta["size"][1], meta["size"][0], 3) for raw in reader]
    assert len(decoded) == 12
    for frame, back in zip(frames, decoded, strict=True):
        error = np.abs(back[:height, :width] / 255 - frame.numpy())
        assert error.mean() < 0.01
    np.testing.assert_allclose(decoded[0][-1] / 255.0, decoded[0][-2] / 255.0, atol=0.03)


def test_gif_decodes_to_the_frames_and_loops(tmp_path: Path) -> None:
    frames = _frames(6, 33, 47)
    _write(tmp_path / "x.gif", frames, fps=10)
    image = Image.open(tmp_path / "x.gif")
    assert image.info["loop"] == 0
    assert image.info["duration"] == 100
    decoded = [np.asarray(frame.convert("RGB"), dtype=np.float32) / 255 for frame in ImageSequence.Iterator(image)]
    assert len(decoded) == 6
    for frame, back in zip(frames, decoded, strict=True):
        assert back.shape == (33, 47, 3)
        assert np.abs(back - frame.numpy()).mean() < 0.03


def test_folder_of_frames_is_exact_and_replaces_only_frames(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "orbit"
    _write(folder, _frames(5, 9, 7))
    _write(folder, frames := _frames(3, 9, 7))
    names = [f"frame_{i:05d}.png" for i in range(3)]
    assert sorted(p.name for p in folder.iterdir()) == names
    assert [p.name for p in folder.parent.iterdir()] == ["orbit"]
    for name, frame in zip(names, frames, strict=True):
        back = np.asarray(Image.open(folder / name), dtype=np.float32) / 255
        assert np.abs(back - frame.numpy()).max() <= 0.5 / 255 + 1e-6
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(StudioError, match=r"orbit: holds other files than frames \(notes\.txt\)"):
        VideoWriter(folder)
    with pytest.raises(StudioError, match="is a file"):
        VideoWriter(_touch(tmp_path / "plain"))


@pytest.mark.parametrize("name", ["x.mp4", "x.gif", "x"])
@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(tmp_path: Path, name: str, error: BaseException) -> None:
    path = tmp_path / name
    _write(path, _frames(2, 16, 16))
    before = _content(path)
    with pytest.raises(type(error)), VideoWriter(path) as writer:  # noqa: PT012
        writer.write(torch.rand(16, 16, 3))
        raise error
    assert _content(path) == before
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["x.mp4", "x"])
def test_wrong_frames(tmp_path: Path, name: str) -> None:
    words = r"frame 1 must be \(8, 8\) like the first, got \(8, 10\)"
    with pytest.raises(ValueError, match=words), VideoWriter(tmp_path / name) as writer:  # noqa: PT012
        writer.write(torch.rand(8, 8, 3))
        writer.write(torch.rand(8, 10, 3))
    with pytest.raises(ValueError, match="no frame"), VideoWriter(tmp_path / name):
        pass
    assert list(tmp_path.iterdir()) == []


def test_bad_options(tmp_path: Path) -> None:
    with pytest.raises(StudioError, match=r"x\.avi"):
        VideoWriter(tmp_path / "x.avi")
    with pytest.raises(ValueError, match="fps"):
        VideoWriter(tmp_path / "x.mp4", fps=0)
    with pytest.raises(ValueError, match="crf"):
        VideoWriter(tmp_path / "x.mp4", crf=60)


def test_a_failing_encoder_is_told_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\nhead -c 100 >/dev/null\necho 'Unknown encoder libx264' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(video, "_ffmpeg", lambda: str(fake))
    with pytest.raises(StudioError, match=r"x\.mp4: ffmpeg could not write the video \(Unknown encoder libx264\)"):
        _write(tmp_path / "x.mp4", _frames(40, 128, 128))
    fake.write_text("#!/bin/sh\ncat >/dev/null\necho 'x.mp4: No space left on device' >&2\nexit 1\n")
    with pytest.raises(StudioError, match="disk is full"):
        _write(tmp_path / "x.mp4", _frames(3, 16, 16))
    assert [p.name for p in tmp_path.iterdir()] == ["ffmpeg"]


def _touch(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def _content(path: Path) -> dict[str, bytes]:
    files = path.iterdir() if path.is_dir() else [path]
    return {file.name: file.read_bytes() for file in files}
