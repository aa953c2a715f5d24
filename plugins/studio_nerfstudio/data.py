"""A data manager of nerfstudio's that feeds a Field what it asks for: whole photos or rays, by our own sources."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset

from studio.plugin import Field, PhotoRequest, RayRequest, SceneInfo
from studio.plugin.batches import Request
from studio.scene import PhotoStore, PointCloud, Scene
from studio.training.sources import SceneSource
from studio_nerfstudio.parsers import to_scene

INFO_KEY = "studio_scene_info"
"""Where the metadata of the training data set keeps the `SceneInfo` that the model is built from."""
BATCH_KEY = "studio"
"""Where a batch keeps what the Field asked for."""


@dataclass
class StudioDataManagerConfig(FullImageDatamanagerConfig):
    """Any data parser; training photos are decoded, cached and undistorted as `studio train` does."""

    _target: type = field(default_factory=lambda: StudioDataManager)
    cache_gb: float = 2.0
    """Decoded training photos kept in memory, GiB."""
    seed: int = 0
    """Of the order of photos and the choice of rays."""


class StudioDataManager(FullImageDatamanager[InputDataset]):
    """Evaluates as nerfstudio's manager of whole photos does, and trains on our `SceneSource`."""

    config: StudioDataManagerConfig

    def __init__(self, config: StudioDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        # Points of the parser are where Gaussians start.
        if getattr(config.dataparser, "load_3D_points", None) is False:
            config.dataparser.load_3D_points = True
        super().__init__(config, *args, **kwargs)
        root = Path(self.config.dataparser.data)
        self.scene: Scene = _single_precision(
            to_scene({"train": self.train_dataparser_outputs}, root, format="nerfstudio")
        )
        self.photos: PhotoStore | None = None
        self.source: SceneSource | None = None
        self._request: Request = PhotoRequest()
        self.train_dataset.metadata[INFO_KEY] = self._scene_info()

    def open_photos(self, model: Field) -> PhotoStore:
        """Make the training photos ready for a Field: undistorted where it does not know their lens."""
        frames = self.scene.frames
        undistort = any(frame.camera.model not in model.camera_models for frame in frames)
        self.photos = PhotoStore(
            frames,
            downscale=1 / self.config.camera_res_scale_factor,
            cache_bytes=int(self.config.cache_gb * 2**30),
            undistort=undistort,
        )
        self.source = SceneSource(self.photos, self.config.seed, torch.device(self.device))
        return self.photos

    def ask(self, request: Request) -> None:
        """What the next training batch shall hold."""
        self._request = request

    def next_train(self, step: int) -> tuple[Any, dict[str, Any]]:
        """A camera, which training does not look at, and the batch that was asked for."""
        if self.source is None:
            raise RuntimeError("open_photos must be called before training")
        batch = self.source.next(self._request)
        return self.train_dataset.cameras[:1].to(self.device), {BATCH_KEY: batch}

    def get_train_rays_per_batch(self) -> int:
        """Rays that a training step looks at."""
        if isinstance(self._request, RayRequest):
            return self._request.count
        width, height = self.scene.frames[0].camera.size
        downscale = self._request.downscale if isinstance(self._request, PhotoRequest) else 1
        return width * height * self._request.count // downscale**2

    def _scene_info(self) -> SceneInfo:
        store = PhotoStore(self.scene.frames[:1], cache_bytes=0)
        has_alpha = store[0].image.shape[-1] == 4
        bounds = self.scene.points.bounds() if self.scene.points is not None and len(self.scene.points) else None
        box = None
        if bounds is not None:
            low, high = bounds.tolist()
            box = ((low[0], low[1], low[2]), (high[0], high[1], high[2]))
        return SceneInfo(
            num_train=len(self.scene.frames),
            camera_extent=self.scene.camera_extent,
            points_extent=self.scene.points_extent,
            bounds=box,
            has_alpha=has_alpha,
            background=(1.0, 1.0, 1.0) if has_alpha else None,
        )


def _single_precision(scene: Scene) -> Scene:
    points = None if scene.points is None else PointCloud(scene.points.xyz.float(), scene.points.rgb.float())
    frames = tuple(replace(f, camera=f.camera.to(dtype=torch.float32)) for f in scene.frames)
    return replace(scene, frames=frames, points=points, bounds=None if points is None else points.bounds())
