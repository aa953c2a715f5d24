"""Frames of a video for structure from motion: the sharpest one of each of many equal parts."""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from studio.errors import StudioError

_SIDE = 640
"""Frames are judged at this width and height: large enough for the blur that matters, quick to look at."""
_EACH_FRAME = ("-fps_mode", "passthrough")
"""Neither drop nor double frames to even out time stamps, so that numbers mean the same in both passes."""


def count_frames(video: Path) -> int:
    """About how many frames a video has, for a progress bar; nothing is decoded.

    Raises:
        StudioError: The file is no video that ffmpeg can read.
    """
    import imageio_ffmpeg  # type: ignore[import-untyped]

    try:
        frames, _ = imageio_ffmpeg.count_frames_and_secs(str(video))
    except (RuntimeError, OSError, ValueError) as error:
        raise _unreadable(video, "") from error
    return int(frames)


def frame_sharpness(video: Path, tick: Callable[[], object] = lambda: None) -> npt.NDArray[np.float64]:
    """Sharpness of every frame: the mean square of the picture's Laplacian.

    Args:
        video: Any file that ffmpeg reads.
        tick: Called after each frame.

    Returns:
        One number a decoded frame, in order; only numbers of one video can be compared.

    Raises:
        StudioError: The video cannot be decoded, or has no frame.
    """
    filters = f"scale={_SIDE}:{_SIDE}:flags=area,format=gray"
    command = [*_ffmpeg(video), "-vf", filters, *_EACH_FRAME, "-f", "rawvideo", "-pix_fmt", "gray", "-"]
    found: list[float] = []
    # A file, as a pipe that nobody reads would stop ffmpeg when it is full.
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints) as process,
    ):
        assert process.stdout is not None
        try:
            while len(data := process.stdout.read(_SIDE * _SIDE)) == _SIDE * _SIDE:
                found.append(_sharpness(np.frombuffer(data, np.uint8).reshape(_SIDE, _SIDE)))
                tick()
        except BaseException:
            process.kill()
            raise
        process.wait()
        complaints.seek(0)
        if not found:
            raise _unreadable(video, complaints.read().decode(errors="replace"))
    return np.array(found)


def choose_frames(sharpness: npt.NDArray[np.float64], count: int) -> list[int]:
    """The sharpest frame of each of `count` equal parts; all frames where there are no more than that.

    Args:
        sharpness: As `frame_sharpness` gives it; the first of equals is taken.
        count: How many, 1 or more.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    total = len(sharpness)
    if total <= count:
        return list(range(total))
    edges = [part * total // count for part in range(count + 1)]
    return [start + int(np.argmax(sharpness[start:stop])) for start, stop in itertools.pairwise(edges)]


def write_frames(video: Path, chosen: Sequence[int], folder: Path) -> list[Path]:
    """Decode the chosen frames at full size into ``frame_00012.jpg`` and so on, numbered as in the video from 0.

    Raises:
        StudioError: The video cannot be decoded up to the last of them.
    """
    selected = "+".join(f"eq(n\\,{number})" for number in chosen)
    pattern = folder / "%d.jpg"
    command = [*_ffmpeg(video), "-vf", f"select={selected}", *_EACH_FRAME, "-qmin", "1", "-q:v", "1", str(pattern)]
    done = subprocess.run(command, capture_output=True)
    written = [folder / f"{position}.jpg" for position in range(1, len(chosen) + 1)]
    if done.returncode != 0 or not all(path.is_file() for path in written):
        raise _unreadable(video, done.stderr.decode(errors="replace"))
    return [path.rename(folder / f"frame_{number:05d}.jpg") for path, number in zip(written, chosen, strict=True)]


def _ffmpeg(video: Path) -> list[str]:
    import imageio_ffmpeg

    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        raise StudioError(
            "Reading a video needs ffmpeg, which was not found.", fix="Install it with: pip install imageio-ffmpeg"
        ) from error
    return [program, "-v", "error", "-nostdin", "-y", "-i", str(video.resolve()), "-map", "0:v:0"]


def _sharpness(grey: npt.NDArray[np.uint8]) -> float:
    pixels = grey.astype(np.float32)
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * pixels[1:-1, 1:-1]
    return float(np.mean(np.square(laplacian), dtype=np.float64))


def _unreadable(video: Path, complaint: str) -> StudioError:
    lines = [re.sub(r"^\[[^]]*\] *", "", line).strip() for line in complaint.splitlines()]
    last = next((line for line in reversed(lines) if line), "")
    reason = f" ({last.replace(str(video.resolve()), video.name)})" if last else ""
    return StudioError(
        f"{video}: cannot be decoded as a video{reason}.", fix="Convert it to MP4 (H.264) and try again."
    )
