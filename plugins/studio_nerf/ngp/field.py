"""The `ngp` plugin's Field: a hash grid and two small networks, an occupancy grid, training and rendering."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.marching import OccupancyGrid, PackedSamples, packed_sum, packed_weights, render_camera
from studio.plugin import Field, RayBatch, RayRequest, SceneInfo, TrainingContext
from studio.plugin.abilities import RaySamples
from studio.scene import PhotoStore, Scene
from studio_nerf.classic.silhouettes import carve
from studio_nerf.ngp.ambient import Ambient
from studio_nerf.ngp.anchors import AnchorRays, Anchors, joined
from studio_nerf.ngp.checks import check_config
from studio_nerf.ngp.config import NgpConfig
from studio_nerf.ngp.corrections import centred, corrected_rays
from studio_nerf.ngp.encoding import HashGrid
from studio_nerf.ngp.engine import Engine, Further, Rates, RayTargets, StepResult, Thinning
from studio_nerf.ngp.engine_cpu import CpuEngine
from studio_nerf.ngp.engine_torch import TorchEngine
from studio_nerf.ngp.networks import DIRECTION, Shading, encode_direction
from studio_nerf.ngp.optimizer import LazyAdam
from studio_nerf.ngp.schedule import Schedule
from studio_nerf.ngp.settled import Settled
from studio_nerf.ngp.space import MarchedFrame, Space, WorldFrame
from studio_nerf.ngp.view_rendering import RayShader

APPEARANCE = 16
"""Numbers that describe the look of a photo."""
EARLY_STOP = 1e-4
"""Transmittance below which nothing is seen any more."""
_MAKING = threading.Lock()
_GRID_WARMUP = 8
_GRID_DECAY = 0.7
"""What is left of a cell's density when it is looked at again: cells are looked at seldom, so each look must count. A
surface missed by a few of the random points in its cell is still far above the threshold."""
_GRID_THRESHOLD = 0.01
"""Optical thickness of a step through a cell that counts."""
_GRID_SHARE = 8
"""After the first updates, one in so many times the levels of a level's cells is drawn, and as many again of the
occupied ones: so an update costs the same with any number of levels."""
_MOST_SAMPLES = 2048
"""Occupied samples of a ray that are looked at in rendering."""
_RENDERED_STRIDE = 0.5
"""Length of rendering's steps among cameras, in those of training, which random shifts make up for."""
_RENDERED_RAYS, _FEWEST_RENDERED_RAYS = 1 << 14, 1 << 8
"""Rays rendered at a time."""
_RENDERED_SAMPLES, _PROBED_RAYS = 1 << 20, 256
"""Samples that rays rendered at a time may have if light reached all of them, as told by a few rays: fog has two
thousand a ray, and they would take gigabytes."""


