"""Densities and colours on a grid, as in Sun, Sun and Chen 2022 (DVGO), without its network and its coarse stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from studio.cameras import Cameras, Rays
from studio.marching import (
    composite,
    expected_depth,
    midpoints,
    ray_box,
    render_camera,
    stratified,
    weights_from_density,
)
from studio.plugin import Field, RayBatch, RayRequest, SceneInfo, TrainingContext
from voxel_plugin import VoxelConfig


class VoxelField(Field):
    """The scene's box, or where it has none one as large as the circle of cameras."""

    config: VoxelConfig
    camera_models = ("pinhole", "opencv", "fisheye", "equirectangular", "orthographic")

    def __init__(self, config: VoxelConfig, scene_info: SceneInfo) -> None:
        super().__init__(config, scene_info)
        reach = scene_info.camera_extent
        self.register_buffer("box", torch.tensor(scene_info.bounds or ((-reach,) * 3, (reach,) * 3)))
        # Density before its softplus, and three colours before their sigmoid.
        self.grid = nn.Parameter(torch.zeros(1, 4, *(config.resolution,) * 3))

    def setup_training(self, context: TrainingContext) -> None:
        self._context = context
        self._optimizer = torch.optim.Adam([self.grid], lr=self.config.lr, betas=(0.9, 0.99), eps=1e-15)

    def batch_request(self, step: int) -> RayRequest:
        return RayRequest(self.config.rays)

    def training_step(self, batch: RayBatch, step: int) -> dict[str, Tensor]:
        background = torch.tensor(self.scene_info.background or (0.0, 0.0, 0.0), device=self.device)
        target = torch.lerp(background.expand_as(batch.rgb), batch.rgb, batch.alpha)
        _, _, weights, colors = self._march(batch.origins, batch.directions, self._context.generator)
        loss = (composite(weights, colors, background) - target).square().mean()
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.lr * 0.1 ** self._context.progress(step)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return {"loss": loss.detach(), "psnr": -10 * loss.detach().log10()}

    def training_state(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict(dict(state["optimizer"]))

    @torch.no_grad()
    def render(
        self, cameras: Cameras, outputs: Sequence[str] = ("rgb",), *, background: Tensor | None = None
    ) -> dict[str, Tensor]:
        behind = torch.zeros(3, device=self.device) if background is None else background.to(self.device)

        def shade(rays: Rays) -> dict[str, Tensor]:
            t, _, weights, colors = self._march(rays.origins, rays.directions)
            found = {
                "rgb": composite(weights, colors, behind).clamp(0, 1),
                "depth": (expected_depth(weights, t) * rays.depth_scale)[:, None],
                "opacity": weights.sum(dim=1, keepdim=True),
            }
            return {name: found[name] for name in outputs}

        drawn = [render_camera(camera, shade, chunk=4096) for camera in cameras.reshape(-1)]
        return {
            name: torch.stack([d[name] for d in drawn]).reshape(*cameras.shape, *drawn[0][name].shape)
            for name in outputs
        }

    @torch.no_grad()
    def density(self, points: Tensor) -> Tensor:
        """Absorption per scene unit at points (m, 3); 0 outside of the box."""
        inside = ((points >= self.box[0]) & (points <= self.box[1])).all(dim=-1)
        return self._values(points)[0] * inside

    @torch.no_grad()
    def ray_samples(self, origin: Tensor, direction: Tensor) -> dict[str, Tensor]:
        """What `render` composites along one ray."""
        found = self._march(origin[None], direction[None])
        return dict(zip(("t", "density", "weights", "rgb"), (value[0] for value in found), strict=True))

    def _values(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density (...) and colour (..., 3) of points (..., 3)."""
        side = self.box[1] - self.box[0]
        place = (2 * (points - self.box[0]) / side - 1).reshape(1, -1, 1, 1, 3)
        values = F.grid_sample(self.grid, place, align_corners=True).reshape(4, *points.shape[:-1])
        # Thin at first (a third of the light is lost across the box), so that light reaches all of it.
        return F.softplus(10 * values[0] - 4) * 20 / side.max(), values[1:].movedim(0, -1).sigmoid()

    def _march(
        self, origins: Tensor, directions: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Distances, densities, weights (n, s) and colours (n, s, 3) along rays; jittered with a generator."""
        near, far, _ = ray_box(origins, directions, self.box)
        # On the CPU, where the generator is.
        edges = stratified(near.cpu(), far.cpu(), self.config.samples, generator=generator).to(origins)
        t = midpoints(edges)
        density, colors = self._values(origins[:, None] + t[..., None] * directions[:, None])
        return t, density, weights_from_density(density, edges), colors
