"""What `ns-export gaussian-splat` writes of a splatfacto model opens here."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.scripts.exporter import ExportGaussianSplat
from torchmetrics.image import lpip

from studio.cameras import Cameras
from studio.cameras.poses import look_at
from studio.export.gaussian_ply import read_gaussian_ply
from studio_splat.field import SplatField

TABLETOP = Path(__file__).resolve().parents[2] / "scenes" / "tabletop"


class NoMetric(torch.nn.Module):
    """In place of LPIPS, whose weights would be downloaded; an export does not measure anything."""

    def __init__(self, **options: Any) -> None:
        super().__init__()


def test_a_splatfacto_export_opens_and_renders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rasteriser needs CUDA, so the model is not trained here: Gaussians at random places, as it starts with where
    there are no points, get random shapes and colours, and go through nerfstudio's own checkpoint and export."""
    monkeypatch.setattr(lpip, "LearnedPerceptualImagePatchSimilarity", NoMetric)
    # nerfstudio 1.1.5 is from before torch 2.6, which refuses the numpy numbers in checkpoints of splatfacto.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    config = copy.deepcopy(all_methods["splatfacto"])
    config.pipeline.datamanager.data = TABLETOP
    config.pipeline.datamanager.dataparser.load_3D_points = False
    config.pipeline.model.num_random, config.pipeline.model.random_scale = 3000, 1.0
    config.output_dir, config.timestamp, config.vis = tmp_path, "now", "tensorboard"
    config.machine.device_type = "cpu"
    trainer = config.setup(local_rank=0, world_size=1)
    config.save_config()
    trainer.setup()
    model = trainer.pipeline.model
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.features_rest.copy_(0.1 * torch.randn(model.features_rest.shape, generator=generator))
        model.features_dc.copy_(torch.randn(model.features_dc.shape, generator=generator))
        model.scales.copy_(torch.randn(model.scales.shape, generator=generator) / 2 - 3)
        model.opacities.copy_(torch.randn(model.opacities.shape, generator=generator) + 2)
        model.quats.copy_(torch.randn(model.quats.shape, generator=generator))
    trainer.save_checkpoint(0)
    ExportGaussianSplat(load_config=trainer.base_dir / "config.yml", output_dir=tmp_path / "export").main()

    (file,) = (tmp_path / "export").glob("*.ply")
    cloud = read_gaussian_ply(file)
    count = len(model.means)
    assert cloud.sh_degree == 3
    assert len(cloud.means) == count
    torch.testing.assert_close(cloud.means, model.means.detach())
    torch.testing.assert_close(cloud.log_scales, model.scales.detach())
    torch.testing.assert_close(cloud.logit_opacities, model.opacities.detach()[:, 0])
    torch.testing.assert_close(cloud.sh[:, 0], model.features_dc.detach())
    torch.testing.assert_close(cloud.sh[:, 1:], model.features_rest.detach())
    turns = torch.nn.functional.normalize(model.quats.detach(), dim=-1)
    cosines = (torch.nn.functional.normalize(cloud.quats, dim=-1) * turns).sum(dim=-1).abs()
    torch.testing.assert_close(cosines, torch.ones(count))

    camera = Cameras.from_fov(
        look_at(torch.tensor([0.0, -2.0, 0.0]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0])),
        width=80,
        height=80,
        fov_x=0.6,
    )
    drawn = SplatField.from_ply(file).render(camera, ("rgb", "opacity"))
    assert drawn["opacity"].mean() > 0.5
    assert drawn["rgb"].std() > 0.05
