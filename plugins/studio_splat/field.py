"""The splat plugin's Field: parameters, training, rendering and export of a set of 3D Gaussians."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.export.gaussian_ply import read_gaussian_ply, write_gaussian_ply
from studio.export.gaussians import GaussianCloud
from studio.export.pointcloud import write_point_cloud
from studio.plugin import Field, PhotoBatch, PhotoRequest, PluginConfig, SceneInfo, TrainingContext
from studio.scene import Photo, PhotoStore, Scene
from studio_splat.backends import default_backend, require_backend
from studio_splat.config import SplatConfig
from studio_splat.engine import PARAMETERS, Engine, StepOptions, Target, make_engine
from studio_splat.initial import gaussians_from_points, initial_points
from studio_splat.memory import require_memory, training_bytes
from studio_splat.schedule import (
    CoarseStages,
    active_sh_degree,
    gaussians_per_step,
    learning_rates,
    relative_cost,
)
from studio_splat.strategy import AdaptiveStrategy, BudgetStrategy, McmcStrategy, Strategy

if TYPE_CHECKING:
    from studio.kernels.cache import Kernel

MAX_SH_DEGREE = 3
_AVERAGED_EVERY = 5
"""Steps from one set of Gaussians that are averaged to the next: closer ones say the same."""
_USUAL_PIXELS = 160_000.0
"""Of a photo, where nothing is known of them."""
_SHARPEST_EPS2D = 0.1
"""Dilation of reduced photos at least: below it, what is small falls between the pixels."""
_LARGE_LOGIT = 30.0
"""The sigmoid of this is 1 in float32."""


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
        _check_config(config)
        for name, shape in self._shapes(0).items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape), requires_grad=False))
        self._engine: Engine | None = None
        self._strategy: Strategy | None = None
        self._context: TrainingContext | None = None
        self._photo_pixels: float | None = None
        self._plan_stages()
        # Whether the engine is ahead of the parameters.
        self._ahead = False
        # What an engine on another device left behind for the next one.
        self._carried: dict[str, Any] | None = None
        self.register_state_dict_pre_hook(_pull_first)
        self.register_load_state_dict_post_hook(_forget_engine)

    @classmethod
    def from_ply(
        cls, path: str | Path, config: SplatConfig | None = None, scene_info: SceneInfo | None = None
    ) -> SplatField:
        """Open a splat PLY in Inria's layout, from any program, as a field that renders, exports and trains on.

        Args:
            path: The file; its Gaussians stay in the file's frame.
            config: Rendering and training options; the degree of the colours is the file's.
            scene_info: What is known of the scene it belongs to.

        Raises:
            StudioError: The file cannot be read, is no splat, or has colours of degree 4.
        """
        cloud = read_gaussian_ply(path)
        if cloud.sh_degree > MAX_SH_DEGREE:
            raise StudioError(
                f"{path}: has spherical harmonics of degree {cloud.sh_degree}; splat takes up to {MAX_SH_DEGREE}.",
                fix="Save it with a lower degree in a splat editor.",
            )
        return cls.from_gaussians(cloud, config, scene_info)

    @classmethod
    def from_gaussians(
        cls, cloud: GaussianCloud, config: PluginConfig | None = None, scene_info: SceneInfo | None = None
    ) -> SplatField:
        """A field of any Gaussians, which renders, exports and trains on.

        Args:
            cloud: In the frame that the field shall have; colours of degree 4 are drawn with degree 3.
            config: Rendering and training options; the degree of the colours is the cloud's, and without any also how
                it is to be drawn.
            scene_info: What is known of the scene they belong to.

        Raises:
            StudioError: A value is NaN or a mean infinite; names the parameter and the Gaussian.
            TypeError: `config` is another plugin's.
        """
        if config is not None and not isinstance(config, SplatConfig):
            raise TypeError(f"config must be a SplatConfig, got {type(config).__name__}")
        cloud = cloud.truncated(min(cloud.sh_degree, MAX_SH_DEGREE))
        config = config or SplatConfig(antialiased=cloud.antialiased)
        config = dataclasses.replace(config, sh_degree=cloud.sh_degree)
        field = cls(config, scene_info or SceneInfo())
        # Infinite logits stand for opacities of exactly 0 and 1, an infinitely negative log for a scale of 0.
        field.set_gaussians(
            {
                "means": cloud.means,
                "quats": cloud.quats,
                "scales": cloud.log_scales.nan_to_num(neginf=-_LARGE_LOGIT, posinf=torch.inf),
                "opacities": cloud.logit_opacities.nan_to_num(neginf=-_LARGE_LOGIT, posinf=_LARGE_LOGIT),
                "sh0": cloud.sh[:, :1],
                "shN": cloud.sh[:, 1:],
            }
        )
        return field

    def __getstate__(self) -> dict[str, Any]:
        # A copy holds the Gaussians as they are now; engines and random generators are not for copying. It renders and
        # exports as it is, and trains after `setup_training`.
        self._pull()
        state = dict(super().__getstate__())
        state.update(_engine=None, _strategy=None, _context=None, _carried=None)
        return state

    # ---- parameters ----------------------------------------------------------------------------------------------
    @property
    def num_gaussians(self) -> int:
        """Gaussians now."""
        return self._engine.count if self._engine is not None else self.means.shape[0]

    def _shapes(self, count: int) -> dict[str, tuple[int, ...]]:
        rest = (self.config.sh_degree + 1) ** 2 - 1
        return {
            "means": (count, 3),
            "quats": (count, 4),
            "scales": (count, 3),
            "opacities": (count,),
            "sh0": (count, 1, 3),
            "shN": (count, rest, 3),
        }

    def gaussians(self) -> dict[str, Tensor]:
        """The parameters before activation, by gsplat's names: scales are logs, opacities logits, quats wxyz."""
        self._pull()
        return {name: getattr(self, name).detach() for name in PARAMETERS}

    def set_gaussians(self, params: Mapping[str, Tensor]) -> None:
        """Replace all Gaussians, for example by those of a file.

        Args:
            params: As `gaussians` gives them.

        Raises:
            StudioError: A value is NaN or infinite, or a quaternion is zero; names the parameter and the Gaussian.
            ValueError: A parameter is missing or of the wrong shape.
        """
        missing = [name for name in PARAMETERS if name not in params]
        if missing:
            raise ValueError(f"params must hold {', '.join(PARAMETERS)}; '{missing[0]}' is missing")
        for name, shape in self._shapes(len(params["means"])).items():
            if tuple(params[name].shape) != shape:
                raise ValueError(f"{name} must have shape {shape}, got {tuple(params[name].shape)}")
            _refuse(name, ~params[name].isfinite(), "is NaN or infinite")
        _refuse("quats", (params["quats"] == 0).all(dim=-1), "is zero, which is no rotation")
        device = self.device
        for name in PARAMETERS:
            values = params[name].detach().to(device, torch.float32, copy=True).contiguous()
            setattr(self, name, nn.Parameter(values, requires_grad=False))
        self._drop_engine()

    def _drop_engine(self) -> None:
        """Forget the engine and all it knows; the parameters count."""
        self._engine, self._ahead, self._carried = None, False, None

    def _pull(self) -> None:
        if self._ahead and self._engine is not None:
            params = self._engine.parameters()
            for name in PARAMETERS:
                setattr(self, name, nn.Parameter(params[name], requires_grad=False))
            self._ahead = False

    def prepare_state(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        # Only the count may differ; other differences are for `load_state_dict` to refuse.
        count = shapes["means"][0] if "means" in shapes else 0
        device = self.device
        for name, shape in self._shapes(count).items():
            setattr(self, name, nn.Parameter(torch.zeros(shape, device=device), requires_grad=False))
        self._drop_engine()

    @classmethod
    def kernels(cls, config: PluginConfig, device: torch.device, *, training: bool) -> Sequence[Kernel]:
        if device.type != "cpu" or getattr(config, "backend", "auto") not in ("auto", "cpu"):
            return ()
        from studio_splat.kernels.needed import drawing_kernels, training_kernels

        return training_kernels(absgrad=bool(getattr(config, "absgrad", False))) if training else drawing_kernels()

    def engine(self) -> Engine:
        """The engine on the present device, holding the present parameters."""
        if self._engine is None:
            chosen = self.config.backend
            device = self.device.type
            backend = default_backend(device) if chosen == "auto" else chosen
            require_backend(backend)
            if backend != "reference" and backend != device:
                raise StudioError(
                    f"backend: '{backend}' does not draw on the device '{device}'.",
                    fix=f"Use --backend auto, or --device {backend}.",
                )
            engine = make_engine(backend, self.config, self.scene_info.num_train)
            engine.load({name: getattr(self, name).detach() for name in PARAMETERS})
            if self._carried is not None:
                engine.load_state(self._carried)
            self._engine, self._ahead, self._carried = engine, False, None
        return self._engine

    def _apply(self, fn: Any, recurse: bool = True) -> SplatField:
        # Moving to another device: what the engine holds is brought back first, and a new engine made there, which
        # goes on training where this one stopped.
        self._pull()
        if self._engine is not None and self._context is not None:
            self._carried = self._engine.state()
        self._engine = None
        super()._apply(fn, recurse)
        return self

    def networks(self) -> dict[str, nn.Module]:
        return {"gaussians": self}

    def status(self) -> dict[str, int | float | str]:
        return {"Gaussians": self.num_gaussians}

    # ---- training ------------------------------------------------------------------------------------------------
    def initialize(self, scene: Scene, photos: PhotoStore, generator: torch.Generator) -> None:
        config = self.config
        # Density control will go there: better refused now than hours later.
        require_memory(
            f"max_gaussians: training {config.max_gaussians:,} Gaussians",
            training_bytes(config.max_gaussians, config.sh_degree),
            self.device,
            fix="Lower --max-gaussians.",
        )
        width, height = photos.camera(0).size
        self._photo_pixels = float(width * height)
        count = min(config.initial_count, config.max_gaussians)
        xyz, rgb = initial_points(config.initial, scene, photos, count, generator)
        self.set_gaussians(gaussians_from_points(xyz, rgb, sh_degree=config.sh_degree, opacity=config.initial_opacity))

    def setup_training(self, context: TrainingContext) -> None:
        self._pull()
        self._context = context
        self._plan_stages()
        self._strategy = self._make_strategy(context)
        self._drop_engine()
        self.engine()

    def _gaussians_per_step(self) -> float:
        return gaussians_per_step(self.config, self._photo_pixels or _USUAL_PIXELS)

    def _plan_stages(self) -> None:
        budget = None if self._context is None else self._context.budget_seconds
        self._coarse = CoarseStages.plan(self.config, self._photo_pixels or _USUAL_PIXELS, budget)

    def finish_training(self) -> None:
        self.engine().settle()
        self._ahead = True
        self._pull()

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
            per_step=self._gaussians_per_step(),
            prune_weight=config.prune_weight,
            tile_budget=config.tile_budget,
        )

    def step_cost(self, progress: float) -> float:
        pixels = (self._photo_pixels or _USUAL_PIXELS) / self._coarse.downscale(progress) ** 2
        strategy = self._strategy
        count = strategy.count_at(progress) if isinstance(strategy, BudgetStrategy) else self.config.max_gaussians
        return relative_cost(pixels, count)

    def batch_request(self, step: int) -> PhotoRequest:
        downscale = self._coarse.downscale(self._training_context.progress(step))
        return PhotoRequest(count=1, downscale=downscale, shifted=self.config.shifted_photos)

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
        expected = context.expected_steps(step)
        self._strategy.expect(expected)
        rates = learning_rates(config, self.scene_info.camera_extent, progress, expected)
        target = self._target(batch.photos[0], batch.indices[0])
        metrics = engine.step(
            target,
            StepOptions(
                rates=rates,
                sh_degree=active_sh_degree(config, progress),
                ssim_weight=config.ssim_weight,
                smooth_l1=config.smooth_l1,
                opacity_reg=config.opacity_reg,
                scale_reg=config.scale_reg,
                collect_stats=self._strategy.reads_stats(progress),
                eps2d=self._dilation(batch.photos[0], self._coarse.downscale(progress)),
                weigh=self._strategy.weighs(progress),
            ),
        )
        self._ahead = True
        if isinstance(self._strategy, McmcStrategy):
            engine.explore(self._strategy.noise * rates.means, context.generator)
        if self._strategy.due(step + 1, progress):
            edit = self._strategy.after_step(step + 1, progress, engine.parameters(), engine.stats(), context.generator)
            if edit is not None:
                engine.apply(edit)
        if progress >= 1 - config.average_share and (step + 1) % _AVERAGED_EVERY == 0:
            engine.average()
        return metrics

    def _dilation(self, photo: Photo, downscale: int) -> float:
        """Dilation on screen of a reduced photo: about what that of full size is there, so that Gaussians learn the
        size that they need in the end."""
        eps2d = self.config.eps2d
        # What was asked for is not what came where somebody else hands out the photos.
        reduced = math.sqrt((self._photo_pixels or 0.0) / math.prod(photo.size))
        downscale = min(downscale, max(round(reduced), 1))
        return max(eps2d / downscale**2, min(eps2d, _SHARPEST_EPS2D))

    def _target(self, photo: Photo, index: int) -> Target:
        # The engine's own source tells so, too; photos may come from elsewhere.
        if photo.mask is not None and not bool(photo.mask.any()):
            raise StudioError(
                f"{photo.frame.mask_path or photo.frame.name}: the mask leaves nothing of the photo.",
                fix="Remove the photo, or mark the pixels that count with white.",
            )
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
        return {
            "engine": self.engine().state(),
            "strategy": self._strategy.state(),
            "photo_pixels": self._photo_pixels,
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        assert self._strategy is not None
        self._drop_engine()
        self.engine().load_state(state["engine"])
        self._strategy.load_state(state["strategy"])
        # Runs from before this was kept were trained as on the default.
        self._photo_pixels = state.get("photo_pixels")
        self._plan_stages()
        if isinstance(self._strategy, BudgetStrategy):
            self._strategy.per_step = self._gaussians_per_step()

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
        if cameras.model not in self.camera_models:
            raise StudioError(
                f"splat does not render cameras of the model '{cameras.model}'.",
                fix=f"Models: {', '.join(self.camera_models)}.",
            )
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
            antialiased=self.config.antialiased,
        )

    def export(self, format: str, path: Path, *, input_from_scene: Float[Tensor, "4 4"]) -> None:
        cloud = self.cloud().transformed(input_from_scene)
        if format == "ply":
            write_gaussian_ply(path, cloud)
        elif format == "pointcloud":
            write_point_cloud(path, cloud.means, cloud.base_colors)
        else:
            raise StudioError(f"splat does not export '{format}'.", fix=f"Formats: {', '.join(self.export_formats)}.")


