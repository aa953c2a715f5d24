"""The splat plugin's Field: parameters, training, rendering and export of a set of 3D Gaussians."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.export.gaussian_ply import write_gaussian_ply
from studio.export.gaussians import GaussianCloud
from studio.export.pointcloud import write_point_cloud
from studio.plugin import Field, PhotoBatch, PhotoRequest, SceneInfo, TrainingContext
from studio.scene import Photo, PhotoStore, Scene
from studio_splat.backends import default_backend, require_backend
from studio_splat.config import SplatConfig
from studio_splat.engine import PARAMETERS, Engine, StepOptions, Target, make_engine
from studio_splat.initial import gaussians_from_points, initial_points
from studio_splat.schedule import active_sh_degree, learning_rates, photo_downscale
from studio_splat.strategy import AdaptiveStrategy, BudgetStrategy, McmcStrategy, Strategy


class SplatField(Field):
    """A scene as 3D Gaussians (Kerbl et al., *3D Gaussian Splatting for Real-Time Radiance Field Rendering*, 2023)."""

    output_names: ClassVar[tuple[str, ...]] = ("rgb", "depth", "median_depth", "opacity", "normals")
    camera_models: ClassVar[tuple[str, ...]] = ("pinhole", "orthographic")
    export_formats: ClassVar[Mapping[str, str]] = {
        "ply": "Gaussian splats in Inria's PLY layout, for every splat viewer and editor",
        "pointcloud": "the Gaussians' centres as a coloured PLY point cloud",
    }

    config: SplatConfig
    means: nn.Parameter
    quats: nn.Parameter
    scales: nn.Parameter
    opacities: nn.Parameter
    sh0: nn.Parameter
    shN: nn.Parameter

    def __init__(self, config: SplatConfig, scene_info: SceneInfo) -> None:
        super().__init__(config, scene_info)
        if not 0 <= config.sh_degree <= 3:
            raise StudioError(f"sh_degree: {config.sh_degree} is not supported.", fix="Use 0, 1, 2 or 3.")
        rest = (config.sh_degree + 1) ** 2 - 1
        shapes = {
            "means": (0, 3),
            "quats": (0, 4),
            "scales": (0, 3),
            "opacities": (0,),
            "sh0": (0, 1, 3),
            "shN": (0, rest, 3),
        }
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))
        self._engine: Engine | None = None
        self._strategy: Strategy | None = None
        self._context: TrainingContext | None = None
        # Whether the engine is ahead of the parameters.
        self._ahead = False
        self.register_state_dict_pre_hook(lambda module, prefix, keep_vars: self._pull())

    # ---- parameters ----------------------------------------------------------------------------------------------
    @property
    def num_gaussians(self) -> int:
        """Gaussians now."""
        return self.gaussians()["means"].shape[0]

    def gaussians(self) -> dict[str, Tensor]:
        """The parameters before activation, by gsplat's names: scales are logs, opacities logits, quats wxyz."""
        self._pull()
        return {name: getattr(self, name).detach() for name in PARAMETERS}

    def set_gaussians(self, params: Mapping[str, Tensor]) -> None:
        """Replace all Gaussians, for example by those of a file."""
        for name in PARAMETERS:
            setattr(self, name, nn.Parameter(params[name].float().to(self.device), requires_grad=False))
        self._ahead = False
        self._engine = None

    def _pull(self) -> None:
        if self._ahead and self._engine is not None:
            params = self._engine.parameters()
            for name in PARAMETERS:
                setattr(self, name, nn.Parameter(params[name], requires_grad=False))
            self._ahead = False

    def prepare_state(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for name in PARAMETERS:
            if name in shapes:
                setattr(self, name, nn.Parameter(torch.zeros(shapes[name], device=self.device), requires_grad=False))
        self._engine = None
        self._ahead = False

    def engine(self) -> Engine:
        """The engine on the present device, holding the present parameters."""
        if self._engine is None:
            chosen = self.config.backend
            backend = default_backend(self.device.type) if chosen == "auto" else chosen
            require_backend(backend)
            self._engine = make_engine(backend, self.config, self.scene_info.num_train)
            self._engine.load({name: getattr(self, name).detach() for name in PARAMETERS})
            self._ahead = False
        return self._engine

    def _apply(self, fn: Any, recurse: bool = True) -> SplatField:
        # Moving to another device: what the engine holds is brought back first, and a new engine made there.
        self._pull()
        self._engine = None
        return super()._apply(fn, recurse)

    def networks(self) -> dict[str, nn.Module]:
        return {"gaussians": self}

    def status(self) -> dict[str, int | float | str]:
        count = self._engine.stats().count.shape[0] if self._engine is not None else self.means.shape[0]
        return {"Gaussians": count}

    # ---- training ------------------------------------------------------------------------------------------------
    def initialize(self, scene: Scene, photos: PhotoStore, generator: torch.Generator) -> None:
        config = self.config
        count = min(config.initial_count, config.max_gaussians)
        xyz, rgb = initial_points(config.initial, scene, photos, count, generator)
        self.set_gaussians(gaussians_from_points(xyz, rgb, sh_degree=config.sh_degree, opacity=config.initial_opacity))

    def setup_training(self, context: TrainingContext) -> None:
        self._context = context
        self._strategy = self._make_strategy(context)
        self._engine = None
        self.engine()

    def _make_strategy(self, context: TrainingContext) -> Strategy:
        config, extent = self.config, self.scene_info.camera_extent
        if config.strategy == "adaptive":
            return AdaptiveStrategy(
                extent=extent,
                total_steps=context.total_steps,
                max_gaussians=config.max_gaussians,
                uses_absgrad=config.absgrad,
                grad_threshold=8e-4 if config.absgrad else 2e-4,
                use_revised_opacity=config.revised_opacity,
                refine_every=config.refine_every,
            )
        if config.strategy == "mcmc":
            return McmcStrategy(max_gaussians=config.max_gaussians, refine_every=config.refine_every)
        return BudgetStrategy(
            extent=extent,
            target=config.max_gaussians,
            initial=self.means.shape[0],
            uses_absgrad=config.absgrad,
            refine_every=config.refine_every,
            stop=config.refine_stop,
        )

    def batch_request(self, step: int) -> PhotoRequest:
        return PhotoRequest(count=1, downscale=photo_downscale(self.config, self._training_context.progress(step)))

    @property
    def _training_context(self) -> TrainingContext:
        if self._context is None:
            raise RuntimeError("setup_training must be called before training")
        return self._context

    def training_step(self, batch: PhotoBatch, step: int) -> dict[str, float | Tensor]:
        context, config = self._training_context, self.config
        progress = context.progress(step)
        assert self._strategy is not None
        engine = self.engine()
        rates = learning_rates(config, self.scene_info.camera_extent, progress)
        target = self._target(batch.photos[0], batch.indices[0])
        metrics = engine.step(
            target,
            StepOptions(
                rates=rates,
                sh_degree=active_sh_degree(config, progress),
                ssim_weight=config.ssim_weight,
                opacity_reg=config.opacity_reg,
                scale_reg=config.scale_reg,
                collect_stats=True,
            ),
        )
        self._ahead = True
        if isinstance(self._strategy, McmcStrategy):
            engine.explore(self._strategy.noise * rates.means, context.generator)
        if self._strategy.due(step + 1, progress):
            edit = self._strategy.after_step(step + 1, progress, engine.parameters(), engine.stats(), context.generator)
            if edit is not None:
                engine.apply(edit)
        return metrics

    def _target(self, photo: Photo, index: int) -> Target:
        if self.config.random_background and photo.image.shape[-1] == 4:
            background = torch.rand(3, generator=self._training_context.generator)
        else:
            background = self._background()
        return Target(photo, index, background)

    def _background(self) -> Tensor:
        color = self.scene_info.background
        return torch.tensor(color) if color is not None else torch.zeros(3)

    def training_state(self) -> dict[str, Any]:
        assert self._strategy is not None
        return {"engine": self.engine().state(), "strategy": self._strategy.state()}

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        assert self._strategy is not None
        self._engine = None
        self.engine().load_state(state["engine"])
        self._strategy.load_state(state["strategy"])

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
            raise StudioError(f"splat does not render '{unknown[0]}'.", fix=f"Outputs: {', '.join(self.output_names)}.")
        behind = torch.zeros(3, device=self.device) if background is None else background
        engine = self.engine()
        drawn = [engine.render(camera, outputs, behind) for camera in cameras.reshape(-1)]
        width, height = cameras.reshape(-1)[0].size
        return {
            name: torch.stack([image[name] for image in drawn]).reshape(*cameras.shape, height, width, -1)
            for name in outputs
        }

    # ---- files ---------------------------------------------------------------------------------------------------
    def cloud(self) -> GaussianCloud:
        """The Gaussians as the file formats take them, in the scene's frame."""
        params = self.gaussians()
        return GaussianCloud(
            means=params["means"].cpu(),
            quats=params["quats"].cpu(),
            log_scales=params["scales"].cpu(),
            logit_opacities=params["opacities"].cpu(),
            sh=torch.cat([params["sh0"], params["shN"]], dim=1).cpu(),
        )

    def export(self, format: str, path: Path, *, input_from_scene: Float[Tensor, "4 4"]) -> None:
        cloud = self.cloud().transformed(input_from_scene)
        if format == "ply":
            write_gaussian_ply(path, cloud)
        elif format == "pointcloud":
            write_point_cloud(path, cloud.means, cloud.base_colors)
        else:
            raise StudioError(f"splat does not export '{format}'.", fix=f"Formats: {', '.join(self.export_formats)}.")
