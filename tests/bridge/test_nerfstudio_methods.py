"""Our Fields as methods of `ns-train`, run by nerfstudio's own trainer on the bundled scene."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils.eval_utils import eval_setup

from studio.errors import StudioError
from studio.export.gaussian_ply import read_gaussian_ply

TABLETOP = Path(__file__).resolve().parents[2] / "scenes" / "tabletop"


def config_of(method: str, output: Path, steps: int, **options: Any) -> Any:
    """The method's configuration as `ns-train` would hand it on, small."""
    config = copy.deepcopy(all_methods[method])
    config.data = TABLETOP
    config.pipeline.datamanager.data = TABLETOP
    config.pipeline.datamanager.camera_res_scale_factor = 0.25
    config.output_dir = output
    config.timestamp = "now"
    config.vis = "tensorboard"
    config.viewer.quit_on_train_completion = True
    config.max_num_iterations = steps
    config.steps_per_eval_image = config.steps_per_eval_all_images = 0
    config.machine.device_type = "cpu"
    for name, value in options.items():
        assert hasattr(config.pipeline.model.field, name)
        setattr(config.pipeline.model.field, name, value)
    return config


def run(config: Any) -> tuple[Trainer, dict[int, float], dict[int, dict[str, float]]]:
    """Train; the trainer, and the loss and the metrics of each step."""
    losses: dict[int, float] = {}
    metrics: dict[int, dict[str, float]] = {}
    trainer = config.setup(local_rank=0, world_size=1)
    config.save_config()
    trainer.setup()
    iterate = trainer.train_iteration

    def recorded(step: int) -> Any:
        result = iterate(step)
        losses[step] = float(result[0])
        metrics[step] = {name: float(value) for name, value in result[2].items()}
        return result

    trainer.train_iteration = recorded
    trainer.train()
    return trainer, losses, metrics


def mean(values: dict[int, float], first: int, last: int) -> float:
    return sum(values[step] for step in range(first, last)) / (last - first)


def test_methods_are_found_by_their_entry_points() -> None:
    assert {"studio-splat", "studio-ngp"} <= set(all_methods)


def test_splats_train_with_density_control_resume_and_load(tmp_path: Path) -> None:
    options = {
        "initial_count": 1000,
        "max_gaussians": 1500,
        "gaussians_per_step": 0.0,
        "refine_every": 10,
        # Losses of photos at several sizes cannot be compared.
        "coarse_levels": 0,
    }
    config = config_of("studio-splat", tmp_path / "whole", 120, **options)
    config.steps_per_save, config.save_only_latest_checkpoint = 80, False
    trainer, losses, metrics = run(config)
    assert list(losses) == list(range(120))
    assert mean(losses, 110, 120) < 0.7 * mean(losses, 0, 5)
    # Density control is the Field's own, and it ran.
    counts = [metrics[step]["Gaussians"] for step in range(120)]
    assert counts[0] == 1000
    assert counts[-1] > 1200
    model = trainer.pipeline.model
    assert model.field.num_gaussians == counts[-1]
    # No optimiser of nerfstudio's may touch what the Field trains.
    assert [p.numel() for group in trainer.optimizers.parameters.values() for p in group] == [0]

    # Resumed from the checkpoint in the middle, every later step is exactly the same.
    again = config_of("studio-splat", tmp_path / "resumed", 39, **options)
    again.load_dir, again.load_step = trainer.checkpoint_dir, 80
    _, resumed, _ = run(again)
    assert list(resumed) == list(range(81, 120))
    assert resumed == {step: losses[step] for step in resumed}

    # ns-eval, ns-render and ns-viewer open the run like this.
    _, pipeline, _, step = eval_setup(trainer.base_dir / "config.yml", test_mode="test")
    assert step == 119
    camera, batch = pipeline.datamanager.next_eval_image(0)
    assert batch["image"].shape == (80, 80, 3)
    outputs = pipeline.model.get_outputs_for_camera(camera)
    expected = model.eval().get_outputs_for_camera(camera)
    assert {name: tuple(image.shape) for name, image in outputs.items()} == {
        "rgb": (80, 80, 3),
        "depth": (80, 80, 1),
        "accumulation": (80, 80, 1),
        "normals": (80, 80, 3),
    }
    assert torch.equal(outputs["rgb"], expected["rgb"])
    figures, images = pipeline.model.get_image_metrics_and_images(outputs, batch)
    # A picture of one colour is at about 12 dB, so the camera must be the photo's.
    assert figures["psnr"] > 15
    assert images["img"].shape == (80, 160, 3)
    average = pipeline.get_average_eval_image_metrics()
    assert average["psnr"] > 15

    file = tmp_path / "splats.ply"
    model.export("ply", file, input_from_scene=torch.eye(4, dtype=torch.float64))
    assert len(read_gaussian_ply(file).means) == counts[-1]


def test_hash_grids_train(tmp_path: Path) -> None:
    # The first batches are a quarter of it.
    options = {"samples": 65536, "steps_across": 128, "grid_resolution": 32, "log2_rows": 13}
    trainer, losses, metrics = run(config_of("studio-ngp", tmp_path, 100, **options))
    assert mean(losses, 90, 100) < 0.7 * mean(losses, 0, 5)
    psnr = {step: values["psnr"] for step, values in metrics.items()}
    assert mean(psnr, 90, 100) > mean(psnr, 0, 5)
    # The number of rays is what the Field asked for, not a constant.
    assert len({m["rays"] for m in metrics.values()}) > 5
    assert trainer.pipeline.datamanager.get_train_rays_per_batch() != 80 * 80


def test_another_data_manager_is_refused(tmp_path: Path) -> None:
    config = config_of("studio-splat", tmp_path, 1)
    config.pipeline.datamanager = copy.deepcopy(all_methods["splatfacto"].pipeline.datamanager)
    config.pipeline.datamanager.data = TABLETOP
    trainer = config.setup(local_rank=0, world_size=1)
    with pytest.raises(StudioError, match="another data manager"):
        trainer.setup()
