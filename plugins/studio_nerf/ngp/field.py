"""The `ngp` plugin's Field: a hash grid and two small networks, an occupancy grid, training and rendering."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from studio.cameras import Cameras
from studio.cameras.rays import Rays
from studio.errors import StudioError
from studio.marching import OccupancyGrid, PackedSamples, packed_composite, packed_opacity, packed_sum, packed_weights
from studio.marching.rendering import render_camera
from studio.plugin import Field, RayBatch, RayRequest, SceneInfo, TrainingContext
from studio.scene import PhotoStore, Scene
from studio_nerf.ngp.config import NgpConfig
from studio_nerf.ngp.encoding import HashGrid
from studio_nerf.ngp.engine import Engine, Rates, RayTargets
from studio_nerf.ngp.engine_cpu import CpuEngine
from studio_nerf.ngp.networks import DIRECTION, Shading, encode_direction
from studio_nerf.ngp.optimizer import LazyAdam
from studio_nerf.ngp.space import Space

_EARLY_STOP = 1e-4
_LEAST_THICKNESS = 1e-4
_FEWEST_RAYS, _MOST_RAYS = 256, 16_384
_FIRST_SAMPLES_A_RAY = 256.0
_MOST_MARCHED = 12
"""Marched samples a step, as a multiple of those wanted; rays beyond are left out."""
_RENDER_RAYS = 1 << 14


class NgpField(Field):
    """A radiance field on a multiresolution hash grid (Müller et al., *Instant Neural Graphics Primitives*, 2022)."""

    output_names: ClassVar[tuple[str, ...]] = ("rgb", "depth", "opacity", "normals")
    camera_models: ClassVar[tuple[str, ...]] = ("pinhole",)

    config: NgpConfig

    def __init__(self, config: NgpConfig, scene_info: SceneInfo) -> None:
        super().__init__(config, scene_info)
        self.space = Space.build(config, scene_info)
        self.encoding = HashGrid(config.levels, config.coarsest, config.finest, config.log2_rows)
        self.shading = Shading(self.encoding.width, config.density_width, config.color_width, DIRECTION)
        self.grid = OccupancyGrid(torch.tensor(self.space.box), config.grid_resolution, self.space.levels)
        self._engine: Engine | None = None
        self._adam: LazyAdam | None = None
        self._context: TrainingContext | None = None
        self._samples_a_ray = _FIRST_SAMPLES_A_RAY
        self._marched_a_ray = 0.0

    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = CpuEngine(self.encoding, self.shading, self.space)
        return self._engine

    def initialize(self, scene, photos, generator):
        from studio_nerf.classic.silhouettes import carve
        if self.space.kind == "box":
            carve(self.grid, photos)
        else:
            self.grid.exclude_unseen(Cameras.stack([photos.camera(i) for i in range(len(photos))]))

    def setup_training(self, context: TrainingContext) -> None:
        self._context = context
        self._adam = LazyAdam(
            {"encoding.table": self.encoding.table, **self.shading.named_matrices()}
        )
        self._samples_a_ray = _FIRST_SAMPLES_A_RAY

    def batch_request(self, step: int) -> RayRequest:
        count = int(self.config.samples / self._samples_a_ray) // 64 * 64
        return RayRequest(min(max(count, _FEWEST_RAYS), _MOST_RAYS))

    def training_step(self, batch: RayBatch, step: int) -> dict[str, float | Tensor]:
        context, config, adam, engine = self._context, self.config, self._adam, self.engine()
        generator = context.generator
        progress = context.progress(step)
        if step % config.grid_every == 0:
            self._update_grid()
        origins, directions = batch.origins.float().contiguous(), batch.directions.float().contiguous()
        jitter = torch.rand(len(origins), generator=generator)
        samples = self._march(origins, directions, jitter)
        background = torch.rand(len(origins), 3, generator=generator)
        rgb = torch.lerp(background, batch.rgb, batch.alpha)
        limit = _MOST_MARCHED * config.samples
        n = len(origins)
        if len(samples) > limit:
            n = max(int(torch.searchsorted(samples.offsets, limit, right=True)) - 1, 1)
            m = int(samples.offsets[n])
            samples = PackedSamples(samples.offsets[: n + 1].contiguous(), samples.starts[:m], samples.ends[:m])
        self._marched_a_ray = len(samples) / n
        visible = engine.visible(samples, origins[:n], directions[:n], _EARLY_STOP, 0.0)
        self._samples_a_ray += 0.1 * (max(visible.count / n, 1.0) - self._samples_a_ray) if step > 20 else 0.5 * (max(visible.count / n, 1.0) - self._samples_a_ray)
        fall = config.lr_decay ** (max(progress - config.decay_start, 0) / (1 - config.decay_start))
        warm = min(1.0, (step + 1) / 50)
        targets = RayTargets(rgb[:n].contiguous(), background[:n].contiguous(), encode_direction(directions[:n]).contiguous(), config.loss_limit, config.distortion)
        result = engine.step(visible, targets, adam, Rates(config.lr * fall * warm, config.lr_networks * fall * warm))
        self.rays_seen = getattr(self, "rays_seen", 0) + n
        return {"loss": result.loss, "psnr": -10 * math.log10(max(result.squared_error, 1e-10)), "rays": float(n)}

    def _march(self, origins, directions, jitter=None):
        near = None if self.space.near == 0 else torch.full((len(origins),), self.space.near)
        return self.grid.march(origins, directions, near, step_size=self.space.step_size, cone_angle=self.space.cone_angle, jitter=jitter)

    def _update_grid(self):
        warm = int(self.grid.updates) < self.grid.warmup
        self.grid.update(self.engine().density, step_size=self.space.step_size, generator=self._context.generator, count=None if warm else self.config.grid_resolution**3 // 16)

    def status(self):
        return {"samples a ray": round(self._samples_a_ray, 1), "occupied %": round(100 * self.grid.occupied_share, 1)}

    @torch.no_grad()
    def render(self, cameras, outputs=("rgb",), *, background=None):
        behind = torch.zeros(3) if background is None else background
        drawn = [render_camera(c, lambda rays: self._render_rays(rays, outputs, behind), chunk=_RENDER_RAYS) for c in cameras.reshape(-1)]
        w, h = cameras.reshape(-1)[0].size
        return {k: torch.stack([d[k] for d in drawn]).reshape(*cameras.shape, h, w, -1) for k in outputs}

    def _render_rays(self, rays, outputs, behind):
        o, d = rays.origins.float().contiguous(), rays.directions.float().contiguous()
        samples = self._march(o, d)
        engine = self.engine()
        visible = engine.visible(samples, o, d, _EARLY_STOP, _LEAST_THICKNESS)
        packed = visible.samples
        weights, _ = packed_weights(visible.density, packed)
        out = {}
        opacity = packed_opacity(weights, packed)
        if "rgb" in outputs:
            out["rgb"] = packed_composite(weights, engine.colors(visible, encode_direction(d).contiguous()), packed, behind).clamp(0, 1)
        if "depth" in outputs:
            t = packed_sum(weights * packed.midpoints, packed) / opacity.clamp_min(1e-6)
            out["depth"] = (t * rays.depth_scale)[:, None]
        if "opacity" in outputs:
            out["opacity"] = opacity[:, None]
        if "normals" in outputs:
            g = -engine.density_gradients(visible)
            n = nn.functional.normalize(packed_composite(weights, nn.functional.normalize(g, dim=-1), packed), dim=-1)
            out["normals"] = torch.where(((n * d).sum(-1, keepdim=True) > 0), -n, n)
        return out
