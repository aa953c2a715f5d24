"""The fixed camera of `studio train --timelapse`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

from studio.cameras import Cameras
from studio.cli.render_path import MOTIONS, SPLITS, PathOptions, make_path
from studio.errors import StudioError
from studio.training.loaded import LoadedRun


def timelapse_camera(run: LoadedRun, view: str, tell: Callable[[str], None] = lambda text: None) -> Cameras:
    """The camera that a user names, batch shape (), of the size of training.

    Args:
        run: Of a field; its photos are not needed.
        view: A photo's name or the end of it, or a camera path, whose first camera is taken.
        tell: Told in a line where something else had to be taken.

    Raises:
        StudioError: Neither; names the nearest photo.
    """
    if view in (*MOTIONS, *SPLITS) or view.lower().endswith(".json"):
        return make_path(run, PathOptions(path=view), tell).cameras[0]
    frames = run.scene.frames
    found = [frame for frame in frames if view in (frame.name, frame.name.rpartition("/")[2])]
    found = found or [frame for frame in frames if view in frame.name]
    if not found:
        near = difflib.get_close_matches(view, [frame.name for frame in frames], n=1, cutoff=0.4)
        raise StudioError(
            f"--timelapse {view}: there is no photo and no camera path of this name.",
            fix=f"Did you mean '{near[0]}'?" if near else "Name a photo, or orbit.",
        )
    camera = found[0].camera.rescale(1 / run.config.data.downscale)
    if camera.model not in run.field.camera_models:
        # As training saw this photo.
        camera = replace(camera, model="pinhole", distortion=None)
    return camera
