"""A run opened again: its plugin with trained weights, ready to render, sample and be measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from studio.cameras import Cameras
from studio.devices import select
from studio.errors import StudioError
from studio.metrics import EvaluationReport, Lpips, PhotoMetric, PhotoScore, Protocol, score_photo
from studio.plugin.base import DataInfo, Field, Generator, Plugin, SceneInfo
from studio.reading.files import is_file
from studio.registry import find_plugin, load_config_class, load_plugin_class
from studio.scene import Frame, Photo, PhotoStore, Scene
from studio.scene.record import load_saved_scene
from studio.scene.scene import SPLITS
from studio.training.run import RunConfig, RunFolder
from studio.training.state import UNKNOWN, read_checkpoint, restore_plugin

_WARM_UP_WIDTH = 32


@dataclass
class LoadedRun:
    """A trained plugin and the folder it lives in."""

    run: RunFolder
    config: RunConfig
    plugin: Plugin
    step: int
    """Training steps behind the weights."""
    reason: str = UNKNOWN
    """How its training ended: 'finished', 'budget', or 'interrupted', also by a kill; 'unknown' in runs of before this
    was kept."""

    @property
    def path(self) -> Path:
        return self.run.path

    @property
    def field(self) -> Field:
        """The plugin, when it is a Field; raises StudioError when not."""
        if not isinstance(self.plugin, Field):
            raise StudioError(
                f"{self.path}: a run of '{self.config.plugin}', a generator; this needs a scene (field) run."
            )
        return self.plugin

    @property
    def generator(self) -> Generator:
        """The plugin, when it is a Generator; raises StudioError when not."""
        if not isinstance(self.plugin, Generator):
            raise StudioError(f"{self.path}: a run of '{self.config.plugin}', a field; this needs a generator run.")
        return self.plugin

    @cached_property
    def scene(self) -> Scene:
        """Frames, cameras and the normalising transform as they were at training; the photos may be gone."""
        return load_saved_scene(self.run.scene_file)

    @property
    def background(self) -> Tensor | None:
        """What renders are composited on, (3,) sRGB; None for opaque scenes."""
        color = self.field.scene_info.background
        return None if color is None else torch.tensor(color)

    def photos(self, split: str) -> PhotoStore:
        """The photos of a split, at the size this run was trained on.

        Raises:
            StudioError: The split is empty, or photos are no longer where they were.
        """
        frames = _frames_of(self.scene, split)
        missing = [frame for frame in frames if not is_file(frame.image_path)]
        if missing:
            raise StudioError(
                f"{self.scene.root}: {len(missing)} of the {len(frames)} photos of split '{split}' are no longer there "
                f"(first: {missing[0].image_path}).",
                fix="Put the folder back where it was when the run was trained.",
            )
        return photo_store(self.scene, split, self.field, self.config.data.downscale, self.config.data.cache_gb)

    def cameras(self, split: str = "train") -> Cameras:
        """The cameras of a split's photos as one batch (n,), ready to render or to lay a path by; needs no photos.

        They have the size of training (all that of the first, where photos differ) and no distortion that the plugin
        does not know: training saw those photos undistorted to a pinhole of the same focal length, too.

        Raises:
            StudioError: The split is empty, or its cameras are of a kind that the plugin cannot render.
        """
        frames = _frames_of(self.scene, split)
        cameras = [frame.camera.rescale(1 / self.config.data.downscale) for frame in frames]
        if len({camera.model for camera in cameras}) > 1 or cameras[0].model not in self.field.camera_models:
            for frame in frames:
                if frame.camera.model not in ("pinhole", "opencv", "fisheye"):
                    raise StudioError(
                        f"{frame.name}: its camera is {frame.camera.model}, which '{self.config.plugin}' cannot render."
                    )
            cameras = [replace(camera, model="pinhole", distortion=None) for camera in cameras]
        size = cameras[0].size
        return Cameras.stack([camera if camera.size == size else camera.for_size(*size) for camera in cameras])

    @torch.no_grad()
    def render(self, cameras: Cameras, outputs: Sequence[str] = ("rgb",)) -> Iterator[dict[str, Tensor]]:
        """Render a batch of cameras (batch shape (n,)) one by one: dicts of (h, w, c) tensors on the CPU."""
        background = self.background
        for camera in cameras:
            drawn = self.field.render(
                camera.to(self.plugin.device),
                outputs,
                background=None if background is None else background.to(self.plugin.device),
            )
            yield {name: image.cpu() for name, image in drawn.items()}

    def evaluate(
        self,
        split: str | None = None,
        *,
        lpips: Lpips | None = None,
        lpips_name: str = "unavailable",
        metrics: Sequence[tuple[PhotoMetric, str]] = (),
        on_photo: Callable[[Photo, Tensor, PhotoScore], None] | None = None,
    ) -> EvaluationReport:
        """PSNR, SSIM and LPIPS over the photos of a split (held-out ones by default), through `Field.render`.

        Args:
            metrics: Metrics of other packages, each with the name and version of its distribution for the protocol.
        """
        return evaluate_field(
            self.field,
            self.photos(split or self.scene.evaluation_split),
            split=split or self.scene.evaluation_split,
            downscale=self.config.data.downscale,
            lpips=lpips,
            lpips_name=lpips_name,
            metrics=metrics,
            on_photo=on_photo,
        )


def _frames_of(scene: Scene, split: str) -> tuple[Frame, ...]:
    """The frames of a split; raises StudioError where there are none."""
    frames = tuple(frame for frame in scene.frames if frame.split == split)
    if not frames:
        counts = ", ".join(f"{name} {sum(frame.split == name for frame in scene.frames)}" for name in SPLITS)
        raise StudioError(
            f"{scene.root}: the scene has no photos in the split '{split}' ({counts}).", fix="Choose another split."
        )
    return frames


def photo_store(scene: Scene, split: str, field: Field | type[Field], downscale: float, cache_gb: float) -> PhotoStore:
    """Photos of a split as a Field takes them: undistorted to pinhole when it does not know their camera model."""
    frames = _frames_of(scene, split)
    undistort = any(frame.camera.model not in field.camera_models for frame in frames)
    return PhotoStore(frames, downscale=downscale, cache_bytes=int(cache_gb * 2**30), undistort=undistort)


@torch.no_grad()
def evaluate_field(
    field: Field,
    photos: PhotoStore,
    *,
    split: str,
    downscale: float = 1.0,
    limit: int | None = None,
    lpips: Lpips | None = None,
    lpips_name: str = "unavailable",
    metrics: Sequence[tuple[PhotoMetric, str]] = (),
    on_photo: Callable[[Photo, Tensor, PhotoScore], None] | None = None,
) -> EvaluationReport:
    """Render each photo's camera and measure it against the photo.

    Args:
        metrics: Metrics of other packages, each with the name and version of its distribution for the protocol.
        limit: Measure only this many photos, spread evenly.
        on_photo: Called with each photo, its render (h, w, 3) and its score, to save comparison pictures.
    """
    color = field.scene_info.background
    background = torch.tensor(color) if color is not None else torch.zeros(3)
    chosen = range(len(photos))
    if limit is not None and limit < len(photos):
        chosen = range(0, len(photos), -(-len(photos) // limit))
    scores, masked = [], False
    # Compiles kernels and fills caches, so that the first photo's time is that of a render.
    first = photos.get(chosen[0]).camera
    field.render(first.rescale(min(_WARM_UP_WIDTH / first.size[0], 1.0)).to(field.device), ("rgb",))
    for index in chosen:
        photo = photos.get(index)
        started = time.perf_counter()
        rgb = field.render(photo.camera.to(field.device), ("rgb",), background=background.to(field.device))["rgb"].cpu()
        seconds = time.perf_counter() - started
        masked = masked or photo.mask is not None
        score = score_photo(
            photo.frame.name,
            rgb,
            photo.composited(background),
            mask=photo.mask,
            lpips=lpips,
            metrics=[metric for metric, _ in metrics],
            seconds=seconds,
        )
        scores.append(score)
        if on_photo is not None:
            on_photo(photo, rgb, score)
    protocol = Protocol(
        split=split,
        photos=len(scores),
        background=_color_name(color),
        resize="none" if downscale == 1 else f"area 1/{downscale:g}",
        masks="scene" if masked else "none",
        lpips=lpips_name,
        metrics={metric.name: owner for metric, owner in metrics},
    )
    return EvaluationReport(tuple(scores), protocol)


def _color_name(color: tuple[float, float, float] | None) -> str:
    names = {(1.0, 1.0, 1.0): "white", (0.0, 0.0, 0.0): "black"}
    return "none" if color is None else names.get(color, ",".join(f"{c:g}" for c in color))


def build_plugin(config: RunConfig) -> Plugin:
    """An untrained plugin as a run's configuration describes it, on the CPU."""
    entry = find_plugin(config.plugin)
    settings = load_config_class(entry).from_dict(config.config, source=f"configuration of '{config.plugin}'")
    cls = load_plugin_class(entry)
    info = SceneInfo.from_dict(config.info) if config.kind == "field" else DataInfo.from_dict(config.info)
    return cls(settings, info)  # type: ignore[call-arg]


def open_run(path: str | Path, *, device: str = "auto", checkpoint: int | None = None) -> LoadedRun:
    """Load a run's plugin with its newest weights; needs neither its photos nor its data set.

    Args:
        path: The run folder, or any folder above it, whose newest run is taken.
        device: 'auto', 'cpu', 'cuda', 'cuda:1', 'mps'.
        checkpoint: The step of a certain checkpoint.

    Raises:
        StudioError: No run there, its plugin is not installed, or its checkpoint is damaged.
    """
    run = RunFolder.open(Path(path))
    config = run.read_config()
    file = run.latest_checkpoint() if checkpoint is None else run.checkpoint_path(checkpoint)
    plugin = build_plugin(config)
    saved = read_checkpoint(file)
    restore_plugin(plugin, saved.plugin, file)
    entry = find_plugin(config.plugin)
    assert entry.spec is not None
    plugin.to(select(device, supported=entry.spec.devices).torch_device)
    plugin.eval()
    return LoadedRun(run, config, plugin, saved.step, saved.ended or "interrupted")
