"""Writing frames as an MP4, a GIF, or a folder of numbered pictures."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol

import numpy as np
from jaxtyping import Float
from torch import Tensor

from studio.errors import StudioError
from studio.export.pictures import save_picture, to_uint8
from studio.files import atomic_path, sync_folder

_FRAME_NAME = "frame_{:05d}.png"
_IS_FRAME = re.compile(r"^frame_\d{5,}\.png$")


class VideoWriter:
    """Takes frames one by one and keeps none: memory does not grow with the length.

    Use it as a context manager. What it writes appears at `path` when the block ends well; an error or Ctrl-C inside
    the block leaves whatever stood there before.

    Args:
        path: *.mp4 (H.264, yuv420p, plays everywhere), *.gif (256 colours a frame, endless loop), or without a suffix
            a folder of frame_00000.png, frame_00001.png, ... A folder that holds only such frames is replaced.
        fps: Frames a second; a GIF's are rounded to hundredths of a second each.
        crf: Quality of MP4, 0 (lossless) to 51; 18 is visually lossless.

    Raises:
        StudioError: Another suffix, a folder that holds other files, no ffmpeg, a full disk.
    """

    def __init__(self, path: str | os.PathLike[str], *, fps: float = 30.0, crf: int = 18) -> None:
        self.path = Path(path)
        if not 0 < fps <= 1000:
            raise ValueError(f"fps must be above 0 and at most 1000, got {fps}")
        if not 0 <= crf <= 51:
            raise ValueError(f"crf must be 0 to 51, got {crf}")
        self.frames_written = 0
        self._size: tuple[int, int] | None = None
        suffix = self.path.suffix.lower()
        self._encoder: _Encoder
        if suffix == "":
            self._encoder = _FolderEncoder(self.path)
        elif suffix in (".mp4", ".gif"):
            self._encoder = _FfmpegEncoder(self.path, fps, crf)
        else:
            raise StudioError(
                f"{path}: a video is written as .mp4, .gif, or into a folder (no ending).", fix="Choose one of these."
            )

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, frame: Float[Tensor, "h w 3"]) -> None:
        """Append one frame in [0, 1]; all frames have the size of the first.

        An MP4 needs even sizes: odd ones are padded by repeating the last row or column.

        Raises:
            ValueError: Another shape than the first frame's.
            StudioError: The disk is full, or the encoder failed.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise ValueError(f"frame {self.frames_written} must be (H, W, 3), got {tuple(frame.shape)}")
        size = (frame.shape[0], frame.shape[1])
        if self._size is not None and size != self._size:
            raise ValueError(f"frame {self.frames_written} must be {self._size} like the first, got {size}")
        self._size = size
        self._encoder.write(frame, self.frames_written)
        self.frames_written += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self.frames_written == 0:
            error = ValueError(f"no frame was written to {self.path}")
            self._encoder.abort(error)
            raise error
        if error is None:
            self._encoder.finish()
        else:
            self._encoder.abort(error)


class _Encoder(Protocol):
    def write(self, frame: Tensor, index: int) -> None: ...
    def finish(self) -> None: ...
    def abort(self, error: BaseException) -> None: ...


class _FfmpegEncoder:
    """Pipes raw frames to ffmpeg, which writes to a temporary name."""

    def __init__(self, path: Path, fps: float, crf: int) -> None:
        self._path, self._fps, self._crf = path, fps, crf
        self._binary = _ffmpeg()
        self._stack = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def write(self, frame: Tensor, index: int) -> None:
        pixels = to_uint8(frame)
        if self._path.suffix.lower() == ".mp4":
            pixels = np.pad(pixels, ((0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)), mode="edge")
        if self._process is None:
            self._start(pixels.shape[1], pixels.shape[0])
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(pixels).data)
        except OSError as error:
            raise self._failure() from error

    def finish(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            if self._process.wait() != 0:
                raise self._failure()
        except BaseException as error:
            self.abort(error)
            raise
        self._stack.close()

    def abort(self, error: BaseException) -> None:
        """Stop ffmpeg and drop the temporary file; raises what `atomic_path` makes of the error, if anything else."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            with contextlib.suppress(OSError):
                if self._process.stdin is not None:
                    self._process.stdin.close()
            self._process.wait()
        self._stack.__exit__(type(error), error, error.__traceback__)

    def _start(self, width: int, height: int) -> None:
        temporary = self._stack.enter_context(atomic_path(self._path))
        self._log = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{self._fps:.6g}", "-i", "-"]
        command = [self._binary, "-hide_banner", "-loglevel", "error", "-y", *source, *self._options(), str(temporary)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            # Ctrl-C must reach this process only, which then decides what becomes of the file.
            start_new_session=os.name == "posix",
        )

    def _options(self) -> list[str]:
        if self._path.suffix.lower() == ".gif":
            # A palette for each frame needs no second pass, so that frames stream.
            palette = "split[a][b];[a]palettegen=stats_mode=single[p];[b][p]paletteuse=new=1:dither=sierra2_4a"
            return ["-filter_complex", palette, "-loop", "0"]
        # Without explicit matrix and tags ffmpeg converts as for old television and players guess by the size.
        convert = "scale=in_range=full:out_range=limited:out_color_matrix=bt709:flags=accurate_rnd,format=yuv420p"
        tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
        return ["-vf", convert, "-c:v", "libx264", "-crf", str(self._crf), *tags, "-movflags", "+faststart"]

    def _failure(self) -> StudioError:
        assert self._process is not None
        assert self._log is not None
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}")
        full = next((line for line in lines if "No space left on device" in line), None)
        return StudioError(f"{self._path}: ffmpeg could not write the video ({full or said}).")


class _FolderEncoder:
    """Writes frames into a temporary folder beside the wanted one."""

    def __init__(self, path: Path) -> None:
        self._path = Path(os.path.realpath(path))
        self._temporary: Path | None = None
        if self._path.exists():
            others = (
                [p.name for p in self._path.iterdir() if not _IS_FRAME.match(p.name)] if self._path.is_dir() else []
            )
            if others or not self._path.is_dir():
                what = f"holds other files than frames ({others[0]})" if others else "is a file"
                raise StudioError(f"{path}: {what}, so it is not replaced.", fix="Choose another folder.")

    def write(self, frame: Tensor, index: int) -> None:
        if self._temporary is None:
            temporary = self._beside()
            try:
                temporary.mkdir(parents=True)
            except OSError as error:
                raise StudioError(
                    f"{self._path}: the folder cannot be made ({error.strerror or error}).", fix="Choose another place."
                ) from error
            self._temporary = temporary
        save_picture(self._temporary / _FRAME_NAME.format(index), frame)

    def finish(self) -> None:
        assert self._temporary is not None
        old: Path | None = None
        if self._path.exists():
            # A folder cannot be renamed over a filled one: the old frames step aside for an instant.
            old = self._beside()
            os.replace(self._path, old)
        os.replace(self._temporary, self._path)
        sync_folder(self._path.parent)
        if old is not None:
            shutil.rmtree(old)

    def abort(self, error: BaseException) -> None:
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _beside(self) -> Path:
        return self._path.with_name(f".{self._path.name}.{secrets.token_hex(6)}.partial")


def _ffmpeg() -> str:
    import imageio_ffmpeg  # type: ignore[import-untyped]

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise StudioError(
            "Writing videos needs ffmpeg, which was not found.",
            fix="Install it, or name its program in the environment variable IMAGEIO_FFMPEG_EXE.",
        ) from error
