"""A radiance field after Mildenhall et al. 2020 (NeRF), without view dependence: density and colour of positions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from studio.cameras import Cameras, Rays
from studio.marching import (
    composite,
    expected_depth,
    midpoints,
    opacity,
    ray_box,
    render_camera,
    stratified,
    weights_from_density,
)
from studio.plugin import Field, RayBatch, RayRequest, SceneInfo, TrainingContext
from studio.templates.field.config import TemplateConfig

_CHUNK = 1 << 18
"""Points that go through the network at once."""


class TemplateField(Field):
    """Density and colour in the scene's box; where it has none, in one as large as the circle of cameras."""

    config: TemplateConfig
    output_names = ("rgb", "depth", "opacity")
    camera_models = ("pinhole", "opencv", "fisheye", "equirectangular", "orthographic")

    def __init__(self, config: TemplateConfig, scene_info: SceneInfo) -> None:
        super().__init__(config, scene_info)
        reach = scene_info.camera_extent
        box = scene_info.bounds or ((-reach,) * 3, (reach,) * 3)
        self.register_buffer("box", torch.tensor(box))
        self.network = nn.Sequential(
            nn.Linear(3 + 6 * config.frequencies, config.width),
            nn.ReLU(),
            nn.Linear(config.width, config.width),
            nn.ReLU(),
            nn.Linear(config.width, config.width),
            nn.ReLU(),
            nn.Linear(config.width, 4),
        )

    box: Tensor

    # ---- training
    def setup_training(self, context: TrainingContext) -> None:
        self._context = context
        self._optimizer = torch.optim.Adam(self.parameters(), lr=self.config.lr, eps=1e-15)

    def batch_request(self, step: int) -> RayRequest:
        return RayRequest(self.config.rays)

    def training_step(self, batch: RayBatch, step: int) -> dict[str, Tensor]:
        background = torch.tensor(self.scene_info.background or (0.0, 0.0, 0.0), device=self.device)
        target = torch.lerp(background.expand_as(batch.rgb), batch.rgb, batch.alpha)
        colors = self._shade(batch.origins, batch.directions, background, self._context.generator)["rgb"]
        loss = (colors - target).square().mean()
        for group in self._optimizer.param_groups:
            progress = self._context.progress(step)
            group["lr"] = self.config.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return {"loss": loss.detach(), "psnr": -10 * loss.detach().log10()}

    def training_state(self) -> dict[str, Any]:
        return {"optimizer": self._optimizer.state_dict()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict(dict(state["optimizer"]))

    # ---- use
    @torch.no_grad()
    def render(
        self,
        cameras: Cameras,
        outputs: Sequence[str] = ("rgb",),
        *,
        background: Float[Tensor, " 3"] | None = None,
    ) -> dict[str, Float[Tensor, "*batch h w c"]]:
        behind = torch.zeros(3, device=self.device) if background is None else background.to(self.device)

        def shade(rays: Rays) -> dict[str, Tensor]:
            found = self._shade(rays.origins, rays.directions, behind)
            found["rgb"] = found["rgb"].clamp(0, 1)
            found["depth"] = found["depth"] * rays.depth_scale[:, None]
            return {name: found[name] for name in outputs}

        chunk = _CHUNK // self.config.samples
        drawn = [render_camera(camera, shade, chunk=chunk) for camera in cameras.reshape(-1)]
        return {
            name: torch.stack([image[name] for image in drawn]).unflatten(0, cameras.shape)
            if cameras.ndim
            else drawn[0][name]
            for name in outputs
        }

    @torch.no_grad()
    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
        """Absorption per scene unit; 0 outside of the box."""
        inside = ((points >= self.box[0]) & (points <= self.box[1])).all(dim=-1)
        found = [self._values(part)[0] for part in points.split(_CHUNK)]
        return torch.cat(found) * inside if found else points.new_zeros(0)

    # ---- inside
    def _values(self, points: Float[Tensor, "*b 3"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b 3"]]:
        """Density and colour."""
        x = 2 * (points - self.box[0]) / (self.box[1] - self.box[0]) - 1
        octaves = math.pi * torch.exp2(torch.arange(self.config.frequencies, device=x.device))
        angles = (x[..., None] * octaves).flatten(-2)
        values = self.network(torch.cat([x, angles.sin(), angles.cos()], dim=-1))
        # Thin at first, so that light reaches all of the box.
        scale = 10 / (self.box[1] - self.box[0]).max()
        return scale * torch.nn.functional.softplus(values[..., 0] - 1), values[..., 1:].sigmoid()

    def _shade(
        self,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        background: Float[Tensor, " 3"],
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """What rays see. With a generator the samples are jittered."""
        # On the CPU, where the generator is: so a seed means the same samples on every device.
        near, far, _ = ray_box(origins, directions, self.box)
        edges = stratified(near.cpu(), far.cpu(), self.config.samples, generator=generator).to(origins)
        t = midpoints(edges)
        density, colors = self._values(origins[:, None] + t[..., None] * directions[:, None])
        weights = weights_from_density(density, edges)
        return {
            "rgb": composite(weights, colors, background),
            "depth": expected_depth(weights, t)[:, None],
            "opacity": opacity(weights)[:, None],
        }
