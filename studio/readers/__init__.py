"""Reading posed photos from the formats that people have; the format is found by itself."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path

import torch

from studio.errors import StudioError
from studio.readers.detect import detect_reader
from studio.readers.holdout import hold_out
from studio.readers.registry import Reader, ReaderFamily, ReadOptions, get_reader, reader_names, register_reader
from studio.reading.files import is_file, is_folder
from studio.reading.neighbours import meant
from studio.scene import Frame, PointCloud, Scene, normalize_scene
from studio.scene.decode import VIDEO_SUFFIXES
from studio.scene.normalize import NormalizeMethod

__all__ = [
    "ReadOptions",
    "Reader",
    "ReaderFamily",
    "detect_reader",
    "get_reader",
    "hold_out",
    "load_scene",
    "reader_names",
    "register_reader",
]


def load_scene(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    normalize: NormalizeMethod = "auto",
    eval_every: int = 8,
    images: str | None = None,
    masks: str | None = None,
    test_file: str | None = None,
    model: str | None = None,
    ignore_distortion: bool = False,
    double: bool = False,
) -> Scene:
    """Read a folder of posed photos. No photo is decoded, only their sizes are looked up.

    Args:
        path: The scene's folder, or a ``transforms*.json`` in it.
        format: Name of a reader (`reader_names`); None finds it by what is in the folder.
        normalize: See `studio.scene.normalize_scene`.
        eval_every: Without a test split, every so manyth photo by name is held out; 0 holds out none.
        images: Folder of the photos inside the scene folder, such as ``images_4``.
        masks: Folder of the masks inside the scene folder.
        test_file: File that lists the test photos, such as ``transforms_test25.json``.
        model: Folder of the COLMAP model inside the scene folder, such as ``sparse/1``.
        ignore_distortion: Take photos of distorted perspective lenses as pinhole photos.
        double: Leave cameras and points in float64, for files that are written rather than rendered: float32 has
            steps of half a metre at map coordinates.

    Returns:
        The scene; cameras and points are float32 unless `double`. `Scene.notes` tells what was noticed and decided.

    Raises:
        StudioError: Bad input; one line that names the file, the field and the fix.
    """
    root, file = Path(path).expanduser(), None
    if root.suffix.lower() == ".json" and is_file(root):
        root, file, format = root.parent, root.name, format or "transforms"
    if root.suffix.lower() in VIDEO_SUFFIXES and is_file(root):
        folder = shlex.quote(root.stem + "-scene")
        raise StudioError(
            f"{root}: is a video, which has no poses.",
            fix=f"Find them: studio data process {shlex.quote(str(root))} --output {folder}",
        )
    if not is_folder(root):
        raise StudioError(
            f"{root}: {'is a file, not a folder' if is_file(root) else 'there is no such folder'}.",
            fix=meant(root, "Name the folder that holds the photos and their poses."),
        )
    # Path(".").name is empty; the resolved folder has the name that people know it by.
    root = root if root.name not in ("", "..") else root.resolve()
    options = ReadOptions(file, images, masks, test_file, model, ignore_distortion)
    reader = detect_reader(root) if format is None else get_reader(format)
    scene = reader.read(root, options)
    if not scene.frames:
        raise StudioError(f"{root}: the scene has no photos.", fix="Check that the folder is complete.")
    if ignore_distortion:
        scene = replace(scene, frames=tuple(_without_distortion(frame) for frame in scene.frames))
    scene = hold_out(scene, eval_every)
    if not scene.split("train"):
        raise StudioError(f"{root}: the scene has no photos to train on.", fix="Check its lists of photos.")
    scene = normalize_scene(scene, normalize)
    if scene.bounds is None and scene.points is not None:
        scene = replace(scene, bounds=scene.points.bounds())
    return scene if double else _single_precision(scene)


def _without_distortion(frame: Frame) -> Frame:
    if frame.camera.model != "opencv":
        return frame
    return replace(frame, camera=replace(frame.camera, model="pinhole", distortion=None))


def _single_precision(scene: Scene) -> Scene:
    """float32 for all that is computed with; done last, so that far-off origins (map coordinates) lose no digits."""
    points = scene.points
    return replace(
        scene,
        frames=tuple(replace(f, camera=f.camera.to(dtype=torch.float32)) for f in scene.frames),
        points=None if points is None else PointCloud(points.xyz.float(), points.rgb.float()),
        bounds=None if scene.bounds is None else scene.bounds.float(),
    )
