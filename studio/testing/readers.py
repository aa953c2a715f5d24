"""Checks of a reader of posed photos, on a folder of its format."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from studio.errors import StudioError
from studio.readers import Reader, ReadOptions, get_reader, load_scene
from studio.scene import Scene
from studio.testing.report import Check, CheckFailed, CheckReport, Runner


def check_reader(
    reader: str | Reader, folder: str | os.PathLike[str], *, tell: Callable[[Check], None] = lambda check: None
) -> CheckReport:
    """Check that a reader knows its format, and gives scenes that the engine can train on.

    Args:
        reader: The name of an installed one, or the reader itself.
        folder: A scene in its format.
        tell: Hears of each check when it is done.

    Raises:
        StudioError: There is no reader of this name.
    """
    chosen = get_reader(reader) if isinstance(reader, str) else reader
    root = Path(folder)
    runner = Runner(tell)
    scenes: list[Scene] = []

    def reads() -> str:
        scenes.append(chosen.read(root, ReadOptions()))
        return f"{len(scenes[0].frames)} photos"

    def loads() -> str:
        if not isinstance(reader, str):
            return "not by the engine: give the name of an installed reader for that"
        scene = load_scene(root, format=reader)
        return f"{len(scene.split('train'))} to train on, {len(scene.split('test'))} held out"

    runner.run("detects its format", lambda: _detects(chosen, root))
    runner.run("reads", reads)
    runner.run("frames", lambda: _frames(chosen, scenes[0]), needs=("reads",))
    runner.run("poses", lambda: _poses(scenes[0]), needs=("reads",))
    runner.run("the engine loads it", loads, needs=("reads",))
    runner.run("bad input", lambda: _bad_input(chosen))
    return CheckReport(chosen.name, str(root), tuple(runner.checks))


def _detects(reader: Reader, root: Path) -> None:
    if (missing := reader.detect(root)) is not None:
        raise CheckFailed(f"detect says of {root}: {missing}.", "Return None for a folder of the format.")
    with tempfile.TemporaryDirectory() as empty:
        found = reader.detect(Path(empty))
    if not isinstance(found, str) or not found:
        raise CheckFailed(
            f"detect returns {found!r} for an empty folder.", "Say what is missing, such as 'no poses.csv'."
        )


def _frames(reader: Reader, scene: Scene) -> str:
    if scene.format != reader.name:
        raise CheckFailed(f"the scene's format is '{scene.format}', the reader's name '{reader.name}'.")
    names = [frame.name for frame in scene.frames]
    if not names:
        raise CheckFailed("the scene has no photos.")
    if len(set(names)) != len(names):
        raise CheckFailed("two photos have one name.", "Name them by their paths inside the folder.")
    for frame in scene.frames:
        if not frame.image_path.is_file():
            raise CheckFailed(f"{frame.image_path} is not there.", "Raise StudioError for photos that are missing.")
        with Image.open(frame.image_path) as picture:
            if picture.size != frame.camera.size:
                raise CheckFailed(
                    f"{frame.name} has {picture.size} pixels, its camera {frame.camera.size}.",
                    "Cameras have the size of the photo on disk.",
                )
    return f"{len(names)} photos"


def _poses(scene: Scene) -> None:
    poses = torch.stack([frame.camera.camera_to_world for frame in scene.frames]).double()
    rotation = poses[:, :3, :3]
    if not bool(poses.isfinite().all()):
        raise CheckFailed("a pose is not finite.")
    identity = torch.eye(3, dtype=torch.float64)
    if float((rotation @ rotation.mT - identity).abs().max()) > 1e-3:
        raise CheckFailed("a pose is no rotation and translation.", "Undo scale before; studio.cameras.poses helps.")
    if float(torch.linalg.det(rotation).min()) < 0:
        raise CheckFailed("a pose mirrors.", "Cameras are OpenCV: +x right, +y down, +z forward, right-handed.")
    # Photos of one object are taken from around it: most cameras see the point that their axes come closest to.
    centers, forward = poses[:, :3, 3], poses[:, :3, 2]
    across = identity - forward[:, :, None] * forward[:, None, :]
    focus = torch.linalg.lstsq(across.sum(0), (across @ centers[..., None]).sum(0)).solution[:, 0]
    behind = ((focus - centers) * forward).sum(-1) < 0
    if float(behind.double().mean()) > 0.5:
        raise CheckFailed(
            "most cameras look away from what they have in common.",
            "The format's cameras look along -z: turn them with studio.cameras.flip_opengl.",
        )


def _bad_input(reader: Reader) -> None:
    with tempfile.TemporaryDirectory() as empty:
        try:
            reader.read(Path(empty), ReadOptions())
        except StudioError:
            return
        except Exception as error:
            raise CheckFailed(
                f"reading an empty folder raises {type(error).__name__}.", "Raise StudioError that names the file."
            ) from error
    raise CheckFailed("reading an empty folder raises nothing.", "Raise StudioError that names the file.")
