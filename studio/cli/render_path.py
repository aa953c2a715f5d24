"""The cameras of a render: a path around a trained scene, its photos' own cameras, or a camera-path file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from studio.cameras import Cameras, Similarity, interpolate, orbit_of, read_camera_path, spiral_of, surrounds
from studio.cameras.capture import capture_of, track_of
from studio.cameras.path_maker import PathMaker
from studio.errors import StudioError
from studio.extensions import list_extensions, load_extension
from studio.scene.normalize import scene_vertical
from studio.training.loaded import LoadedRun

MOTIONS = ("orbit", "spiral", "interpolate")
SPLITS = ("train", "val", "test")
_MOTION_FPS, _PHOTO_FPS, _MOTION_SECONDS = 30.0, 4.0, 4.0
_MOST_KEYFRAMES = 24


@dataclass(frozen=True)
class PathOptions:
    """What a user may say about a path; None stands for what suits it."""

    path: str = "orbit"
    frames: int | None = None
    seconds: float | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    scale: float = 1.0
    radius: float = 1.0
    elevation_degrees: float | None = None


@dataclass(frozen=True, eq=False)
class RenderPath:
    """Cameras of one size in the scene's frame, and their speed as a video."""

    cameras: Cameras
    fps: float
    name: str
    """For the names of files."""
    is_motion: bool
    """Whether it is meant as a video rather than as single pictures."""


def make_path(run: LoadedRun, options: PathOptions, tell: Callable[[str], None]) -> RenderPath:
    """Lay the path that the options ask for, by the cameras that are stored with the run.

    Args:
        run: Of a field.
        options: What the user said.
        tell: Told in one line what was decided where the scene does not allow what was asked for.

    Raises:
        StudioError: No such path or split, or cameras that the field does not take.
    """
    if options.path.lower().endswith(".json"):
        return _from_file(run, options)
    maker = None if options.path in (*MOTIONS, *SPLITS) else _maker(options.path)
    if options.path in SPLITS:
        return _photos(run, options)
    photos = run.cameras("train")
    fps = options.fps or _MOTION_FPS
    seconds = options.seconds or _MOTION_SECONDS
    count = options.frames or max(round(seconds * fps), 1)
    if options.frames and options.seconds:
        fps = options.fps or options.frames / options.seconds
    lens = _resized(photos[0], options)
    name = options.path
    up = scene_vertical(run.scene)
    if options.path == "orbit":
        track = track_of(capture_of(photos, up))
        if track is None:
            name = "spiral"
            tell("note: the photos all look the same way, so this is a spiral in front of what they show, not an orbit")
        elif not track.closed:
            degrees = math.degrees(track.arc[1] - track.arc[0])
            tell(f"note: the photos cover an arc of {degrees:.0f} degrees; the orbit swings along it and back")
    if maker is not None:
        cameras = _made(maker, photos, count, lens, run)
    elif name == "spiral":
        if options.elevation_degrees is not None:
            raise StudioError("--elevation is for orbits; this path is a spiral.", fix="Leave it out.")
        cameras = spiral_of(photos, count, lens=lens, size=options.radius, up=up)
    elif name == "orbit":
        elevation = None if options.elevation_degrees is None else math.radians(options.elevation_degrees)
        cameras = orbit_of(photos, count, lens=lens, radius=options.radius, elevation=elevation, up=up)
    else:
        keyframes = _tour(_resized(photos, options))
        cameras = interpolate(keyframes, count, closed=surrounds(photos))
    return RenderPath(cameras, fps, name, True)


def _maker(name: str) -> PathMaker:
    """A camera path of another package."""
    known = (*MOTIONS, *SPLITS, *(entry.name for entry in list_extensions("camera path")))
    if name not in known:
        raise StudioError(
            f"There is no camera path '{name}'.",
            fix=f"Use {', '.join(known)}, or a camera-path file that ends in .json.",
        )
    maker: PathMaker = load_extension("camera path", name)
    return maker


def _made(maker: PathMaker, photos: Cameras, count: int, lens: Cameras, run: LoadedRun) -> Cameras:
    """Its cameras, if they are what it promises."""
    cameras = maker.cameras(photos, count, lens=lens)
    if not isinstance(cameras, Cameras) or cameras.shape != (count,) or cameras.size != lens.size:
        got = f"{tuple(cameras.shape)} of {cameras.size}" if isinstance(cameras, Cameras) else type(cameras).__name__
        raise StudioError(
            f"The camera path '{maker.name}' gives {got} instead of ({count},) cameras of {lens.size}.",
            fix="Report this to the package that offers it.",
        )
    if cameras.model not in run.field.camera_models:
        raise StudioError(
            f"The camera path '{maker.name}' has {cameras.model} cameras, which '{run.config.plugin}' does not render.",
            fix=f"It renders {', '.join(run.field.camera_models)}.",
        )
    return cameras


def _photos(run: LoadedRun, options: PathOptions) -> RenderPath:
    cameras = run.cameras(options.path)
    if options.frames is not None:
        # Evenly over the split, the first included.
        cameras = cameras[:: max(math.ceil(len(cameras) / options.frames), 1)]
    fps = options.fps or (len(cameras) / options.seconds if options.seconds else _PHOTO_FPS)
    return RenderPath(_resized(cameras, options), fps, options.path, False)


def _from_file(run: LoadedRun, options: PathOptions) -> RenderPath:
    """Its poses are in the frame of the photos' files; pictures have the size that the file says."""
    path = read_camera_path(Path(options.path).expanduser())
    cameras = path.cameras.to(dtype=torch.float64).transformed(Similarity.from_matrix(run.scene.scene_from_input))
    cameras = cameras.to(dtype=torch.float32)
    if cameras.model not in run.field.camera_models:
        raise StudioError(
            f"{options.path}: its cameras are {cameras.model}, which this plugin does not render "
            f"(it renders {', '.join(run.field.camera_models)}).",
            fix="Export the path with perspective cameras.",
        )
    if options.frames is not None and options.frames != len(cameras):
        # Another number of frames is another speed along the same motion.
        cameras = interpolate(cameras, options.frames, closed=path.closed, spacing="uniform")
    fps = options.fps or (len(cameras) / options.seconds if options.seconds else path.fps)
    return RenderPath(_resized(cameras, options), fps, Path(options.path).stem, True)


def _resized(cameras: Cameras, options: PathOptions) -> Cameras:
    """Scaled, or at a given width or height; with both, the middle of the view at that aspect."""
    width, height = options.width, options.height
    if width is not None and height is not None:
        return cameras.for_size(width, height)
    now_width, now_height = cameras.size
    if width is not None:
        return cameras.rescale((width, max(round(now_height * width / now_width), 1)))
    if height is not None:
        return cameras.rescale((max(round(now_width * height / now_height), 1), height))
    return cameras if options.scale == 1 else cameras.rescale(options.scale)


def _tour(cameras: Cameras) -> Cameras:
    """Keyframes out of many photos: some, evenly taken, each followed by its nearest neighbour not yet visited.

    Photos of a walk are in order already and stay so; photos in no order would make a video jump about.
    """
    kept = cameras[torch.linspace(0, len(cameras) - 1, min(len(cameras), _MOST_KEYFRAMES)).round().long()]
    distances = torch.cdist(kept.origins, kept.origins)
    order, left = [0], list(range(1, len(kept)))
    while left:
        nearest = min(left, key=lambda i: float(distances[order[-1], i]))
        left.remove(nearest)
        order.append(nearest)
    return kept[torch.tensor(order)]
