"""The Field of the plugin `nerf`: building, training, rendering and asking the classic network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from studio.cameras import Cameras, Rays
from studio.devices import Precision, precision_for, select
from studio.errors import StudioError
from studio.marching import (
    OccupancyGrid,
    composite,
    expected_depth,
    median_depth,
    opacity,
)
from studio.marching.rendering import march_rays, render_camera
from studio.plugin import Field, RayBatch, RayRequest, SceneInfo, TrainingContext
from studio.plugin.abilities import RaySamples
from studio.scene import PhotoStore, Scene
from studio_nerf.classic import gridded, hierarchical
from studio_nerf.classic.config import NerfConfig
from studio_nerf.classic.network import DIRECTION_LEVELS, RadianceMlp, positional_encoding
from studio_nerf.classic.region import Interval, interval, scene_box, to_cube, within
from studio_nerf.classic.silhouettes import carve

_CPU_SAMPLES, _GPU_SAMPLES = 1 << 14, 1 << 20
"""Samples whose activations are held at once: about what a CPU's caches take, and what fills a GPU."""
_GRID_EVERY = 16
"""Steps between updates of the occupancy grid."""
_GRID_SHARE = 1 / 16
"""Share of the grid's cells that an update looks at, and as many of the occupied ones."""
_LEAST_NORMAL_WEIGHT = 0.01
"""Weight from which on a sample counts for the normal of its pixel."""