def _pull_first(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    assert isinstance(module, SplatField)
    module._pull()


def _forget_engine(module: nn.Module, incompatible_keys: Any) -> None:
    assert isinstance(module, SplatField)
    module._drop_engine()


def _check_config(config: SplatConfig) -> None:
    """Refuse values that would fail in the middle of a run."""
    if not 0 <= config.sh_degree <= MAX_SH_DEGREE:
        raise StudioError(f"sh_degree: {config.sh_degree} is not supported.", fix="Use 0, 1, 2 or 3.")
    if not 0 <= config.average_share <= 1:
        raise StudioError(
            f"average_share: {config.average_share} is not between 0 and 1.", fix="Use a share such as 0.05."
        )
    for name in ("max_gaussians", "initial_count", "refine_every"):
        if getattr(config, name) < 1:
            raise StudioError(f"{name}: {getattr(config, name)} is too small.", fix="Use 1 or more.")
    if not 0 < config.initial_opacity < 1:
        raise StudioError(
            f"initial_opacity: {config.initial_opacity} is not between 0 and 1.", fix="Use a value such as 0.1."
        )
    if not 0 <= config.ssim_weight <= 1:
        raise StudioError(f"ssim_weight: {config.ssim_weight} is not between 0 and 1.", fix="Use a share such as 0.2.")
    if not 0 <= config.smooth_l1 <= 1:
        raise StudioError(
            f"smooth_l1: {config.smooth_l1} is not between 0 and 1.", fix="Use a difference such as 0.03, or 0."
        )
    if not config.near > 0:
        raise StudioError(f"near: {config.near} is not a depth above 0.", fix="Use a value such as 0.01.")
    if not config.eps2d >= 0:
        raise StudioError(f"eps2d: {config.eps2d} is negative.", fix="Use a value such as 0.1.")


def _refuse(name: str, bad: Tensor, what: str) -> None:
    """Raise a StudioError that names the first Gaussian of which something is bad."""
    if not bool(bad.any()):
        return
    rows = bad.flatten(1).any(dim=1) if bad.dim() > 1 else bad
    first = int(rows.nonzero()[0, 0])
    raise StudioError(
        f"{name}[{first}] {what} ({int(rows.sum()):,} of {len(rows):,} Gaussians are like this).",
        fix="Remove these Gaussians, or export the file again.",
    )