class NgpField(Field):
    """A radiance field on a multiresolution hash grid (Müller et al., *Instant Neural Graphics Primitives*, 2022)."""

    output_names: ClassVar[tuple[str, ...]] = ("rgb", "depth", "opacity", "normals")
    camera_models: ClassVar[tuple[str, ...]] = ("pinhole",)

    config: NgpConfig
    appearance: nn.Parameter | None
    poses: nn.Parameter | None

    def __init__(self, config: NgpConfig, scene_info: SceneInfo) -> None:
        super().__init__(config, scene_info)
        check_config(config)
        self.space = Space.build(config, scene_info)
        self.world = WorldFrame(self.space)
        self.settled = Settled.of(config, contracted=self.space.contracted)
        finest = max(self.settled.finest, config.coarsest)
        self.encoding = HashGrid(config.levels, config.coarsest, finest, self.settled.log2_rows)
        view = DIRECTION + (APPEARANCE if config.appearance else 0)
        self.shading = Shading(self.encoding.width, config.density_width, config.color_width, view)
        self.grid = OccupancyGrid(
            torch.tensor(self.space.box),
            config.grid_resolution,
            self.space.levels,
            decay=_GRID_DECAY,
            threshold=_GRID_THRESHOLD,
            warmup=_GRID_WARMUP,
        )
        photos = scene_info.num_train
        self.register_parameter(
            "appearance", nn.Parameter(torch.zeros(photos, APPEARANCE)) if config.appearance else None
        )
        self.anchors = Anchors()
        fills = config.ambient and self.space.contracted and not scene_info.has_alpha
        self.ambient: Ambient | None = Ambient() if fills else None
        """What shows in the place of a background; None: the background."""
        self.register_parameter("poses", nn.Parameter(torch.zeros(photos, 6)) if config.pose_refinement else None)
        self._schedule = Schedule(config, foggy=self.space.contracted, levels=self.space.levels)
        self._engine: Engine | None = None
        self._adam: LazyAdam | None = None
        self._context: TrainingContext | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A copy renders as it is and trains after `setup_training`; random generators are not for copying.
        return {**super().__getstate__(), "_engine": None, "_adam": None, "_context": None}

    def _apply(self, fn: Any, recurse: bool = True) -> NgpField:
        super()._apply(fn, recurse)
        self._engine = None
        if self._adam is not None:
            self._adam = self._adam.rebound(self._trained())
        return self

    def engine(self) -> Engine:
        """What computes on the present device: kernels on a CPU, else torch."""
        if self._engine is None:
            kernels = self.config.backend == "kernels" or (self.config.backend == "auto" and self.device.type == "cpu")
            if kernels and self.device.type != "cpu":
                raise StudioError(
                    f"backend: the kernels do not run on the device '{self.device.type}'.",
                    fix="Use --backend auto, or --device cpu.",
                )
            make = CpuEngine if kernels else TorchEngine
            with _MAKING:
                # Threads that render at once share one, as they take turns at it.
                if self._engine is None:
                    self._engine = make(self.encoding, self.shading, self.space)
        return self._engine

    def networks(self) -> dict[str, nn.Module]:
        return {
            "encoding": self.encoding,
            "density_network": self.shading.density_network,
            "color_network": self.shading.color_network,
        }

    def prepare_state(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.anchors.make_room(shapes.get("anchors.xyz", (0,))[0])

    def status(self) -> dict[str, int | float | str]:
        return {
            "samples a ray": round(self._schedule.samples_a_ray, 1),
            "occupied": f"{100 * self.grid.occupied_share:.1f} %",
        }

    # ---- training ------------------------------------------------------------------------------------------------
    def initialize(self, scene: Scene, photos: PhotoStore, generator: torch.Generator) -> None:
        cameras = Cameras.stack([photos.camera(i) for i in range(len(photos))])
        self.world.fit(scene, cameras)
        if self.space.contracted and scene.points is not None:
            self.anchors.fit(scene.points, photos, generator)
        if self.ambient is not None:
            self.ambient.fit(photos, generator)
        if self.space.kind == "box" and self.scene_info.has_alpha:
            carve(self.grid, photos)
        elif self.space.kind != "ndc":
            self.grid.exclude_unseen(cameras)

    def setup_training(self, context: TrainingContext) -> None:
        self._context = context
        self._adam = LazyAdam(self._trained())
        self._schedule = Schedule(self.config, foggy=self.space.contracted, levels=self.space.levels)

    def _trained(self) -> dict[str, Tensor]:
        """All parameters, by the names under which their moments are kept."""
        found: dict[str, Tensor] = {"encoding.table": self.encoding.table, **self.shading.named_matrices()}
        if self.appearance is not None:
            found["appearance"] = self.appearance
        if self.poses is not None:
            found["poses"] = self.poses
        return found

    def training_state(self) -> dict[str, Any]:
        assert self._adam is not None
        return {"adam": self._adam.state(), "schedule": self._schedule.state()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        assert self._adam is not None
        self._adam.load_state(state["adam"])
        self._schedule.load_state(state["schedule"])

    def batch_request(self, step: int) -> RayRequest:
        return RayRequest(self._schedule.rays(step))

    def training_step(self, batch: RayBatch, step: int) -> dict[str, float | Tensor]:
        if self._context is None or self._adam is None:
            raise RuntimeError("setup_training must be called before training")
        config, generator = self.config, self._context.generator
        thin = self._schedule.least_thickness(step, self.space.least_thickness)
        if self._schedule.updates_grid(step):
            self._update_grid(thin, generator)
        drawn = len(batch.origins)
        jitter = torch.rand(drawn, generator=generator).to(batch.origins)
        background = self._training_background(drawn, generator).to(batch.origins)
        # What belongs to a ray's photo, one copy a ray: gradients of the copies are added up in a fixed order.
        own = {name: p.detach()[batch.indices].requires_grad_() for name, p in self._per_photo().items()}
        origins, directions = batch.origins.float(), batch.directions.float()
        if "poses" in own:
            origins, directions = corrected_rays(own["poses"], origins, directions)
        rays = self.world.rays(origins, directions)
        reach, stride = self._schedule.reach, self._schedule.stride
        samples = self._march(rays, jitter, self._first_stretch(reach), stride)
        n = self._schedule.affordable(samples)
        samples = _first_rays(samples, n)
        marched: tuple[Tensor, ...] = (rays.origins[:n].detach(), rays.directions[:n].detach())
        view = self._view(directions[:n], own["appearance"][:n] if "appearance" in own else None)
        background = background[:n]
        shown: tuple[Tensor, ...] = (torch.lerp(background, batch.rgb[:n], batch.alpha[:n]), background, view.detach())
        followed = samples
        if anchors := self._anchor_rays(n, step, generator):
            followed = joined(samples, anchors.samples)
            marched = _stacked(marched, (anchors.origins, anchors.directions))
            looks = self._view(anchors.directions, None).detach()
            shown = _stacked(shown, (anchors.rgb, anchors.background, looks))
        origins, directions = (part.contiguous() for part in marched)
        visible = self.engine().visible(
            followed, origins, directions, EARLY_STOP, thin * stride, self._further(rays, reach, stride),
            self._thinning(origins, step, generator),
        )  # fmt: skip
        seen = _first_rays(visible.samples, n)
        self._schedule.observe(step, seen, visible.deepest[:n])
        rgb, background, looks = (part.contiguous() for part in shown)
        targets = RayTargets(
            rgb=rgb,
            background=background,
            view=looks.requires_grad_(bool(own)),
            loss_limit=self.settled.loss_limit,
            distortion=self._schedule.distortion(step, self.space.distortion),
            bend=self.space.bend,
            nearness=self._schedule.nearness(step),
            scored=n,
        )
        factor = self._schedule.rate_factor(step, self._context.progress(step))
        rates = Rates(self.settled.lr * factor, config.lr_networks * factor, config.table_decay)
        result = self.engine().step(visible, targets, self._adam, rates, with_positions="poses" in own)
        if own and result.view_gradient is not None:
            self._correct(own, batch.indices, result, seen, rays, view, factor)
        error = float(result.squared_error) if math.isfinite(float(result.loss)) else float("nan")
        return {"loss": result.loss, "psnr": -10 * math.log10(max(error, 1e-10)), "rays": float(n)}

    def _thinning(self, origins: Float[Tensor, "n 3"], step: int, generator: torch.Generator) -> Thinning | None:
        sure = self._schedule.sure_weight(step)
        return Thinning(sure, torch.rand(len(origins), generator=generator).to(origins)) if sure > 0 else None

    def _anchor_rays(self, rays: int, step: int, generator: torch.Generator) -> AnchorRays | None:
        """Rays towards sparse points that join so many rays of photos."""
        if len(self.anchors) == 0:
            return None
        around, way = (int(share * rays) for share in self._schedule.anchors(step))
        return self.anchors.draw(around, way, float(self.world.near), generator)

    def _per_photo(self) -> dict[str, nn.Parameter]:
        """The tables with a row for each training photo."""
        tables = {"appearance": self.appearance, "poses": self.poses}
        return {name: table for name, table in tables.items() if table is not None}

    def _correct(
        self,
        own: Mapping[str, Tensor],
        photos: Int[Tensor, " n"],
        result: StepResult,
        samples: PackedSamples,
        rays: MarchedFrame,
        view: Tensor,
        factor: float,
    ) -> None:
        """Step the photos' embeddings and poses along the gradients that a step gave."""
        assert self._adam is not None
        assert result.view_gradient is not None
        given = (view * result.view_gradient[: len(view)]).sum()
        if result.position_gradient is not None:
            n, upward = samples.rays, result.position_gradient[: len(samples)]
            points = samples.positions(rays.origins[:n].detach(), rays.directions[:n].detach()).requires_grad_()
            (pull,) = torch.autograd.grad((self.space.to_unit(points) * upward).sum(), points)
            given = given + (rays.origins[:n] * packed_sum(pull, samples)).sum()
            given = given + (rays.directions[:n] * packed_sum(pull * samples.midpoints[:, None], samples)).sum()
        rates = {"appearance": self.config.lr_appearance, "poses": self.config.lr_poses}
        gradients = torch.autograd.grad(given, list(own.values()))
        for (name, table), gradient in zip(self._per_photo().items(), gradients, strict=True):
            self._adam.step(name, torch.zeros_like(table).index_add_(0, photos, gradient), rates[name] * factor)
            if name == "poses":
                with torch.no_grad():
                    table.copy_(centred(table))

    def _training_background(self, n: int, generator: torch.Generator) -> Float[Tensor, "n 3"]:
        if self.config.random_background:
            return torch.rand(n, 3, generator=generator)
        color = self.scene_info.background
        return (torch.zeros(3) if color is None else torch.tensor(color)).repeat(n, 1)

    def _update_grid(self, least_thickness: float, generator: torch.Generator) -> None:
        step_size = self.space.step_size

        def density(points: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
            found = self.engine().density(points)
            # Haze does not count. The grid takes steps to grow with its levels, which ours hardly do.
            return torch.where(found * step_size >= least_thickness, found / self.space.grid_scale(points), 0.0)

        everything = int(self.grid.updates) < self.grid.warmup
        count = None if everything else self.config.grid_resolution**3 // (_GRID_SHARE * self.space.levels)
        self.grid.update(density, step_size=step_size, generator=generator, count=count)

    def _march(
        self,
        rays: MarchedFrame,
        jitter: Float[Tensor, " n"] | None = None,
        most: int = _MOST_SAMPLES,
        stride: float = 1.0,
    ) -> PackedSamples:
        return self.grid.march(
            rays.origins.detach().contiguous(),
            rays.directions.detach().contiguous(),
            rays.near,
            None if rays.far is None else rays.far.detach(),
            step_size=self.space.step_size * stride,
            cone_angle=self.space.cone_angle * stride,
            jitter=jitter,
            max_samples=most,
        )

    def _first_stretch(self, reach: int) -> int:
        """Samples that are marched before any is encoded."""
        return min(self.engine().stretch or reach, reach)

    def _further(self, rays: MarchedFrame, reach: int, stride: float = 1.0) -> Further | None:
        """Marches some of the rays on, for an engine that asks for it."""
        if self.engine().stretch is None:
            return None

        def march(index: Int[Tensor, " r"], begin: Float[Tensor, " r"], most: int) -> PackedSamples:
            far = None if rays.far is None else rays.far[index]
            rest = MarchedFrame(rays.origins[index], rays.directions[index], begin, far)
            return self._march(rest, None, most, stride)

        return Further(march, reach)

    def _view(self, directions: Float[Tensor, "n 3"], look: Float[Tensor, "n a"] | None) -> Float[Tensor, "n v"]:
        """What the colour network sees of rays: their direction, and the look of their photo (None: the mean look)."""
        direction = encode_direction(directions)
        if self.appearance is None:
            return direction.contiguous()
        if look is None:
            look = self.appearance.mean(dim=0).expand(len(direction), -1)
        return torch.cat([direction, look], dim=-1)

    # ---- looking at it -------------------------------------------------------------------------------------------
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
            raise StudioError(f"ngp does not render '{unknown[0]}'.", fix=f"Outputs: {', '.join(self.output_names)}.")
        if cameras.model not in self.camera_models:
            raise StudioError(
                f"ngp does not render cameras of the model '{cameras.model}'.",
                fix=f"Models: {', '.join(self.camera_models)}.",
            )
        behind = torch.zeros(3, device=self.device) if background is None else background.to(self.device)
        shader = RayShader(self, tuple(outputs), behind)
        flat = cameras.reshape(-1)
        drawn = [
            render_camera(camera, shader, chunk=self._rays_at_once(camera), key=("ngp", self.device)) for camera in flat
        ]
        width, height = flat[0].size
        return {
            name: torch.stack([image[name] for image in drawn]).reshape(*cameras.shape, height, width, -1)
            for name in outputs
        }

    def _rays_at_once(self, camera: Cameras) -> int:
        """Rays of a camera to render together, so that what is kept of their samples stays within some 200 MiB."""
        width, height = camera.size
        every = max(width * height // _PROBED_RAYS, 1)
        flat = torch.arange(every // 2, width * height, every, device=self.device)
        rays = camera.rays(torch.stack([flat % width, flat // width], dim=-1) + 0.5)
        marched = self.world.rays(rays.origins.float().contiguous(), rays.directions.float().contiguous())
        samples = self._march(marched, stride=_RENDERED_STRIDE if self.space.contracted else 1.0)
        each = max(len(samples) / max(samples.rays, 1), 1.0)
        return min(max(int(_RENDERED_SAMPLES / each), _FEWEST_RENDERED_RAYS), _RENDERED_RAYS)

    def look(
        self, origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], least_thickness: float
    ) -> tuple[Any, MarchedFrame]:
        """The samples of world rays that light reaches, and the rays as they were marched; without gradients.

        Args:
            origins: Where rays start.
            directions: Of unit length.
            least_thickness: Optical thickness of a step of training that is worth looking at.
        """
        rays = self.world.rays(origins.float().contiguous(), directions.float().contiguous())
        stride = _RENDERED_STRIDE if self.space.contracted else 1.0
        samples = self._march(rays, most=self._first_stretch(_MOST_SAMPLES), stride=stride)
        visible = self.engine().visible(
            samples,
            rays.origins.contiguous(),
            rays.directions.contiguous(),
            EARLY_STOP,
            least_thickness * stride,
            self._further(rays, _MOST_SAMPLES, stride),
        )
        return visible, rays

    def colors(self, visible: Any, directions: Float[Tensor, "n 3"]) -> Float[Tensor, "k 3"]:
        """sRGB of samples that `look` found, seen along the world directions of their rays, with the mean look."""
        return self.engine().colors(visible, self._view(directions.float(), None).detach().contiguous())

    @torch.no_grad()
    def density(self, points: Float[Tensor, "m 3"]) -> Float[Tensor, " m"]:
        """Absorption per scene unit at points of the scene; 0 in cells that the occupancy grid calls empty.

        Raises:
            StudioError: The field lives in normalised device coordinates, where density depends on the direction.
        """
        if self.space.kind == "ndc":
            raise StudioError(
                "ngp: a field in normalised device coordinates has no density of its own in space.",
                fix="Train with --space contract, or use rendered depth.",
            )
        points = points.to(self.device).float()
        result = points.new_zeros(len(points))
        occupied = self.grid.occupied(points)
        engine = self.engine()
        with engine.turn:
            result[occupied] = engine.density(points[occupied].contiguous()).to(result)
        return result

    @torch.no_grad()
    def ray_samples(self, origin: Float[Tensor, " 3"], direction: Float[Tensor, " 3"]) -> RaySamples:
        """What `render` composites along one ray; see `studio.plugin.abilities.HasRaySamples`."""
        with self.engine().turn:
            return self._ray_samples(origin.to(self.device).float(), direction.to(self.device).float())

    def _ray_samples(self, origin: Float[Tensor, " 3"], direction: Float[Tensor, " 3"]) -> RaySamples:
        visible, rays = self.look(origin[None], direction[None], self.space.least_thickness)
        samples = visible.samples
        weights, _ = packed_weights(visible.density, samples)

        def distance(t: Tensor) -> Tensor:
            points = self.world.world_points(rays.origins + t[:, None] * rays.directions)
            return (points - origin) @ direction

        # In NDC lengths are not the world's; the optical thickness of an interval is.
        stretch = samples.lengths / (distance(samples.ends) - distance(samples.starts)).clamp_min(1e-12)
        return {
            "t": distance(samples.midpoints),
            "density": visible.density * stretch,
            "weights": weights,
            "rgb": self.colors(visible, direction[None]),
        }


def _stacked(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(pair) for pair in zip(first, second, strict=True))


def _first_rays(samples: PackedSamples, rays: int) -> PackedSamples:
    if rays == samples.rays:
        return samples
    count = int(samples.offsets[rays])
    return PackedSamples(samples.offsets[: rays + 1].contiguous(), samples.starts[:count], samples.ends[:count])