class NerfField(Field):
    """A scene as one or two multilayer perceptrons (Mildenhall et al., *NeRF*, ECCV 2020)."""

    output_names: ClassVar[tuple[str, ...]] = ("rgb", "depth", "median_depth", "opacity", "normals")
    camera_models: ClassVar[tuple[str, ...]] = ("pinhole", "opencv", "fisheye", "equirectangular", "orthographic")

    config: NerfConfig
    box: Tensor
    photo_sizes: Tensor

    def __init__(self, config: NerfConfig, scene_info: SceneInfo) -> None:
        super().__init__(config, scene_info)
        _check_config(config, scene_info.camera_extent)
        if config.random_background and not scene_info.has_alpha:
            raise StudioError(
                "random_background: these photos have no alpha channel, so nothing shows a background.",
                fix="Leave --random-background out, or give photos with alpha (RGBA).",
            )
        box = torch.tensor(scene_info.bounds or ((-1.0,) * 3, (1.0,) * 3))
        self.register_buffer("box", box)
        self.register_buffer("photo_sizes", torch.zeros(scene_info.num_train, 2))
        self.coarse = RadianceMlp(config.density_activation) if config.sampling == "hierarchical" else None
        self.fine = RadianceMlp(config.density_activation)
        self.grid = None
        if config.sampling == "grid":
            self.grid = OccupancyGrid(box, resolution=config.grid_resolution, threshold=gridded.THRESHOLD)
        self._context: TrainingContext | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._rays = 0
        self._precisions: dict[str, Precision] = {}

    def initialize(self, scene: Scene, photos: PhotoStore, generator: torch.Generator) -> None:
        self.box.copy_(scene_box(scene))
        self.photo_sizes.copy_(torch.tensor([photos.camera(i).size for i in range(len(photos))]))
        if self.grid is not None:
            self.grid.box.copy_(self.box)
            if self.config.silhouettes and self.scene_info.has_alpha:
                carve(self.grid, photos)

    def networks(self) -> dict[str, nn.Module]:
        return {name: part for name, part in (("coarse", self.coarse), ("fine", self.fine)) if part is not None}

    def status(self) -> dict[str, int | float | str]:
        if self.grid is None:
            return {}
        return {"occupied": f"{100 * self.grid.occupied_share:.0f}%"}

    # ---- training ------------------------------------------------------------------------------------------------
    def setup_training(self, context: TrainingContext) -> None:
        self._context = context
        # Moments and epsilon as in appendix A.
        self._optimizer = torch.optim.Adam(self.parameters(), lr=self.config.learning_rate, eps=1e-7)
        self._rays = self.config.rays
        if self.grid is not None:
            # As if the grid were full of samples, until there is experience.
            self._rays = self._fitting_rays(self.config.samples_across)

    @property
    def _training_context(self) -> TrainingContext:
        if self._context is None:
            raise RuntimeError("setup_training must be called before training")
        return self._context

    def _fitting_rays(self, cost: float) -> int:
        """How many rays of so many samples each make `batch_samples`."""
        return int(min(max(self.config.batch_samples / max(cost, 1e-3), 32), self.config.rays))

    def _in_precrop(self, step: int) -> bool:
        return self._training_context.progress(step) < self.config.precrop

    def batch_request(self, step: int) -> RayRequest:
        # As many more as fall outside of the middle of the photos.
        more = self.config.precrop_size**-2 if self._in_precrop(step) else 1.0
        return RayRequest(math.ceil(self._rays * more))

    def training_step(self, batch: RayBatch, step: int) -> dict[str, float | Tensor]:
        context = self._training_context
        assert self._optimizer is not None
        generator = _on_device(context.generator, self.device)
        if self._in_precrop(step):
            batch = self._middle(batch)
        background = self._behind(len(batch.rgb), generator)
        target = torch.lerp(background, batch.rgb, batch.alpha)
        for group in self._optimizer.param_groups:
            group["lr"] = self._learning_rate(context.progress(step))
        self._optimizer.zero_grad(set_to_none=True)
        where = self._interval(batch.origins, batch.directions)
        figures: dict[str, float | Tensor]
        if self.grid is None:
            figures = self._hierarchical_step(batch, where, background, target, generator)
        else:
            figures = self._grid_step(batch, where, background, target, generator, step)
        self._optimizer.step()
        return {**figures, "learning_rate": self._learning_rate(context.progress(step)), "rays": len(batch.rgb)}

    def _hierarchical_step(
        self, batch: RayBatch, where: Interval, background: Tensor, target: Tensor, generator: torch.Generator
    ) -> dict[str, float | Tensor]:
        """Gradients of the summed squared errors of both networks (equation 6), summed up over chunks of rays."""
        config, count = self.config, len(target)
        chunk = max(_samples_at_once(self.device) // (config.coarse_samples + config.fine_samples), 1)
        missed = ~where.hit
        # Rays that meet nothing show the background whatever the network says.
        constant = (background[missed] - target[missed]).square().sum()
        squares = [constant, constant]
        for rays in where.hit.nonzero()[:, 0].split(chunk):
            with self._precision().autocast():
                pair = self._march_dense(batch.origins[rays], batch.directions[rays], _part(where, rays), generator)
                errors = [(seen.color(background[rays]) - target[rays]).square().sum() for seen in pair]
            ((errors[0] + errors[1]) / (3 * count)).backward()
            squares = [total + error.detach() for total, error in zip(squares, errors, strict=True)]
        coarse, fine = (total / (3 * count) for total in squares)
        return {"loss": coarse + fine, "psnr": _psnr(fine), "psnr_coarse": _psnr(coarse)}

    def _grid_step(
        self,
        batch: RayBatch,
        where: Interval,
        background: Tensor,
        target: Tensor,
        generator: torch.Generator,
        step: int,
    ) -> dict[str, float | Tensor]:
        """The gradient of the fine network's squared error alone; the grid takes the place of the coarse network."""
        config, count = self.config, len(target)
        assert self.grid is not None
        if step % _GRID_EVERY == 0:
            self._update_grid(generator)
        with self._precision().autocast():
            seen = gridded.march_to_learn(
                self.fine,
                self.grid,
                batch.origins,
                batch.directions,
                where,
                self.box,
                step_size=self._step_size(),
                generator=generator,
                noise=config.density_noise,
            )
            loss = (seen.color(background) - target).square().mean()
        if len(seen.samples):
            loss.backward()
        self._rays = self._fitting_rays(seen.cost / count)
        return {"loss": loss.detach(), "psnr": _psnr(loss.detach()), "samples_a_ray": len(seen.samples) / count}

    def _march_dense(
        self, origins: Tensor, directions: Tensor, where: Interval, generator: torch.Generator | None = None
    ) -> tuple[hierarchical.DenseSamples, hierarchical.DenseSamples]:
        config = self.config
        assert self.coarse is not None
        return hierarchical.march(
            self.coarse,
            self.fine,
            origins,
            directions,
            where,
            self.box,
            coarse_samples=config.coarse_samples,
            fine_samples=config.fine_samples,
            opaque=not self.scene_info.has_alpha,
            noise=config.density_noise,
            generator=generator,
        )

    def _march_packed(self, origins: Tensor, directions: Tensor, where: Interval) -> gridded.PackedField:
        assert self.grid is not None
        return gridded.march_to_see(
            self.fine,
            self.grid,
            origins,
            directions,
            where,
            self.box,
            step_size=self._step_size(),
        )

    def _update_grid(self, generator: torch.Generator) -> None:
        assert self.grid is not None
        count = int(_GRID_SHARE * self.grid.resolution**3)
        self.grid.update(self._fine_density, step_size=self._step_size(), generator=generator, count=count)

    def _step_size(self) -> float:
        return float((self.box[1] - self.box[0]).norm()) / self.config.samples_across

    def _learning_rate(self, progress: float) -> float:
        config = self.config
        rate = config.learning_rate * (config.learning_rate_final / config.learning_rate) ** progress
        # From a little above zero, so that the first step does something.
        return rate * min((progress + 1e-4) / config.warmup, 1.0) if config.warmup > 0 else rate

    def _middle(self, batch: RayBatch) -> RayBatch:
        """The rays through the middle of the photos, about as many as the step takes."""
        size = self.photo_sizes[batch.indices]
        inside = ((batch.pixels - size / 2).abs() <= self.config.precrop_size * size / 2).all(dim=-1)
        kept = inside.nonzero()[: self._rays, 0]
        if len(kept) == 0:
            return batch
        parts = (batch.origins, batch.directions, batch.rgb, batch.alpha, batch.indices, batch.pixels)
        return RayBatch(*(part[kept] for part in parts))

    def _behind(self, count: int, generator: torch.Generator) -> Float[Tensor, "n 3"]:
        """The colour behind each training ray."""
        if self.config.random_background:
            return torch.rand(count, 3, generator=generator, device=self.device)
        color = self.scene_info.background or (0.0, 0.0, 0.0)
        return torch.tensor(color, device=self.device).expand(count, 3)

    def training_state(self) -> dict[str, Any]:
        assert self._optimizer is not None
        return {"optimizer": self._optimizer.state_dict(), "rays": self._rays}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        assert self._optimizer is not None
        self._optimizer.load_state_dict(state["optimizer"])
        self._rays = state["rays"]

    # ---- asking --------------------------------------------------------------------------------------------------
    def _interval(self, origins: Tensor, directions: Tensor) -> Interval:
        near = self.config.near * self.scene_info.camera_extent
        return interval(origins, directions, self.box, near=near, far=self.config.far)

    def _precision(self) -> Precision:
        where = str(self.device)
        if where not in self._precisions:
            self._precisions[where] = precision_for(select(where), self.config.precision)
        return self._precisions[where]

    def _fine_density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
        with torch.no_grad(), self._precision().autocast():
            chunks = points.split(_samples_at_once(self.device))
            return torch.cat([self.fine.density_of(self.fine.features(to_cube(p, self.box))) for p in chunks])

    @torch.no_grad()
    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
        """Density of the fine network per scene unit; 0 outside of the box and where the grid knows of nothing.

        See `studio.plugin.abilities.HasDensity`.
        """
        inside = within(points, self.box)
        if self.grid is not None:
            inside &= self.grid.occupied(points)
        found = torch.zeros(len(points), device=points.device)
        if bool(inside.any()):
            found[inside] = self._fine_density(points[inside])
        return found

    @torch.no_grad()
    def ray_samples(self, origin: Float[Tensor, " 3"], direction: Float[Tensor, " 3"]) -> RaySamples:
        """What is composited along one ray; see `studio.plugin.abilities.HasRaySamples`."""
        origins, directions = origin[None], direction[None]
        where = self._interval(origins, directions)
        with self._precision().autocast():
            if self.grid is None and bool(where.hit):
                _, seen = self._march_dense(origins, directions, where)
                return RaySamples(t=seen.t[0], density=seen.density[0], weights=seen.weights[0], rgb=seen.rgb[0])
            if self.grid is not None:
                packed = self._march_packed(origins, directions, where)
                t = packed.samples.midpoints
                return RaySamples(t=t, density=packed.density, weights=packed.weights, rgb=packed.rgb)
        empty = origin.new_zeros(0)
        return RaySamples(t=empty, density=empty, weights=empty, rgb=origin.new_zeros(0, 3))

    def normals_at(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """Unit vectors against the gradient of the density, out of the matter; zero where the gradient is."""
        found = []
        for part in points.split(_samples_at_once(self.device) // 2):
            # Differences of 16-bit numbers would be noise.
            with torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
                x = part.detach().requires_grad_()
                density = self.fine.density_of(self.fine.features(to_cube(x, self.box)))
                (gradient,) = torch.autograd.grad(density.sum(), x)
            found.append(-torch.nn.functional.normalize(gradient, dim=-1, eps=1e-12))
        return torch.cat(found) if found else torch.zeros_like(points)

    # ---- rendering -----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def render(
        self,
        cameras: Cameras,
        outputs: Sequence[str] = ("rgb",),
        *,
        background: Float[Tensor, " 3"] | None = None,
    ) -> dict[str, Float[Tensor, "*batch h w c"]]:
        unknown = [name for name in outputs if name not in self.output_names]
        if unknown:
            raise StudioError(f"nerf does not render '{unknown[0]}'.", fix=f"Outputs: {', '.join(self.output_names)}.")
        behind = torch.zeros(3, device=self.device) if background is None else background.to(self.device)
        # Rays of a chunk, from how many samples a ray has or, on a grid, may have in a round.
        each = self.config.coarse_samples + self.config.fine_samples if self.grid is None else 8
        chunk = max(_samples_at_once(self.device) // each, 1)
        key = ("nerf", str(self.device), self.config.sampling)
        drawn = [
            render_camera(camera, lambda rays: self._draw(rays, outputs, behind), chunk=chunk, key=key)
            for camera in cameras.reshape(-1)
        ]
        return {
            name: torch.stack([image[name] for image in drawn]).unflatten(0, cameras.shape)
            if cameras.shape
            else drawn[0][name]
            for name in outputs
        }

    def _draw(self, rays: Rays, outputs: Sequence[str], background: Tensor) -> dict[str, Float[Tensor, "n c"]]:
        where = self._interval(rays.origins, rays.directions)
        if rays.valid is not None:
            # The lens has no ray there: the background shows.
            hit = where.hit & rays.valid
            where = Interval(where.near, torch.where(hit, where.far, where.near), hit)
        with self._precision().autocast():
            drawn = (self._draw_dense if self.grid is None else self._draw_packed)(rays, where, outputs, background)
        for name in ("depth", "median_depth"):
            if name in drawn:
                # From distance along the ray to z-depth.
                drawn[name] = drawn[name] * rays.depth_scale[:, None]
        if "normals" in drawn:
            drawn["normals"] = torch.nn.functional.normalize(drawn["normals"], dim=-1, eps=1e-6)
        return {name: drawn[name].float() for name in outputs}

    def _draw_dense(self, rays: Rays, where: Interval, outputs: Sequence[str], background: Tensor) -> dict[str, Tensor]:
        count, hit = len(rays), where.hit.nonzero()[:, 0]
        whole = {name: background.new_zeros(count, 1) for name in ("depth", "median_depth", "opacity")}
        whole["rgb"] = background.expand(count, 3).clone()
        whole["normals"] = background.new_zeros(count, 3)
        if len(hit) == 0:
            return whole
        origins, directions = rays.origins[hit], rays.directions[hit]
        _, seen = self._march_dense(origins, directions, _part(where, hit))
        whole["rgb"][hit] = seen.color(background)
        whole["depth"][hit, 0] = expected_depth(seen.weights, seen.t)
        whole["opacity"][hit, 0] = opacity(seen.weights).clamp(max=1.0)
        if "median_depth" in outputs:
            whole["median_depth"][hit, 0] = median_depth(seen.weights, seen.edges)
        if "normals" in outputs:
            points = origins[:, None] + directions[:, None] * seen.t[..., None]
            normals = torch.zeros_like(points)
            seen_at = seen.weights > _LEAST_NORMAL_WEIGHT
            normals[seen_at] = self.normals_at(points[seen_at])
            whole["normals"][hit] = _facing(composite(seen.weights, normals), directions)
        return whole

    def _draw_packed(
        self, rays: Rays, where: Interval, outputs: Sequence[str], background: Tensor
    ) -> dict[str, Tensor]:
        assert self.grid is not None
        encoded = positional_encoding(rays.directions, DIRECTION_LEVELS)
        with_normals = "normals" in outputs
        thinnest = gridded.THINNEST / self._step_size()

        def shade(points: Tensor, directions: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
            features = self.fine.features(to_cube(points, self.box))
            density = self.fine.density_of(features)
            values = points.new_zeros(len(points), 6 if with_normals else 3)
            seen = (density >= thinnest).nonzero()[:, 0]
            values[seen, :3] = self.fine.color_of(features[seen], encoded[index[seen]])
            if with_normals:
                solid = (density * self._step_size() > _LEAST_NORMAL_WEIGHT).nonzero()[:, 0]
                values[solid, 3:] = self.normals_at(points[solid])
            return density, values

        seen = march_rays(
            self.grid,
            rays.origins,
            rays.directions,
            shade,
            channels=6 if with_normals else 3,
            near=where.near,
            far=where.far,
            step_size=self._step_size(),
            max_samples=gridded.MOST_SAMPLES,
            early_stop=gridded.EARLY_STOP,
        )
        drawn = {
            "rgb": seen.values[:, :3] + (1 - seen.opacity[:, None]) * background,
            "depth": (seen.moment / seen.opacity.clamp(min=1e-6))[:, None],
            "median_depth": seen.median[:, None],
            "opacity": seen.opacity[:, None].clamp(max=1.0),
        }
        if with_normals:
            drawn["normals"] = _facing(seen.values[:, 3:], rays.directions)
        return drawn


def _part(where: Interval, rays: Tensor) -> Interval:
    return Interval(where.near[rays], where.far[rays], where.hit[rays])


def _facing(normals: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Normals turned towards the camera."""
    return torch.where((normals * directions).sum(dim=-1, keepdim=True) > 0, -normals, normals)


def _samples_at_once(device: torch.device) -> int:
    return _CPU_SAMPLES if device.type == "cpu" else _GPU_SAMPLES


def _on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """The generator itself on the CPU; elsewhere a new one there whose seed it draws, so that a run repeats."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(1 << 62, (), generator=generator)))


def _psnr(mean_square: Tensor) -> Tensor:
    return -10 * mean_square.clamp(min=1e-10).log10()


def _check_config(config: NerfConfig, extent: float) -> None:
    """Refuse values that would fail in the middle of a run."""
    counts = ("rays", "batch_samples", "samples_across")
    for name in counts:
        if getattr(config, name) < 1:
            raise StudioError(f"{name}: {getattr(config, name)} is too small.", fix="Use 1 or more.")
    if config.coarse_samples < 3 or config.fine_samples < 1:
        raise StudioError(
            f"coarse_samples and fine_samples: {config.coarse_samples} and {config.fine_samples} are too few.",
            fix="Use at least 3 and 1; the paper has 64 and 128.",
        )
    if config.grid_resolution < 4 or config.grid_resolution % 4:
        raise StudioError(
            f"grid_resolution: {config.grid_resolution} is not a multiple of 4.", fix="Use a number such as 64."
        )
    if not config.near >= 0:
        raise StudioError(f"near: {config.near} is negative.", fix="Use a distance of 0 or more.")
    nearest = config.near * extent
    if config.far is not None and not config.far > nearest:
        raise StudioError(
            f"near: rays would begin at {nearest:g}, beyond far = {config.far:g} (near is times the cameras' extent).",
            fix="Give a smaller --near or a larger --far.",
        )
    for name in ("learning_rate", "learning_rate_final"):
        if not getattr(config, name) > 0:
            raise StudioError(f"{name}: {getattr(config, name)} is not above 0.", fix="Use a value such as 5e-4.")
    if not 0 < config.precrop_size <= 1:
        raise StudioError(f"precrop_size: {config.precrop_size} is no share of a side.", fix="Use a share such as 0.5.")
