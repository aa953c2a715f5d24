"""A sphere in closed form: depth, opacity and normals of a render can be computed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from ball_config import BallConfig
from torch import Tensor, nn

from studio.cameras import Cameras
from studio.files import atomic_write
from studio.plugin import Field, PhotoBatch, PhotoRequest, SceneInfo, TrainingContext


class BallField(Field):
    config: BallConfig
    output_names: ClassVar[tuple[str, ...]] = ("rgb", "depth", "opacity", "normals")
    export_formats: ClassVar[Mapping[str, str]] = {"txt": "centre and radius", "pointcloud": "one point"}

    def __init__(self, config: BallConfig, scene_info: SceneInfo) -> None:
        super().__init__(config, scene_info)
        self.gain = nn.Parameter(torch.zeros(()))
        self.inner = nn.Linear(3, 5)

    def setup_training(self, context: TrainingContext) -> None:
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    def batch_request(self, step: int) -> PhotoRequest:
        return PhotoRequest()

    def training_step(self, batch: PhotoBatch, step: int) -> dict[str, Tensor]:
        loss = (torch.sigmoid(self.gain) - batch.photos[0].rgb.mean()).square()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.detach(), "psnr": -10 * loss.detach().log10()}

    def render(
        self, cameras: Cameras, outputs: Sequence[str] = ("rgb",), *, background: Tensor | None = None
    ) -> dict[str, Tensor]:
        rays = cameras.rays()
        along = -(rays.origins * rays.directions).sum(-1, keepdim=True)
        closest = rays.origins + along * rays.directions
        inside = self.config.radius**2 - closest.square().sum(-1, keepdim=True)
        distance = along - inside.clamp(min=0).sqrt()
        hit = ((inside > 0) & (distance > 0)).float()
        point = rays.origins + distance * rays.directions
        cosine = (rays.directions * cameras.forward[..., None, None, :]).sum(-1, keepdim=True)
        found = {
            "rgb": hit.expand(*hit.shape[:-1], 3) * torch.sigmoid(self.gain.detach()),
            "depth": hit * distance * cosine,
            "opacity": hit,
            "normals": hit * point / self.config.radius,
        }
        return {name: found[name] for name in outputs}

    def export(self, format: str, path: Path, *, input_from_scene: Tensor) -> None:
        scale = torch.linalg.det(input_from_scene[:3, :3]) ** (1 / 3)
        with atomic_write(path, "w") as handle:
            print(*input_from_scene[:3, 3].tolist(), float(scale) * self.config.radius, file=handle)
