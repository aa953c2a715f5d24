"""A Field as a model of nerfstudio: the Field trains itself, nerfstudio's trainer decides when."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras as NerfstudioCameras
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer
from nerfstudio.models.base_model import Model, ModelConfig
from nerfstudio.utils import colormaps
from torch import Tensor, nn

from studio.cameras import Cameras
from studio.errors import StudioError
from studio.metrics import psnr, ssim
from studio.plugin import Field, PluginConfig, TrainingContext
from studio.plugin.batches import Request
from studio.registry import find_plugin, load_plugin_class
from studio.training.randomness import stream_seed
from studio.training.sources import SceneSource
from studio.triangulation import with_points
from studio_nerfstudio.data import BATCH_KEY, INFO_KEY, StudioDataManager
from studio_nerfstudio.parsers import to_studio_camera

GROUP = "studio"
"""The one group of parameters that nerfstudio's optimisers are told of; it is empty, as a Field owns its optimisers."""

_OUTPUTS = {"rgb": "rgb", "depth": "depth", "opacity": "accumulation", "normals": "normals"}
"""Our names of outputs -> nerfstudio's."""
_PLUGIN = 3
"""The stream of random numbers that is the plugin's own."""


@dataclass
class StudioModelConfig(ModelConfig):
    """A Field and its own configuration."""

    _target: type = dataclasses.field(default_factory=lambda: StudioModel)
    enable_collider: bool = False
    plugin: str = "splat"
    """Name of the plugin, as `studio plugins` lists it."""
    field: PluginConfig = dataclasses.field(default_factory=PluginConfig)
    """Its options; 'steps' is taken from --max-num-iterations."""


