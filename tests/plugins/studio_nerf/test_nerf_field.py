"""The plugin `nerf` through the public contract: training, exact resume, rendering, asking, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_scenes import write_ring_scene
from torch import Tensor

from studio.cameras import Cameras, look_at
from studio.errors import StudioError
from studio.plugin import RayBatch, SceneInfo, TrainingContext
from studio.plugin.abilities import HasDensity, HasRaySamples
from studio.training.loaded import open_run
from studio.training.start import TrainOptions, prepare, prepare_resume
from studio_nerf.classic.config import NerfConfig
from studio_nerf.classic.field import NerfField

GRID: dict[str, Any] = {
    "sampling": "grid", "batch_samples": 512, "samples_across": 48, "grid_resolution": 16, "precision": "fp32",
    "warmup": 0.0,
}  # fmt: skip
PAPER: dict[str, Any] = {
    "sampling": "hierarchical", "rays": 24, "coarse_samples": 12, "fine_samples": 12, "density_activation": "relu",
    "precision": "fp32", "warmup": 0.0,
}  # fmt: skip
BOTH = pytest.mark.parametrize("settings", [GRID, PAPER], ids=["grid", "hierarchical"])
INFO = SceneInfo(num_train=3, bounds=((-1.0,) * 3, (1.0,) * 3), has_alpha=True, background=(1.0, 1.0, 1.0))


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ring_scene(tmp_path_factory.mktemp("nerf") / "ring", alpha=True)


def make_field(settings: dict[str, Any], info: SceneInfo = INFO, **changes: Any) -> NerfField:
    torch.manual_seed(0)
    field = NerfField(NerfConfig(**{**settings, **changes}), info)
    # Enough matter to be seen.
    with torch.no_grad():
        field.fine.density.bias += 3.0
    return field


def camera(size: int = 12, distance: float = 3.0) -> Cameras:
    pose = look_at(torch.tensor([distance, 0.4, 0.3]), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]))
    return Cameras.make(pose, width=size, height=size, fx=1.3 * size)


# ---- training ----------------------------------------------------------------------------------------------------
@BOTH
def test_training_resumes_exactly(settings: dict[str, Any], scene_folder: Path, tmp_path: Path) -> None:
    def options(name: str) -> TrainOptions:
        return TrainOptions(output=tmp_path / name, tensorboard=False, device="cpu", checkpoint_steps=12, log_every=1)

    config = NerfConfig.from_dict({**settings, "steps": 24, "density_noise": 0.1, "random_background": True})
    whole = prepare("nerf", scene_folder, config, options("whole"))
    whole.train()
    losses = [row["loss"] for row in whole.run.read_metrics()]
    half = prepare("nerf", scene_folder, NerfConfig.from_dict({**config.to_dict()}), options("half"))
    half.trainer.settings = type(half.trainer.settings)(**{**vars(half.trainer.settings), "total_steps": 12})
    half.train()
    again = prepare_resume(half.run.path, options("half"))
    again.train()
    assert [row["loss"] for row in again.run.read_metrics()] == losses
    state, other = whole.plugin.state_dict(), again.plugin.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state)
    run = open_run(half.run.path, device="cpu")
    image = run.field.render(run.cameras("test")[0], ("rgb", "depth", "opacity"))
    assert all(bool(value.isfinite().all()) for value in image.values())


@BOTH
def test_steps_on_the_same_rays_lower_the_loss(settings: dict[str, Any]) -> None:
    field = make_field(settings, learning_rate=1e-3, learning_rate_final=1e-3)
    field.setup_training(TrainingContext(total_steps=30))
    rays = batch(48)
    rays.rgb.copy_(torch.tensor([0.9, 0.2, 0.1]).expand(48, 3))
    losses = [float(field.training_step(rays, step)["loss"]) for step in range(30)]
    assert sum(losses[-3:]) < 0.3 * sum(losses[:3])


def test_chunks_of_rays_give_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    import studio_nerf.classic.field as module

    def gradients(samples: int) -> list[Tensor]:
        monkeypatch.setattr(module, "_CPU_SAMPLES", samples)
        # Even samples, so that chunks draw nothing at different places.
        field = make_field(PAPER)
        monkeypatch.setattr(field, "_march_dense", lambda o, d, w, g=None: type(field)._march_dense(field, o, d, w))
        field.setup_training(TrainingContext(total_steps=10))
        field.training_step(batch(16), 0)
        return [p.grad.clone() for p in field.parameters() if p.grad is not None]

    for whole, parts in zip(gradients(10_000), gradients(24 * 3), strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def batch(count: int, *, miss: bool = False) -> RayBatch:
    generator = torch.Generator().manual_seed(5)
    rays = camera(32).rays().reshape(-1)
    chosen = torch.randperm(len(rays), generator=generator)[:count]
    directions = -rays.directions[chosen] if miss else rays.directions[chosen]
    rgb = torch.rand(count, 3, generator=generator)
    return RayBatch(
        rays.origins[chosen], directions, rgb, torch.ones(count, 1), torch.zeros(count, dtype=torch.long),
        torch.rand(count, 2, generator=generator) * 32,
    )  # fmt: skip


@BOTH
def test_rays_that_miss_everything_train_and_render_as_background(settings: dict[str, Any]) -> None:
    field = make_field(settings)
    field.setup_training(TrainingContext(total_steps=10))
    before = {name: value.clone() for name, value in field.named_parameters()}
    target = batch(8, miss=True)
    metrics = field.training_step(target, 0)
    assert float(metrics["loss"]) * (1 if settings is GRID else 0.5) == pytest.approx(
        float((1 - target.rgb).square().mean()), rel=1e-5
    )
    assert all(torch.equal(value, before[name]) for name, value in field.named_parameters())
    away = camera()
    turned = Cameras.make(
        away.camera_to_world @ torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0])), width=5, height=4, fx=5
    )
    drawn = field.render(turned, field.output_names, background=torch.tensor([0.2, 0.4, 0.6]))
    torch.testing.assert_close(drawn["rgb"], torch.tensor([0.2, 0.4, 0.6]).expand(4, 5, 3))
    assert not any(bool(drawn[name].any()) for name in ("opacity", "depth", "normals"))
    samples = field.ray_samples(torch.tensor([5.0, 0, 0]), torch.tensor([1.0, 0, 0]))
    assert [len(samples[name]) for name in ("t", "density", "weights", "rgb")] == [0, 0, 0, 0]  # type: ignore[literal-required]


def test_the_learning_rate_decays_exponentially() -> None:
    field = make_field(PAPER, learning_rate=5e-4, learning_rate_final=5e-5)
    rates = [field._learning_rate(progress) for progress in (0.0, 0.5, 1.0)]
    assert rates == pytest.approx([5e-4, 5e-4 * 10**-0.5, 5e-5])
    warm = make_field(GRID, learning_rate=1e-3, learning_rate_final=1e-3, warmup=0.1)
    assert warm._learning_rate(0.05) == pytest.approx(5e-4, rel=1e-2)
    assert warm._learning_rate(0.0) > 0


def test_precrop_takes_the_middle_of_the_photos() -> None:
    field = make_field(PAPER, precrop=0.5, precrop_size=0.5, rays=24)
    field.photo_sizes.fill_(32.0)
    field.setup_training(TrainingContext(total_steps=10))
    assert [field.batch_request(step).count for step in (0, 4, 5)] == [96, 96, 24]
    kept = field._middle(batch(200))
    assert 0 < len(kept.rgb) <= 24
    assert bool(((kept.pixels >= 8) & (kept.pixels <= 24)).all())


def test_the_number_of_rays_follows_what_they_cost() -> None:
    field = make_field(GRID, rays=4096, batch_samples=512)
    assert field._fitting_rays(4.0) == 128
    assert field._fitting_rays(0.0) == 4096
    assert field._fitting_rays(1e6) == 32


# ---- asking ------------------------------------------------------------------------------------------------------
@BOTH
def test_a_pixel_is_what_its_ray_says(settings: dict[str, Any]) -> None:
    field = make_field(settings, samples_across=96)
    assert isinstance(field, HasDensity)
    assert isinstance(field, HasRaySamples)
    view, background = camera(), torch.tensor([0.1, 0.9, 0.5])
    drawn = field.render(view, ("rgb", "depth", "opacity"), background=background)
    rays = view.rays()
    for row, column in ((6, 6), (3, 8)):
        samples = field.ray_samples(rays.origins[row, column], rays.directions[row, column])
        weights, opacity = samples["weights"], samples["weights"].sum()
        assert 0.05 < float(opacity) <= 1.0001
        torch.testing.assert_close(drawn["opacity"][row, column, 0], opacity, rtol=0, atol=2e-3)
        color = (weights[:, None] * samples["rgb"]).sum(0) + (1 - opacity) * background
        torch.testing.assert_close(drawn["rgb"][row, column], color, rtol=0, atol=2e-3)
        depth = (weights * samples["t"]).sum() / opacity * rays.depth_scale[row, column]
        torch.testing.assert_close(drawn["depth"][row, column, 0], depth, rtol=2e-3, atol=0)
        points = rays.origins[row, column] + samples["t"][:, None] * rays.directions[row, column]
        torch.testing.assert_close(field.density(points), samples["density"], rtol=1e-3, atol=1e-4)


def test_density_is_zero_outside_of_the_box_and_in_empty_cells() -> None:
    field = make_field(GRID)
    inside, outside = torch.zeros(1, 3), torch.tensor([[1.5, 0.0, 0.0]])
    assert float(field.density(inside)) > 0
    assert float(field.density(outside)) == 0
    assert field.grid is not None
    field.grid.set_cells(torch.zeros_like(field.grid.cells))
    assert float(field.density(inside)) == 0


@BOTH
def test_normals_are_unit_face_the_camera_and_oppose_the_gradient(settings: dict[str, Any]) -> None:
    field = make_field(settings)
    view = camera(6)
    drawn = field.render(view, ("normals", "opacity"))
    solid = drawn["opacity"][..., 0] > 0.2
    assert bool(solid.any())
    torch.testing.assert_close(drawn["normals"][solid].norm(dim=-1), torch.ones(int(solid.sum())), rtol=1e-3, atol=1e-3)
    assert bool(((drawn["normals"] * view.rays().directions).sum(-1) <= 1e-5).all())
    points = torch.rand(5, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    normals = field.normals_at(points)
    fine = field.fine.double()
    for i, point in enumerate(points.double()):
        shifted = point + 1e-8 * torch.cat([torch.eye(3), -torch.eye(3)]).double()
        found = fine.density_of(fine.features(shifted)).detach()
        gradient = found[:3] - found[3:]
        torch.testing.assert_close(normals[i].double(), -gradient / gradient.norm(), rtol=0, atol=0.01)


def test_batches_of_cameras_and_16_bits() -> None:
    field = make_field(GRID)
    views = Cameras.stack([camera(6), camera(6, 2.5)])
    drawn = field.render(views, ("rgb", "depth"))
    assert drawn["rgb"].shape == (2, 6, 6, 3)
    torch.testing.assert_close(drawn["rgb"][1], field.render(views[1])["rgb"])
    half = make_field(GRID, precision="bf16").render(views, ("rgb",))["rgb"]
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, drawn["rgb"], rtol=0, atol=0.05)


# ---- bad input ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"far": 0.01, "near": 0.5}, "near: rays would begin at 0.5, beyond far = 0.01"),
        ({"rays": 0}, "rays: 0 is too small"),
        ({"coarse_samples": 2}, "coarse_samples and fine_samples"),
        ({"grid_resolution": 30}, "grid_resolution: 30 is not a multiple of 4"),
        ({"learning_rate": 0.0}, "learning_rate: 0.0 is not above 0"),
        ({"precrop_size": 0.0}, "precrop_size"),
        ({"near": -1.0}, "near: -1.0 is negative"),
    ],
)
def test_bad_options(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudioError, match=message):
        make_field(GRID, **changes)


def test_photos_without_alpha_have_no_random_background() -> None:
    with pytest.raises(StudioError, match="random_background: these photos have no alpha channel"):
        make_field(GRID, SceneInfo(has_alpha=False), random_background=True)


def test_unknown_outputs() -> None:
    with pytest.raises(StudioError, match=r"nerf does not render 'shape'\. Outputs: rgb, depth"):
        make_field(GRID).render(camera(), ("shape",))
