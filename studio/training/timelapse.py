"""A film of a scene coming into being, seen from one fixed camera at steps that lie ever further apart."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.export.pictures import caption, save_picture
from studio.export.video import VideoWriter
from studio.plugin.base import Field
from studio.training.loop import Observer, Trainer, TrainingResult
from studio.training.randomness import undisturbed
from studio.training.run import RunFolder

FOLDER, FILM = "timelapse", "timelapse.mp4"
_FRAMES, _FPS, _HOLD_SECONDS = 150, 25.0, 1.5
_FRAME = re.compile(r"step_(\d{8})\.png")


def frame_steps(total: int, frames: int = _FRAMES) -> list[int]:
    """Steps from 1 to `total`, at most so many, whose ratios are about equal: much happens early."""
    if total < 1 or frames < 2:
        raise ValueError(f"total must be at least 1 and frames at least 2, got {total} and {frames}")
    ratio = math.log(total) / (frames - 1)
    return sorted({min(round(math.exp(ratio * i)), total) for i in range(frames)})


class Timelapse(Observer):
    """Renders the camera at `frame_steps` into the run's folder timelapse/, and joins them to timelapse.mp4.

    A resumed training goes on with the film that there is.

    Args:
        camera: Batch shape (), in the scene's frame, of a model that the Field renders.
        frames: At most so many.
        tell: Told once, in one line, when a frame could not be made; training goes on without the film then.
    """

    def __init__(
        self, camera: Cameras, *, frames: int = _FRAMES, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        if camera.shape != ():
            raise ValueError(f"camera must be a single one, got batch shape {tuple(camera.shape)}")
        self._camera = camera
        self._frames = frames
        self._tell = tell
        self._due: list[int] = []
        self._broken = False

    def on_start(self, trainer: Trainer) -> None:
        for path, step in list_frames(trainer.run):
            # Left from before an older checkpoint was resumed from.
            if step > trainer.step:
                path.unlink()
        self._due = [step for step in frame_steps(trainer.settings.total_steps, self._frames) if step > trainer.step]

    def on_step(self, trainer: Trainer, step: int) -> None:
        if self._due and step >= self._due[0]:
            while self._due and self._due[0] <= step:
                self._due.pop(0)
            with trainer.outside():
                self._draw(trainer, step)

    def on_end(self, trainer: Trainer, result: TrainingResult) -> None:
        self._draw(trainer, result.step)
        if not self._broken and result.reason != "interrupted":
            try:
                save_timelapse(trainer.run)
            except StudioError as error:
                self._tell(f"note: no film of the timelapse: {error}")

    def _draw(self, trainer: Trainer, step: int) -> None:
        if self._broken:
            return
        field = trainer.plugin
        assert isinstance(field, Field)
        training = field.training
        try:
            with undisturbed(), torch.no_grad():
                field.eval()
                color = field.scene_info.background
                behind = torch.tensor(color if color is not None else (0.0, 0.0, 0.0)).to(field.device)
                drawn = field.render(self._camera.to(field.device), ("rgb",), background=behind)["rgb"].cpu()
            save_picture(trainer.run.path / FOLDER / f"step_{step:08d}.png", caption(drawn, f"step {step:,}"))
        except (StudioError, OSError) as error:
            self._broken = True
            self._tell(f"note: no more frames of the timelapse: {error}")
        finally:
            field.train(training)


def list_frames(run: RunFolder) -> list[tuple[Path, int]]:
    """The frames of a run's timelapse and their steps, in order."""
    found = [(path, _FRAME.fullmatch(path.name)) for path in sorted((run.path / FOLDER).glob("step_*.png"))]
    return [(path, int(match[1])) for path, match in found if match is not None]


def save_timelapse(run: RunFolder) -> Path | None:
    """Join the frames to the film; the last one stands for a while. None where there are not two.

    Raises:
        StudioError: No ffmpeg, a full disk, or frames of different sizes.
    """
    frames = [path for path, _ in list_frames(run)]
    if len(frames) < 2:
        return None
    target = run.path / FILM
    size: tuple[int, int] | None = None
    with VideoWriter(target, fps=_FPS) as video:
        for path in [*frames, *[frames[-1]] * round(_HOLD_SECONDS * _FPS)]:
            with Image.open(path) as opened:
                if size is not None and opened.size != size:
                    raise StudioError(f"{path}: has another size than the frames before.", fix="Delete the old frames.")
                size = opened.size
                video.write(torch.from_numpy(np.array(opened.convert("RGB"), dtype=np.float32) / 255.0))
    return target
