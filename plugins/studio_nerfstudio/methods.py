"""The methods that `ns-train` finds by its entry points: studio-splat and studio-ngp."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from studio_nerf.ngp.config import NgpConfig
from studio_nerfstudio.data import StudioDataManagerConfig
from studio_nerfstudio.model import GROUP, StudioModelConfig
from studio_splat.config import SplatConfig


@dataclass
class SplatModelConfig(StudioModelConfig):
    """3D Gaussian splatting."""

    plugin: str = "splat"
    field: SplatConfig = dataclasses.field(default_factory=SplatConfig)


@dataclass
class NgpModelConfig(StudioModelConfig):
    """The hash-grid radiance field."""

    plugin: str = "ngp"
    field: NgpConfig = dataclasses.field(default_factory=NgpConfig)


def method(model: StudioModelConfig, description: str) -> MethodSpecification:
    """A method for `ns-train` of any plugin that is a Field.

    Args:
        model: Names the plugin, and holds its configuration.
        description: One line for the help of `ns-train`.
    """
    return MethodSpecification(
        config=TrainerConfig(
            method_name=f"studio-{model.plugin}",
            max_num_iterations=model.field.steps,
            steps_per_eval_batch=0,
            steps_per_eval_image=500,
            steps_per_eval_all_images=5000,
            steps_per_save=2000,
            mixed_precision=False,
            # nerfstudio's own default is cuda, also where there is none.
            machine=MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu"),
            pipeline=VanillaPipelineConfig(
                datamanager=StudioDataManagerConfig(dataparser=NerfstudioDataParserConfig()),
                model=model,
            ),
            # nerfstudio wants an optimiser for every group; this one's group is empty.
            optimizers={GROUP: {"optimizer": AdamOptimizerConfig(), "scheduler": None}},
            viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
            vis="viewer",
        ),
        description=description,
    )


SPLAT = method(SplatModelConfig(), "Gaussian splatting of neural-studio: fast on a plain CPU.")
NGP = method(NgpModelConfig(), "Hash-grid NeRF of neural-studio: trains in minutes on a CPU.")