class StudioModel(Model):
    """Serves nerfstudio's trainer, evaluation and viewer from a Field.

    A training step is the Field's own `training_step`, density control and all; it happens where nerfstudio asks for
    metrics of the batch. Checkpoints hold the Field, its optimisers' state, and the position in the data.
    """

    config: StudioModelConfig
    field: Field

    def populate_modules(self) -> None:
        super().populate_modules()
        info = self.kwargs["metadata"].get(INFO_KEY)
        if info is None:
            raise StudioError(
                f"The method 'studio-{self.config.plugin}' got data from another data manager than its own.",
                fix="Leave the data manager of the method as it is; data parsers can be chosen freely.",
            )
        cls = load_plugin_class(find_plugin(self.config.plugin))
        if not issubclass(cls, Field):
            raise StudioError(f"'{self.config.plugin}' is no Field, and nerfstudio trains scenes.")
        self.field = cls(self.config.field, info)
        self.step = 0
        # Not the data manager itself, which is a module and would become a part of this one.
        self._ask: Callable[[Request], None] | None = None
        self._source: SceneSource | None = None
        self._context: TrainingContext | None = None
        self._resumed: Mapping[str, Any] | None = None

    # ---- training ------------------------------------------------------------------------------------------------
    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        return {GROUP: [self.device_indicator_param]}

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        assert training_callback_attributes.pipeline is not None
        assert training_callback_attributes.trainer is not None
        self._begin(training_callback_attributes.pipeline.datamanager, training_callback_attributes.trainer)
        return [
            TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._before_step),
            TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN], self._after_training),
        ]

    def _begin(self, data: StudioDataManager, trainer: Trainer) -> None:
        """Fill the Field from the photos, or take up a training where a checkpoint left it."""
        device, seed = self.device, trainer.config.machine.seed
        # A resumed training of nerfstudio goes on for max_num_iterations more.
        steps = trainer._start_step + trainer.config.max_num_iterations
        photos = data.open_photos(self.field)
        assert data.source is not None
        self.config.field.steps = steps
        generator = torch.Generator().manual_seed(stream_seed(seed, _PLUGIN))
        self._ask, self._source = data.ask, data.source
        self._context = TrainingContext(
            total_steps=steps,
            seed=seed,
            device=torch.device(device),
            generator=generator,
            step_cost=self.field.step_cost,
        )
        if self._resumed is None:
            # On the CPU whatever the device is, so that a seed means the same start everywhere.
            self.field.cpu()
            self.field.initialize(with_points(data.scene, photos), photos, generator)
            self.field.to(device)
        self.field.setup_training(self._context)
        if self._resumed is not None:
            self.field.load_training_state(self._resumed["training"])
            data.source.load_state(self._resumed["source"])
            generator.set_state(self._resumed["generator"])

    def _before_step(self, step: int) -> None:
        assert self._ask is not None
        self.step = step
        self._ask(self.field.batch_request(step))

    def _after_training(self, step: int) -> None:
        self.field.finish_training()

    def get_outputs(self, ray_bundle: NerfstudioCameras) -> dict[str, Tensor]:
        """Pictures of a camera; nothing while training, where the Field renders what its step needs."""
        if self.training:
            return {}
        if not isinstance(ray_bundle, NerfstudioCameras):
            raise TypeError(f"a Field renders whole cameras, not {type(ray_bundle).__name__}")
        return self._render(ray_bundle)

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Tensor]:
        if BATCH_KEY not in batch:
            return {"psnr": psnr(outputs["rgb"], self._photo(batch))}
        figures = self.field.training_step(batch[BATCH_KEY], self.step)
        status = {name: value for name, value in self.field.status().items() if not isinstance(value, str)}
        return {name: torch.as_tensor(value, dtype=torch.float32) for name, value in {**status, **figures}.items()}

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Any], metrics_dict: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        if BATCH_KEY not in batch:
            return {"loss": (outputs["rgb"] - self._photo(batch)).square().mean()}
        assert metrics_dict is not None
        # The step is done; the empty sum is what the trainer's backward pass goes through.
        return {"loss": metrics_dict["loss"].to(self.device) + self.device_indicator_param.sum()}

    # ---- rendering -----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def get_outputs_for_camera(self, camera: NerfstudioCameras, obb_box: Any = None) -> dict[str, Tensor]:
        """Pictures (h, w, c) of one camera; a crop box is not looked at."""
        return self._render(camera)

    def _render(self, camera: NerfstudioCameras) -> dict[str, Tensor]:
        names = [name for name in _OUTPUTS if name in self.field.output_names]
        background = self.field.scene_info.background
        drawn = self.field.render(
            _pinhole(camera).to(device=self.device),
            names,
            background=None if background is None else torch.tensor(background, device=self.device),
        )
        found = {_OUTPUTS[name]: image for name, image in drawn.items()}
        if "normals" in found:
            # As colours, which is what nerfstudio's viewer takes.
            found["normals"] = (found["normals"] + 1) / 2
        return found

    def _photo(self, batch: dict[str, Any]) -> Tensor:
        """The photo of an evaluation batch, on the background that pictures are rendered on."""
        image = batch["image"].to(self.device).float()
        image = image / 255 if batch["image"].dtype == torch.uint8 else image
        if image.shape[-1] == 4:
            behind = torch.tensor(self.field.scene_info.background or (0.0, 0.0, 0.0), device=self.device)
            image = torch.lerp(behind.expand_as(image[..., :3]), image[..., :3], image[..., 3:])
        return image

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        photo, rgb = self._photo(batch), outputs["rgb"]
        images = {
            "img": torch.cat([photo, rgb], dim=1),
            "accumulation": colormaps.apply_colormap(outputs["accumulation"]),
            "depth": colormaps.apply_depth_colormap(outputs["depth"], accumulation=outputs["accumulation"]),
        }
        return {"psnr": float(psnr(rgb, photo)), "ssim": float(ssim(rgb, photo))}, images

    def export(self, format: str, path: Path, *, input_from_scene: Tensor) -> None:
        """Write what was trained, as `studio export` does; see `Field.export`."""
        self.field.export(format, path, input_from_scene=input_from_scene)

    # ---- checkpoints ---------------------------------------------------------------------------------------------
    def get_extra_state(self) -> dict[str, Any]:
        if self._context is None or self._source is None:
            return {}
        return {
            "training": self.field.training_state(),
            "source": self._source.state(),
            "generator": self._context.generator.get_state(),
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self._resumed = state or None

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        prefix = "field."
        shapes = {k.removeprefix(prefix): tuple(v.shape) for k, v in state_dict.items() if k.startswith(prefix)}
        self.field.prepare_state(shapes)
        return super().load_state_dict(state_dict, strict=strict, assign=assign)


def _pinhole(camera: NerfstudioCameras) -> Cameras:
    """One camera without its distortion, which nerfstudio's data manager has taken from the photos."""
    found = to_studio_camera(camera.reshape(-1), 0, "the camera to render")
    return dataclasses.replace(found, model="pinhole", distortion=None).to(dtype=torch.float32)
